"""The batch job against a real LogService and a real MLflow store."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

from hyperact.trainer import jobs
from hyperact.trainer.checkpoints import Checkpoints, TrainerState
from hyperact.trainer.export import OnnxGraph
from hyperact.trainer.learner import State
from hyperact.trainer.settings import InitSettings, RetrainSettings
from hyperact.trainer.tracking import Tracking
from hyperact.v1.decision_pb2 import Outcome, Report, Step
from hyperact.v1.deployments import CHAMPION, new_entry, read_ledger, to_tag
from hyperact.v1.model_pb2 import AgentKind
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import to_tensor
from toy_log_service import DeepSeaPlayer, ToyLog, served
from toy_trainer import start_retrain
from toys import make_registry

deep_sea = {
    "env": "hyperact/DeepSea-v0",
    "env_kwargs": {"size": 4},
    "learner": {"network": {"hidden_sizes": [8]}},
    "batch_size": 16,
}


@pytest.fixture
def log() -> ToyLog:
    return ToyLog()


@pytest.fixture
def address(log: ToyLog) -> Iterator[str]:
    with served(log) as address:
        yield address


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    make_registry(tmp_path)
    return tmp_path


def settings(address: str, data_dir: Path, **changes: Any) -> RetrainSettings:
    values = {"address": address, "data_dir": data_dir, "poll_seconds": 0.02, "min_new_steps": 40, "max_versions": 1}
    return RetrainSettings.model_validate(values | deep_sea | changes)


def run(address: str, data_dir: Path, **changes: Any) -> None:
    """Run the job until it has made its versions."""
    jobs.retrain(settings(address, data_dir, **changes), threading.Event())


def checkpoint(data_dir: Path) -> tuple[TrainerState, State]:
    loaded = Checkpoints(data_dir, "default").load()
    assert loaded is not None
    return loaded


def wait_for(data_dir: Path, is_so: Callable[[TrainerState], bool]) -> None:
    """Wait until a trainer's checkpoint says something; the test's own timeout bounds it."""
    while True:
        loaded = Checkpoints(data_dir, "default").load()
        if loaded is not None and is_so(loaded[0]):
            return
        time.sleep(0.02)


def client(data_dir: Path) -> MlflowClient:
    uri = f"sqlite:///{data_dir / 'mlflow.db'}"
    return MlflowClient(uri, uri)


def num_versions(data_dir: Path) -> int:
    return len(client(data_dir).search_model_versions("name = 'default'"))


class TestRetrain:
    def test_steps_become_a_version_in_service(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """Forty steps by the fallback, and the alias stands at a version that learned from them."""
        DeepSeaPlayer(log, size=4).play(10)

        run(address, data_dir, replay_ratio=2)

        serving = Tracking("", data_dir, "default", "champion").serving()
        assert serving is not None
        (entry,) = read_ledger(client(data_dir).get_registered_model("default").tags)
        assert ("1", "1", 40) == (serving.version, entry.to_version, entry.num_transitions)
        assert 80 == serving.manifest.num_learner_steps
        assert 51 == serving.manifest.dataset[0].end_offset
        assert (2, 2, 5) == OnnxGraph(serving.graph).coefficients(np.zeros((2, 4, 4), np.uint8)).shape

    def test_each_deployment_gets_the_return_of_its_episodes(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """The ledger tells mean return and episodes of what a version played; evaluation episodes do not count."""
        player = DeepSeaPlayer(log, size=4)
        player.play(10)
        run(address, data_dir)
        returns = player.play(10, version="1", deployment=1)
        player.play(5, version="1", deployment=1, evaluation=True)

        run(address, data_dir)

        first, second = read_ledger(client(data_dir).get_registered_model("default").tags)
        assert 10 == first.num_episodes
        assert pytest.approx(np.mean(returns)) == first.mean_return
        assert ("2", "1", 40) == (second.to_version, second.from_version, second.num_transitions)
        run_id = checkpoint(data_dir)[0].run_id
        curve = Tracking("", data_dir, "default", "champion").curve(run_id, "mean_return_by_deployment")
        assert 1 in dict(curve)

    def test_a_schedule_says_when_versions_are_made(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """Early ones soon: at twelve, at forty and, after the last of the schedule, every hundred steps."""
        player = DeepSeaPlayer(log, size=4)
        for num_episodes, num_steps in ((3, 12), (7, 40), (25, 140)):
            player.play(num_episodes)
            run(address, data_dir, schedule=[12, 40], min_new_steps=100)
            assert num_steps == checkpoint(data_dir)[0].num_training_steps

        assert 3 == num_versions(data_dir)

    @pytest.mark.parametrize("schedule", [[0, 10], [10, 10], [20, 10]])
    def test_a_schedule_ascends(self, address: str, data_dir: Path, schedule: list[int]) -> None:
        """Anything else is a slip, and said before anything is done."""
        with pytest.raises(ValidationError, match="ascending"):
            settings(address, data_dir, schedule=schedule)

    def test_without_promotion_versions_are_only_registered(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """Somebody else decides."""
        DeepSeaPlayer(log, size=4).play(10)

        run(address, data_dir, promote=False)

        model = client(data_dir).get_registered_model("default")
        assert not model.aliases
        assert 1 == num_versions(data_dir)

    def test_a_version_that_the_gates_hold_back_says_why(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """It stays registered with the reason as its tag, and what serves goes on serving."""
        player = DeepSeaPlayer(log, size=4)
        player.play(10)
        run(address, data_dir)
        player.play(10)

        run(address, data_dir, max_divergence=0.0, max_action_flip_rate=0.0)

        assert "1" == Tracking("", data_dir, "default", "champion").serving_version()
        assert client(data_dir).get_model_version("default", "2").tags["hyperact.gate"].startswith("held: action flip")

    def test_the_report_is_a_table_and_a_picture_of_the_run(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """Beside the curves, under the version's number; the verdict is the version's tag."""
        DeepSeaPlayer(log, size=4).play(10)

        run(address, data_dir)

        run_id = checkpoint(data_dir)[0].run_id
        files = {file.path for file in client(data_dir).list_artifacts(run_id, "gates")}
        assert {"gates/version-1.md", "gates/version-1.png"} == files
        assert client(data_dir).get_model_version("default", "1").tags["hyperact.gate"].startswith("passed")

    def test_nothing_is_promoted_while_the_kill_switch_stands(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """A person threw it; what is learned meanwhile is registered and waits."""
        player = DeepSeaPlayer(log, size=4)
        player.play(10)
        run(address, data_dir)
        ledger = read_ledger(client(data_dir).get_registered_model("default").tags)
        thrown = new_entry(ledger, "", "ann", datetime.now(UTC), CHAMPION)
        thrown.is_immediate = True
        client(data_dir).delete_registered_model_alias("default", "champion")
        client(data_dir).set_registered_model_tag("default", *to_tag(thrown))
        player.play(10)

        run(address, data_dir)

        assert 2 == num_versions(data_dir)
        assert "" == Tracking("", data_dir, "default", "champion").serving_version()

    def test_a_candidate_is_measured_in_its_environment_if_asked(
        self, log: ToyLog, address: str, data_dir: Path
    ) -> None:
        """No policy returns 2 in DeepSea: the candidate is held back."""
        DeepSeaPlayer(log, size=4).play(10)

        run(address, data_dir, min_evaluation_return=2.0, evaluation_episodes=3)

        assert "evaluation return" in client(data_dir).get_model_version("default", "1").tags["hyperact.gate"]
        assert "" == Tracking("", data_dir, "default", "champion").serving_version()

    def test_it_goes_on_with_the_learner_that_init_made(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """The untrained version is the parent of the first one learned, with the same prior."""
        jobs.init(InitSettings.model_validate({"data_dir": data_dir, "promote": True, **_without_batch_size}))
        DeepSeaPlayer(log, size=4).play(10, version="1", deployment=1)

        run(address, data_dir, env="", env_kwargs={})

        serving = Tracking("", data_dir, "default", "champion").serving()
        assert serving is not None
        assert ("2", "1", 160) == (
            serving.version,
            serving.manifest.parent_version,
            serving.manifest.num_learner_steps,
        )

    def test_a_new_run_tells_what_earlier_deployments_returned(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """The curve begins with the deployment that `init` made, before the trainer had a run of its own."""
        jobs.init(InitSettings.model_validate({"data_dir": data_dir, "promote": True, **_without_batch_size}))
        returns = DeepSeaPlayer(log, size=4).play(10, version="1", deployment=1)

        run(address, data_dir, env="", env_kwargs={})

        run_id = checkpoint(data_dir)[0].run_id
        curve = Tracking("", data_dir, "default", "champion").curve(run_id, "mean_return_by_deployment")
        assert pytest.approx({1: np.mean(returns)}) == dict(curve)

    def test_a_lost_learner_begins_anew_from_the_serving_spec(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """With the checkpoint gone, the whole log is learned from again, for the spec of what serves."""
        DeepSeaPlayer(log, size=4).play(10)
        run(address, data_dir)
        Checkpoints(data_dir, "default").path.unlink()

        run(address, data_dir, env="", env_kwargs={})

        serving = Tracking("", data_dir, "default", "champion").serving()
        assert serving is not None
        assert ("2", "1", 160) == (
            serving.version,
            serving.manifest.parent_version,
            serving.manifest.num_learner_steps,
        )

    def test_nothing_to_begin_with_is_said(self, address: str, data_dir: Path) -> None:
        """No version and no environment: the message names the flag."""
        with pytest.raises(jobs.JobError, match="--env"):
            run(address, data_dir, env="", env_kwargs={})

    def test_another_log_is_not_taken_for_the_one_learned_from(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """A log that ends before the checkpoint is refused instead of being learned from twice."""
        DeepSeaPlayer(log, size=4).play(10)
        run(address, data_dir)
        log.partitions.clear()
        DeepSeaPlayer(log, size=4).play(2)

        with pytest.raises(jobs.JobError, match="another log"):
            run(address, data_dir)

    def test_a_service_that_is_away_is_waited_for(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """The job starts before the service is up, and learns when it is."""
        DeepSeaPlayer(log, size=4).play(10)
        log.is_away = True
        comes_back = threading.Timer(1.0, lambda: setattr(log, "is_away", False))
        comes_back.start()

        run(address, data_dir)

        comes_back.join()
        assert 1 == num_versions(data_dir)

    def test_one_shot_steps_are_learned_from_when_their_rewards_are_in(
        self, log: ToyLog, address: str, data_dir: Path
    ) -> None:
        """A contextual bandit whose rewards come by report, each step an episode of its own."""
        for number in range(50):
            log.append(_bandit_step(number))
            log.append(_bandit_report(number))

        run(address, data_dir, agent_kind="one-shot", reward_window_seconds=10.0)

        serving = Tracking("", data_dir, "default", "champion").serving()
        assert serving is not None
        assert AgentKind.AGENT_KIND_ONE_SHOT == serving.manifest.spec.agent_kind
        assert 8 * 50 == serving.manifest.num_learner_steps

    def test_continuing_agents_are_learned_from_without_an_end(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """Sixty steps of one endless episode: all but the last, whose outcome is not known yet, are transitions."""
        for number in range(60):
            log.append(_endless_step(number))

        run(address, data_dir, agent_kind="continuing")

        serving = Tracking("", data_dir, "default", "champion").serving()
        assert serving is not None
        assert 4 * 59 == serving.manifest.num_learner_steps


class TestDeath:
    slow: ClassVar[dict[str, Any]] = {"min_new_steps": 40, "replay_ratio": 60.0, "max_versions": 2, **deep_sea}

    def test_a_killed_trainer_goes_on_bit_for_bit(
        self, log: ToyLog, address: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Killed while it learns its second version and started again, it ends where one that lived on ends."""
        undisturbed = tmp_path_factory.mktemp("undisturbed")
        make_registry(undisturbed)
        player = DeepSeaPlayer(log, size=4)
        player.play(10)
        trainers = [start_retrain(address, directory, **self.slow) for directory in (undisturbed, data_dir)]
        for directory in (undisturbed, data_dir):
            wait_for(directory, lambda state: state.parent_version == "1")
        player.play(10, version="1", deployment=1)
        wait_for(data_dir, lambda state: len(state.rounds) == 2)

        trainers[1].kill()
        trainers[1].wait()
        assert 1 == num_versions(data_dir)
        trainers[1] = start_retrain(address, data_dir, **self.slow | {"max_versions": 1})

        assert [0, 0] == [trainer.wait() for trainer in trainers]
        _assert_same_learner(undisturbed, data_dir)
        assert 2 == num_versions(data_dir)

    def test_a_trainer_that_is_asked_to_stop_keeps_what_it_learned(
        self, log: ToyLog, address: str, data_dir: Path
    ) -> None:
        """SIGTERM in the middle of learning: it ends by itself, registers nothing half-learned, and goes on later."""
        DeepSeaPlayer(log, size=4).play(10)
        slow = self.slow | {"replay_ratio": 2000.0, "max_versions": 1}
        trainer = start_retrain(address, data_dir, **slow)
        wait_for(data_dir, lambda state: bool(state.num_updates_due))
        time.sleep(0.5)

        trainer.send_signal(signal.SIGTERM)

        assert 0 == trainer.wait()
        assert 0 == num_versions(data_dir)
        state, arrays = checkpoint(data_dir)
        assert 0 < state.num_updates_due < 80_000
        assert json.loads(arrays["scalars"].tobytes())["num_learner_steps"] == 80_000 - state.num_updates_due

    def test_a_version_registered_before_a_death_is_not_registered_again(
        self, log: ToyLog, address: str, data_dir: Path
    ) -> None:
        """Killed between registering and noting it: the version is found by its candidate's name, and promoted."""
        DeepSeaPlayer(log, size=4).play(10)
        run(address, data_dir, promote=False)
        state, arrays = checkpoint(data_dir)
        state.has_candidate, state.parent_version = True, ""
        Checkpoints(data_dir, "default").save(state, arrays)

        run(address, data_dir)

        assert 1 == num_versions(data_dir)
        assert "1" == Tracking("", data_dir, "default", "champion").serving_version()
        assert "1" == checkpoint(data_dir)[0].parent_version

    def test_a_candidate_that_was_rolled_back_meanwhile_stays_back(
        self, log: ToyLog, address: str, data_dir: Path
    ) -> None:
        """Killed between promoting and noting it, and somebody moved the alias back before it started again."""
        DeepSeaPlayer(log, size=4).play(10)
        run(address, data_dir)
        before = checkpoint(data_dir)
        DeepSeaPlayer(log, size=4, session="later").play(10)
        run(address, data_dir)
        state, arrays = checkpoint(data_dir)
        state.has_candidate, state.parent_version = True, before[0].parent_version
        Checkpoints(data_dir, "default").save(state, arrays)
        client(data_dir).set_registered_model_alias("default", "champion", "1")

        run(address, data_dir)

        assert 2 == num_versions(data_dir)
        assert "1" == Tracking("", data_dir, "default", "champion").serving_version()
        assert "2" == checkpoint(data_dir)[0].parent_version


_without_batch_size = {name: value for name, value in deep_sea.items() if name != "batch_size"}


def _assert_same_learner(one: Path, other: Path) -> None:
    expected, actual = checkpoint(one)[1], checkpoint(other)[1]
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, actual[name], name)


def _bandit_step(number: int) -> Step:
    step = Step(
        step_id=StepKey("default", "visitor", "run", number, 0).to_message(),
        observation=to_tensor(np.eye(4, dtype=np.uint8)),
        action=number % 2,
        propensity=0.5,
    )
    step.time.FromSeconds(1_700_000_000 + number)
    return step


def _bandit_report(number: int) -> Report:
    step = _bandit_step(number)
    return Report(step_id=step.step_id, outcome=Outcome(reward=float(number % 2)), report_id="click", time=step.time)


def _endless_step(number: int) -> Step:
    step = _bandit_step(number)
    step.step_id.episode, step.step_id.number = 0, number
    if number:
        step.previous_outcome.reward = 1.0
        step.previous_position.number = number - 1
    return step


class TestLogThatLostSomething:
    def test_a_partition_that_was_set_aside_is_done_without(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """Damage to the log costs what was in it, and not a person's night: the trainer learns on from what comes."""
        DeepSeaPlayer(log, size=4).play(10)
        run(address, data_dir)
        (damaged,) = log.partitions
        del log.partitions[damaged]
        log.set_aside.append(damaged)
        DeepSeaPlayer(log, size=4, session="later", partition=1).play(10)

        run(address, data_dir)

        state, _ = checkpoint(data_dir)
        assert [40, 40] == [record.num_transitions for record in state.rounds]
        assert 2 == num_versions(data_dir)

    def test_what_retention_took_is_done_without(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """A trainer that starts again reads what is left of its rounds, and then the new one."""
        player = DeepSeaPlayer(log, size=4)
        for _ in range(2):
            player.play(10)
            run(address, data_dir)
        (partition,) = log.partitions
        log.begins[partition] = checkpoint(data_dir)[0].rounds[0].ends[partition] + 3
        player.play(10)

        run(address, data_dir)

        assert [40, 40, 40] == [record.num_transitions for record in checkpoint(data_dir)[0].rounds]

    def test_the_log_keeps_what_a_restart_would_read(self, log: ToyLog, address: str, data_dir: Path) -> None:
        """The trainer is registered under its model's name; its replay buffer still holds everything."""
        DeepSeaPlayer(log, size=4).play(10)

        run(address, data_dir)

        assert {"trainer of default": {}} == log.readers
