"""The learner step that sees only rows, against the one that sees whole observations."""

import numpy as np
import pytest
import torch

from hyperact.trainer.adam import beta1, beta2
from hyperact.trainer.adam_drift import DriftNodes, drift
from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.learner import Learner
from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.positions import from_positions, one_hot_position
from hyperact.trainer.replay import Replay
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.model_pb2 import ModelSpec
from toy_trainer import key
from toys import toy_spec

learning_rate, epsilon = 1e-3, 1.5e-4
config = LearnerConfig(
    network=NetworkConfig(hidden_sizes=(16, 8)), batch_size=8, replay_capacity=1000, target_update_period=3
)
size = 30
blank = size


def make_spec(dtype: type = np.uint8) -> ModelSpec:
    return toy_spec(observation_shape=(5, 6), observation_dtype=dtype)


def one_hot_transition(episode: int, number: int, rng: np.random.Generator) -> NStepTransition:
    positions = np.array([rng.integers(size), blank if number == 4 else rng.integers(size)])
    observations = from_positions(positions, make_spec())
    return NStepTransition(
        key(episode, number),
        observations[0],
        int(rng.integers(2)),
        float(rng.normal()),
        0.0 if number == 4 else 0.9,
        observations[1],
        None,
        b"",
    )


def fill(learner: Learner, *, is_whole: bool) -> Replay:
    """Return a buffer of one-hot observations, kept whole if told to."""
    rng = np.random.default_rng(0)
    replay = learner.make_replay()
    if is_whole:
        learner._prior_table = None
        replay = learner.make_replay()
    replay.add([one_hot_transition(episode, number, rng) for episode in range(20) for number in range(5)])
    assert replay.is_one_hot is not is_whole
    return replay


class TestDrift:
    @pytest.mark.parametrize("age", [1, 2, 7, 60, 1000])
    @pytest.mark.parametrize("step", [1, 3, 30, 3000, 100_000])
    def test_it_is_what_adam_does_to_a_parameter_without_gradients(self, step: int, age: int) -> None:
        """One formula gives the place after any number of steps with zero gradients, to float32's rounding.

        Adam's |m| is at most about 7 sqrt(v), and a step at most 7 learning rates: so far a parameter drifts, and
        its float32 sums over up to 1000 steps round in the seventh digit.
        """
        root = torch.logspace(-7, 1, 50)
        first = 7 * root * torch.linspace(-1, 1, 50)
        nodes = DriftNodes(learning_rate, epsilon)

        expected = adam_without_gradients(first.double(), root.double(), step, age)
        now = drift(first, root, nodes.at(step))
        then = drift(first * beta1**age, root * beta2 ** (age / 2), nodes.at(step + age))

        torch.testing.assert_close(expected.float(), then - now, atol=1e-6 if step < 3 else 3e-8, rtol=1e-5)


def adam_without_gradients(first: torch.Tensor, root: torch.Tensor, step: int, num_steps: int) -> torch.Tensor:
    """Return how far dense Adam moves parameters, step by step in double precision."""
    moved = torch.zeros_like(first)
    second = root**2
    for number in range(step + 1, step + num_steps + 1):
        first, second = beta1 * first, beta2 * second
        moved -= learning_rate * (first / (1 - beta1**number)) / ((second / (1 - beta2**number)).sqrt() + epsilon)
    return moved


class TestOneHotStep:
    @pytest.mark.parametrize("name", ["hyperagent", "hyperagent_sampled", "hyperdqn", "ddqn"])
    def test_it_learns_what_the_dense_step_learns(self, name: str) -> None:
        """After 100 updates on the same transitions all parameters agree to rounding, rows that rested included."""
        learners = [Learner(variant_spec(name, make_spec()), variant_config(name, config), 0) for _ in range(2)]
        replays = [fill(learner, is_whole=is_whole) for learner, is_whole in zip(learners, (True, False), strict=True)]

        for _ in range(100):
            for learner, replay in zip(learners, replays, strict=True):
                learner.update(replay)

        assert [False, True] == [learner._step.is_one_hot for learner in learners]
        dense, rows = (learner.hypermodel.state_dict() for learner in learners)
        for parameter in dense:
            torch.testing.assert_close(dense[parameter], rows[parameter], atol=2e-5, rtol=1e-4)
        dense_target, row_target = (learner._step.get_state(learner._clock()).target for learner in learners)
        for parameter in dense_target:
            torch.testing.assert_close(dense_target[parameter], row_target[parameter], atol=2e-5, rtol=1e-4)

    def test_its_state_comes_back_bit_for_bit(self) -> None:
        """A restored learner goes on with the same rows, at rest or not."""
        learner = Learner(make_spec(), config, 0)
        replay = fill(learner, is_whole=False)
        for _ in range(50):
            learner.update(replay)
        restored = Learner(make_spec(), config, 99)
        restored.set_state(learner.get_state())
        other_replay = fill(restored, is_whole=False)

        for _ in range(50):
            learner.update(replay)
            restored.update(other_replay)

        expected, actual = learner.get_state(), restored.get_state()
        for name, value in expected.items():
            np.testing.assert_array_equal(value, actual[name], name)

    def test_looking_changes_nothing(self) -> None:
        """Exporting or saving between updates leaves what is learned as it was, bit for bit."""
        looked_at, alone = (Learner(make_spec(), config, 0) for _ in range(2))
        replays = [fill(learner, is_whole=False) for learner in (looked_at, alone)]
        for _ in range(10):
            looked_at.hypermodel(torch.zeros(1, 5, 6))
            looked_at.get_state()
            looked_at.update(replays[0])
            alone.update(replays[1])

        np.testing.assert_array_equal(alone.get_state()["rows/limits"], looked_at.get_state()["rows/limits"])

    def test_one_observation_is_answered_like_many(self) -> None:
        """The agent's short way gives the module's coefficients, blank observations included."""
        learner = Learner(make_spec(), config, 0)
        replay = fill(learner, is_whole=False)
        for _ in range(20):
            learner.update(replay)
        observations = from_positions(np.arange(size + 1), make_spec())

        alone = np.concatenate([learner.coefficients(observations[n : n + 1]) for n in range(size + 1)])

        np.testing.assert_allclose(alone, learner.coefficients(observations), atol=1e-5)

    def test_an_observation_that_is_not_one_hot_ends_it(self) -> None:
        """Learning goes on with whole observations where it stood: nothing is lost and nothing jumps."""
        learner, dense = (Learner(make_spec(), config, 0) for _ in range(2))
        replays = [fill(learner, is_whole=False), fill(dense, is_whole=True)]
        for number in range(60):
            for each, replay in zip((learner, dense), replays, strict=True):
                if number == 30:
                    replay.add([full_transition()])
                each.update(replay)

        assert not learner._step.is_one_hot
        for name, value in dense.hypermodel.state_dict().items():
            torch.testing.assert_close(value, learner.hypermodel.state_dict()[name], atol=2e-5, rtol=1e-4)


def full_transition() -> NStepTransition:
    step = one_hot_transition(99, 4, np.random.default_rng(1))
    ones = np.ones((5, 6), np.uint8)
    return NStepTransition(step.key, ones, step.action, step.reward, step.discount, ones, None, b"")


class TestPositions:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
    def test_positions_and_observations_name_each_other(self, dtype: type) -> None:
        """Every place, and the blank one."""
        observations = from_positions(np.arange(size + 1), make_spec(dtype))

        assert list(range(size + 1)) == [one_hot_position(observation) for observation in observations]
        assert (31, 5, 6) == observations.shape

    @pytest.mark.parametrize("odd", [[0, 2, 0], [1, 0, 1], [0, -1, 0], [0, 0.5, 0]])
    def test_others_have_no_position(self, odd: list[float]) -> None:
        """Two ones, or something that is not a one."""
        assert one_hot_position(np.array(odd)) is None
