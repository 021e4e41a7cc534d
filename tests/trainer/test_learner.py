import numpy as np
import pytest

from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.learner import Learner, State
from hyperact.trainer.n_step import NStepTransition
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE
from hyperact.v1.model_pb2 import ReferenceDistribution
from toy_trainer import learner_with_replay, n_step_transition, small


def assert_equal_states(expected: State, actual: State) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, actual[name], name)


class TestLearner:
    @pytest.mark.parametrize("num_before", [0, 1, 10])
    def test_a_restored_learner_goes_on_bit_for_bit(self, num_before: int) -> None:
        """State out, state in, the same further updates: the same learner, to the last bit."""
        learner, replay = learner_with_replay()
        for _ in range(num_before):
            learner.update(replay)
        restored = Learner(learner.spec, learner.config, seed=99)
        restored.set_state(learner.get_state())
        _, other_replay = learner_with_replay()

        for _ in range(10):
            learner.update(replay)
            restored.update(other_replay)

        assert_equal_states(learner.get_state(), restored.get_state())

    def test_a_state_is_a_copy(self) -> None:
        """What was saved does not change while learning goes on."""
        learner, replay = learner_with_replay()
        learner.update(replay)
        state = learner.get_state()
        kept = {name: value.copy() for name, value in state.items()}

        learner.update(replay)

        assert_equal_states(kept, state)

    def test_the_target_follows_in_periods(self) -> None:
        """The target network stands still between copies and equals the online one right after."""
        learner, replay = learner_with_replay(small.with_overrides({"target_update_period": 3}))
        equal = []
        for _ in range(6):
            learner.update(replay)
            state = learner.get_state()
            name = "head.weight"
            equal.append(np.array_equal(state[f"target/{name}"], state[f"hypermodel/learnable.{name}"]))

        assert [False, False, True, False, False, True] == equal

    @pytest.mark.parametrize("distribution", [GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE])
    def test_it_learns_the_rewards_of_a_bandit(self, distribution: "ReferenceDistribution.ValueType") -> None:
        """Without bootstrap the mean over indices goes to the reward, wherever indices are drawn from."""
        config = small.with_overrides({"learning_rate": 0.01, "network": {"prior_scale": 1.0, "hidden_sizes": (32,)}})
        learner, _ = learner_with_replay(config, reference_distribution=distribution)
        replay = learner.make_replay()
        replay.add([_bandit(number) for number in range(40)])

        first = learner.update(replay).loss
        for _ in range(400):
            last = learner.update(replay).loss

        assert float(last) < 0.05 * float(first)

    def test_loadings_go_to_the_perturbation(self) -> None:
        """The loadings of a transition seen once regress on sigma times its perturbation: the variance that stays."""
        config = LearnerConfig(
            network=small.network, batch_size=8, perturbation_scale=0.5, learning_rate=0.02, replay_capacity=10
        )
        learner, _ = learner_with_replay(config)
        replay = learner.make_replay()
        replay.add([_bandit(1)])
        for _ in range(500):
            learner.update(replay)

        batch = replay.sample(np.random.default_rng(0), 1)
        loadings = learner.coefficients(batch.observations_tm1)[0, batch.actions_tm1[0], 1:]

        np.testing.assert_allclose(loadings, 0.5 * batch.perturbations_tm1[0], atol=0.02)


def _bandit(number: int) -> NStepTransition:
    return n_step_transition(number % 4, discount=0.0)
