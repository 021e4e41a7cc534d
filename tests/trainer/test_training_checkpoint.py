"""A training run that is interrupted and goes on."""

from pathlib import Path

import numpy as np

from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import make_environment, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.train import Progress, train
from hyperact.trainer.training_checkpoint import TrainingCheckpoint
from toy_trainer import learner_with_replay

quick = LearnerConfig(network=NetworkConfig(hidden_sizes=(8,)), batch_size=8, min_replay_size=10, replay_capacity=500)


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
