"""`hyperact evaluate`: from the log of a service and a registry to a value with its interval."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import structlog
from mlflow import MlflowClient

from hyperact.trainer.commands import evaluate
from hyperact.trainer.evaluate import evaluate_version
from hyperact.trainer.export import OnnxGraph
from hyperact.trainer.ingest import StepSource
from hyperact.trainer.settings import EvaluateSettings
from hyperact.trainer.tracking import Tracking
from toy_log_service import DeepSeaPlayer, ToyLog, served
from toys import make_registry, onnx_file, register, toy_version

size = 4


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Let go of the captured stream that a command logged to."""
    yield
    structlog.reset_defaults()


class Case(NamedTuple):
    """A service's log by the fallback and two versions, and the registry that has them."""

    log: ToyLog
    data_dir: Path
    tracking_uri: str
    truth: float
    truth_error: float


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Play DeepSea by the uniform fallback, by version 1 and a little by version 2, whose value is asked."""
    data_dir = tmp_path_factory.mktemp("evaluate") / "data"
    tracking_uri = make_registry(data_dir)
    graphs = {}
    for seed in (1, 2):
        directory = data_dir.parent / f"version-{seed}"
        manifest = toy_version(directory, observation_shape=(size, size), observation_dtype=np.uint8, seed=seed)
        version = register(tracking_uri, directory)
        graphs[version] = OnnxGraph((directory / onnx_file).read_bytes()).coefficients
    log = ToyLog()
    player = DeepSeaPlayer(log, size=size)
    player.play(500)
    player.play(150, graphs["1"], manifest.spec, "1", 1)
    player.play(50, graphs["2"], manifest.spec, "2", 2)
    returns = DeepSeaPlayer(ToyLog(), size=size, session="truth").play(3000, graphs["2"], manifest.spec, "2", 2)
    return Case(log, data_dir, tracking_uri, float(np.mean(returns)), float(np.std(returns)) / np.sqrt(3000))


def settings(case: Case, address: str = "127.0.0.1:1", version: str = "2", **changes: Any) -> EvaluateSettings:
    """Return the settings of an evaluation of version 2."""
    values = {"version": version, "data_dir": case.data_dir, "tracking_uri": case.tracking_uri, "address": address}
    return EvaluateSettings.model_validate(values | changes)


class TestEvaluate:
    @pytest.mark.parametrize("first_deployment", [0, 2])
    def test_the_true_value_is_within_the_interval(self, case: Case, first_deployment: int) -> None:
        """DeepSea, from what others did and from what it did itself. Four standard errors of both."""
        with served(case.log) as address, grpc.insecure_channel(address) as channel:
            chosen = settings(case, address, first_deployment=first_deployment, min_effective_size=40.0)
            tracking = Tracking(case.tracking_uri, case.data_dir, "default", "")
            found = evaluate_version(StepSource(channel, "default"), tracking, chosen, 2e9)

        assert [] == found.refusals
        assert {} == found.left_out
        assert found.support is not None
        assert (50 if first_deployment else 700) == found.support.num_episodes
        for row in found.rows:
            if row.is_weighted:
                error = np.hypot(row.interval.error, case.truth_error)
                assert abs(row.interval.value - case.truth) < 4 * error + 1e-9, row

    def test_the_command_prints_plots_and_logs(self, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
        """A table, a sentence, a figure, and a run in MLflow if asked for."""
        with served(case.log) as address:
            code = evaluate(settings(case, address, log_run=True, min_effective_size=40.0))

        client = MlflowClient(case.tracking_uri)
        experiment = client.get_experiment_by_name("hyperact/default")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        shown = capsys.readouterr().out
        assert 0 == code
        assert "doubly robust" in shown
        assert "version 2 is worth" in shown
        assert (case.data_dir / "evaluation-2.png").stat().st_size > 0
        assert {"doubly_robust", "doubly_robust_low", "effective_size"} <= set(run.data.metrics)
        assert "2" == run.data.tags["hyperact.version"]

    def test_too_thin_a_log_is_refused(self, case: Case, capsys: pytest.CaptureFixture[str]) -> None:
        """The exit code says so, and the reason stands on one line."""
        with served(case.log) as address:
            code = evaluate(settings(case, address, min_effective_size=10_000.0))

        streams = capsys.readouterr()
        assert 1 == code
        assert "no estimate of version 2: 700 episodes are worth" in streams.err
        assert "is worth" not in streams.out

    @pytest.mark.parametrize(
        ("version", "is_served", "reason"), [("9", True, "version '9' of model 'default'"), ("2", False, "UNAVAILABLE")]
    )
    def test_what_is_not_to_be_had_is_told(
        self, case: Case, capsys: pytest.CaptureFixture[str], version: str, is_served: bool, reason: str
    ) -> None:
        """No such version, or no service."""
        with served(case.log) as address:
            code = evaluate(settings(case, address if is_served else "127.0.0.1:1", version))

        assert 1 == code
        assert reason in capsys.readouterr().err
