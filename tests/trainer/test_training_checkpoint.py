"""A training run that is interrupted and goes on."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from hyperact.trainer.commands import train as train_command
from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import make_environment, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.settings import TrainSettings
from hyperact.trainer.train import Progress, train
from hyperact.trainer.training_checkpoint import TrainingCheckpoint
from toy_trainer import learner_with_replay

quick = LearnerConfig(network=NetworkConfig(hidden_sizes=(8,)), batch_size=8, min_replay_size=10, replay_capacity=500)


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class TestTrainingCheckpoint:
    def test_a_learner_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        """With its replay buffer restored too, another learner makes the updates that the first would have made."""
        first, first_replay = learner_with_replay(seed=0)
        second, _ = learner_with_replay(seed=1)
        second_replay = second.make_replay()
        for _ in range(5):
            first.update(first_replay)

        checkpoint = TrainingCheckpoint(tmp_path / "run")
        checkpoint.save(first, first_replay, {"num_steps": 5, "curve": [[1, [2.5]]]})
        facts = checkpoint.load(second, second_replay)
        for learner, replay in ((first, first_replay), (second, second_replay)):
            for _ in range(5):
                learner.update(replay)

        assert {"num_steps": 5, "curve": [[1, [2.5]]]} == facts
        for name, value in first.get_state().items():
            np.testing.assert_array_equal(value, second.get_state()[name], name)

    def test_without_a_file_there_is_nothing_to_go_on_from(self, tmp_path: Path) -> None:
        """A run then begins anew."""
        learner, replay = learner_with_replay()

        assert TrainingCheckpoint(tmp_path / "none").load(learner, replay) is None

    def test_a_run_goes_on_counting(self) -> None:
        """Steps and episodes go on from where the run stood, learning goes on at once, and step ids do not repeat."""
        environment = make_environment("hyperact/DeepSea-v0", {"size": 4})
        learner = Learner(spec_of(environment), quick, 0)
        replay = learner.make_replay()
        steps = train(environment, learner, replay, Curves(), "toy", 0)
        for _ in range(22):
            stopped = next(steps)
        num_learner_steps, num_added = learner.num_learner_steps, replay.num_added

        going_on = train(environment, learner, replay, Curves(), "toy", 0, stopped)
        after = [next(going_on) for _ in range(4)]

        assert Progress(22, 5, None) == stopped
        assert [(23, 5), (24, 5), (25, 5), (26, 6)] == [(step.num_steps, step.num_episodes) for step in after]
        assert (num_learner_steps + 4, num_added + 4) == (learner.num_learner_steps, replay.num_added)


class TestTrainCommand:
    def test_a_killed_run_goes_on(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """It plays what was left, ends as if nothing had been, and leaves no checkpoint; another run's is refused."""
        checkpoint = TrainingCheckpoint(tmp_path / "run")
        _kill_once_saved(tmp_path)
        facts = checkpoint.facts()
        assert facts is not None

        refused = train_command(_settings(tmp_path, seed=1))
        going_on = train_command(_settings(tmp_path, num_steps=facts["num_steps"] + 30))

        shown = capsys.readouterr()
        assert (1, 0) == (refused, going_on)
        assert "is of a run with other settings" in shown.err
        assert str(facts["num_steps"] + 30) in shown.out
        assert checkpoint.facts() is None


def _settings(directory: Path, **changes: Any) -> TrainSettings:
    values = {
        "size": 12,
        "num_steps": 1_000_000,
        "evaluation_period": 1_000_000,
        "checkpoint": directory / "run",
        "checkpoint_period": 20,
        "register": False,
        "learner": {"min_replay_size": 10, "batch_size": 4, "network": {"hidden_sizes": [4]}},
    }
    return TrainSettings.model_validate(values | changes)


def _kill_once_saved(directory: Path) -> None:
    program = (
        "import sys; from hyperact.trainer.commands import train; from hyperact.trainer.settings import TrainSettings; "
        "sys.exit(train(TrainSettings.model_validate_json(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, _settings(directory).model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not (directory / "run").exists():
                assert process.poll() is None
                time.sleep(0.05)
        finally:
            process.kill()
