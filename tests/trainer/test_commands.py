import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from google.protobuf import json_format
from mlflow import MlflowClient
from pydantic import ValidationError

from hyperact.trainer.checkpoints import Checkpoints
from hyperact.trainer.commands import init, train
from hyperact.trainer.settings import InitSettings, RetrainSettings, TrainSettings
from hyperact.trainer.tracking import Tracking
from hyperact.v1.deployments import read_ledger
from hyperact.v1.model_pb2 import ActingRule, Manifest
from toys import make_registry, toy_spec


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    make_registry(tmp_path)
    return tmp_path


def serving_manifest(data_dir: Path) -> Manifest:
    serving = Tracking("", data_dir, "default", "champion").serving()
    assert serving is not None
    return serving.manifest


def promoter(data_dir: Path) -> str:
    """Return who made the last entry of the ledger."""
    tags = MlflowClient(f"sqlite:///{data_dir}/mlflow.db").get_registered_model("default").tags
    return read_ledger(tags)[-1].actor


class TestInit:
    def test_an_untrained_version_is_put_into_service(self, data_dir: Path) -> None:
        """The prior alone is a policy that explores, before anything was learned."""
        code = init(InitSettings(data_dir=data_dir, env="CartPole-v1", promote=True))

        manifest = serving_manifest(data_dir)
        assert 0 == code
        assert "hyperact init" == promoter(data_dir)
        assert (0, "CartPole-v1", [4]) == (
            manifest.num_learner_steps,
            manifest.environment,
            list(manifest.spec.observation.shape),
        )

    def test_without_promotion_nothing_changes_for_anybody(self, data_dir: Path) -> None:
        """It is registered, and somebody decides later."""
        init(InitSettings(data_dir=data_dir, env="CartPole-v1"))

        tracking = Tracking("", data_dir, "default", "champion")
        assert ("1", "") == (tracking.newest_version(), tracking.serving_version())

    def test_a_spec_stands_in_for_an_environment(self, data_dir: Path) -> None:
        """Agents that no Gymnasium environment stands for have a spec all the same."""
        path = data_dir / "spec.json"
        path.write_text(json_format.MessageToJson(toy_spec(num_actions=7)))

        init(InitSettings(data_dir=data_dir, spec=str(path), promote=True))

        assert toy_spec(num_actions=7) == serving_manifest(data_dir).spec

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "--env"),
            ({"env": "NoSuchThing-v0"}, "NoSuchThing-v0"),
            ({"spec": "no-such-file.json"}, "no-such-file.json"),
        ],
    )
    def test_what_is_wrong_is_said_in_a_line(
        self, data_dir: Path, settings: Any, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit code 1, a message that names it, and no traceback."""
        code = init(InitSettings(data_dir=data_dir, **settings))

        told = capsys.readouterr().err
        assert 1 == code
        assert message in told
        assert "Traceback" not in told

    def test_a_model_that_learns_already_is_not_begun_again(
        self, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What was learned is not lost by a repeated command."""
        init(InitSettings(data_dir=data_dir, env="CartPole-v1"))

        code = init(InitSettings(data_dir=data_dir, env="CartPole-v1"))

        assert 1 == code
        assert "has a learner already" in capsys.readouterr().err


class TestTrain:
    def test_the_result_is_a_version(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A few steps of a small DeepSea, registered and promoted, with a table at the end."""
        settings = TrainSettings(data_dir=data_dir, size=3, num_steps=1200, evaluation_period=300, promote=True)

        code = train(settings)

        assert 0 == code
        assert 0 < serving_manifest(data_dir).num_learner_steps < 1200
        assert "hyperact train" == promoter(data_dir)
        assert "solved" in capsys.readouterr().out

    def test_nothing_is_registered_unless_wanted(self, data_dir: Path) -> None:
        """An experiment leaves the registry alone."""
        train(TrainSettings(data_dir=data_dir, size=3, num_steps=200, register=False))

        assert "" == Tracking("", data_dir, "default", "champion").newest_version()

    @pytest.mark.parametrize(
        ("variant", "index_dim", "rule"),
        [
            ("fast", 4, ActingRule(num_indices=16)),
            ("hyperagent_ois", 4, ActingRule(num_indices=5, quantile=0.8)),
            ("ensemble_plus_16", 16, ActingRule()),
            ("ddqn", 0, ActingRule(epsilon=0.05)),
        ],
    )
    def test_a_variant_is_learned_and_registered_by_name(
        self, data_dir: Path, variant: str, index_dim: int, rule: ActingRule
    ) -> None:
        """The version says with which index it is to be served, and how it acts."""
        quick = {"network": {"hidden_sizes": [8]}, "batch_size": 8}

        code = train(
            TrainSettings(data_dir=data_dir, size=3, num_steps=200, variant=variant, learner=quick, promote=True)
        )

        manifest = serving_manifest(data_dir)
        assert 0 == code
        assert index_dim == manifest.spec.index_dim
        assert rule == manifest.spec.acting_rule

    def test_retraining_goes_on_with_the_variant_that_was_begun(self, data_dir: Path) -> None:
        """Nobody has to name it again."""
        init(InitSettings(data_dir=data_dir, env="CartPole-v1", variant="hyperagent_ois"))

        found = Checkpoints(data_dir, "default").load()

        assert found is not None
        assert ("hyperagent_ois", 5) == (found[0].config.variant, found[0].config.optimism.num_indices)


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"env": "A-v0", "spec": "b.json"}, "one of the two"),
            ({"default_reward": 0.0}, "reward_window_seconds"),
            ({"min_evaluation_return": 0.0}, "needs env"),
            ({"min_new_step": 3}, "min_new_step"),
            ({"variant": "rainbow"}, "one of hyperagent, .* got 'rainbow'"),
            ({"learner": {"batchsize": 3}}, "batchsize: Extra inputs are not permitted"),
            ({"learner": {"network": {"torso": "cnn"}}}, r"network\.torso: Input should be 'mlp', 'atari'"),
        ],
    )
    def test_settings_that_contradict_each_other_are_refused(self, values: dict[str, Any], message: str) -> None:
        """Before anything starts."""
        with pytest.raises(ValidationError, match=message):
            RetrainSettings(**values)

    @pytest.mark.parametrize("settings", [InitSettings, TrainSettings, RetrainSettings])
    def test_every_setting_is_described(self, settings: Any) -> None:
        """The help of every flag is its description."""
        assert all(field.description for field in settings.model_fields.values())
        json.dumps(settings.model_json_schema())
