"""`hyperact promote` judges: real versions, a real registry, a real log."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from hyperact.service.operation_settings import PromoteSettings
from hyperact.service.recent_log import read_recent
from hyperact.service.steering import promote
from hyperact.service.step_log import Durability, StepLog
from hyperact.service.step_sources import RemoteSteps
from hyperact.v1.channels import ConnectionSettings
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.deployments import read_ledger
from toy_candidates import Scene, planted, staged, transitions

region = {"max_divergence": 0.4, "max_action_flip_rate": 0.4, "min_effective_size": 10.0}
nobody = "127.0.0.1:1"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with staged(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(autouse=True)
def the_first_serves(scene: Scene) -> None:
    """Every test begins with the alias where it was."""
    client(scene).set_registered_model_alias("default", "champion", "1")


def client(scene: Scene) -> MlflowClient:
    return MlflowClient(scene.uri, scene.uri)


def settings(scene: Scene, version: str, **changes: Any) -> PromoteSettings:
    values = {"version": version, "data_dir": scene.data_dir, "address": scene.address, "wait_seconds": 0.0}
    return PromoteSettings.model_validate(values | region | changes)


def alias(scene: Scene) -> str:
    return str(client(scene).get_registered_model("default").aliases["champion"])


def last_entry(scene: Scene) -> Deployment:
    return read_ledger(client(scene).get_registered_model("default").tags)[-1]


async def write_log(scene: Scene) -> None:
    """Write the scene's log as a service would have left it in the data directory."""
    directory = scene.data_dir / "log"
    log = StepLog.open(directory, 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=10_000)
    for partition in scene.log.partitions.values():
        await log.append([entry.step if entry.HasField("step") else entry.report for entry in partition])
    await log.close()


class TestPlanted:
    def test_an_honest_candidate_passes(self, scene: Scene) -> None:
        """It learned on from what the serving version played; the ledger has what was measured."""
        version = scene.register()

        assert 0 == promote(settings(scene, version))

        assert version == alias(scene)
        report = last_entry(scene).gate_report
        assert report.startswith("passed: action flip rate")
        assert "effective size" in report

    @pytest.mark.parametrize("kind", planted)
    def test_a_planted_fault_is_held_back(self, scene: Scene, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing moves, and the reasons are told on the version and to whoever asked."""
        version = scene.register(kind)

        assert 1 == promote(settings(scene, version))

        assert "1" == alias(scene)
        assert "is held back" in capsys.readouterr().err
        assert client(scene).get_model_version("default", version).tags["hyperact.gate.promotion"].startswith("held: ")

    def test_what_is_always_judged_needs_no_declared_limit(self, scene: Scene) -> None:
        """Collapsed exploration and NaN are held back by the defaults; an honest candidate passes them."""
        none: dict[str, Any] = {"max_divergence": 1.0, "max_action_flip_rate": 1.0, "min_effective_size": 0.0}

        codes = {
            kind: promote(settings(scene, scene.register(kind, seed=7), **none))
            for kind in ("collapsed exploration", "NaN weights", "")
        }

        assert {"collapsed exploration": 1, "NaN weights": 1, "": 0} == codes

    def test_a_graph_that_is_not_what_its_learner_answered_is_held_back(
        self, scene: Scene, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The golden answers beside the version are asked again: a graph that was swapped is found without any log."""
        version = scene.register("permuted actions", seed=3)
        honest = scene.data_dir / "made" / "serving" / "golden.npz"
        source = client(scene).get_model_version("default", version).source
        assert source is not None
        (Path(source.removeprefix("file://")) / "golden.npz").write_bytes(honest.read_bytes())

        assert 1 == promote(settings(scene, version, address=nobody))

        assert "differ from the learner's" in capsys.readouterr().err


class TestForce:
    def test_an_override_is_in_the_ledger_with_who_and_why(self, scene: Scene) -> None:
        """And with what the gates said."""
        version = scene.register("permuted actions", seed=1)

        assert 0 == promote(settings(scene, version, force=True, reason="the sensor was turned", actor="ann"))

        entry = last_entry(scene)
        assert (version, "ann", True) == (alias(scene), entry.actor, entry.is_forced)
        assert "the sensor was turned" == entry.reason
        assert entry.gate_report.startswith("held: ")

    def test_no_override_without_a_reason(self, scene: Scene) -> None:
        """Who and why are what the ledger is for."""
        with pytest.raises(ValueError, match="needs a reason"):
            settings(scene, "1", force=True, reason="  ")

    def test_forcing_what_passes_is_no_override(self, scene: Scene) -> None:
        """There was nothing to override."""
        version = scene.register(seed=2)

        assert 0 == promote(settings(scene, version, force=True, reason="in a hurry"))

        assert not last_entry(scene).is_forced


class TestWithoutALog:
    def test_a_declared_region_cannot_be_judged(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        """A limit that nobody could measure holds back instead of passing unseen."""
        assert 1 == promote(settings(scene, scene.register(seed=4), address=nobody))

        assert "divergence was not measured (no log" in capsys.readouterr().err

    def test_without_limits_the_rest_is_judged(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        """The table says what was not measured, and why."""
        none: dict[str, Any] = {"max_divergence": 1.0, "max_action_flip_rate": 1.0, "min_effective_size": 0.0}

        assert 0 == promote(settings(scene, scene.register(seed=5), address=nobody, **none))

        assert "no log: there is no step log in" in capsys.readouterr().out

    def test_the_log_in_the_data_directory_does(self, scene: Scene) -> None:
        """No service has to run for a version to be judged on what was logged."""
        asyncio.run(write_log(scene))

        codes = [promote(settings(scene, scene.register(kind, 6), address=nobody)) for kind in ("worse return", "")]

        shutil.rmtree(scene.data_dir / "log")
        assert [1, 0] == codes


class TestEvaluation:
    @pytest.mark.parametrize(("measured", "code"), [("2.5", 0), ("1.5", 1), ("nan", 1), ("", 1)])
    def test_the_trainers_evaluation_counts(self, scene: Scene, measured: str, code: int) -> None:
        """There is no environment where this command runs: what the trainer measured is a tag of the version."""
        version = scene.register(seed=10 + len(measured))
        if measured:
            client(scene).set_model_version_tag("default", version, "hyperact.evaluation_return", measured)

        assert code == promote(settings(scene, version, min_evaluation_return=2.0))


def test_the_newest_of_the_log_is_read(scene: Scene) -> None:
    """Whole episodes, the newest first when there are too many, and what agents saw last."""

    async def read(num_steps: int) -> tuple[int, int, set[str]]:
        source = RemoteSteps(scene.address, ConnectionSettings())
        recent = await read_recent(source, "default", scene.spec, num_steps)
        await source.close()
        return len(recent.observations), len(recent.episodes), {step.version for e in recent.episodes for step in e}

    few, many = asyncio.run(read(50)), asyncio.run(read(10_000))

    assert (512, 10, {"1"}) == few
    assert (512, 600, {"", "1"}) == many
    assert 3000 == len(transitions(scene.log, scene.spec))
