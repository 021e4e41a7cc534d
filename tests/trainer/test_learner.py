import numpy as np
import pytest

from hyperact.trainer.config import LearnerConfig, atari
from hyperact.trainer.learner import Learner, State
from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.observations import Observations
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE
from hyperact.v1.model_pb2 import ReferenceDistribution
from toy_trainer import atari_spec, learner_with_replay, n_step_transition, small


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

    def test_a_decay_shrinks_what_nothing_holds(self) -> None:
        """Weights that rewards do not need go towards zero; without a decay they stay."""
        sizes = {}
        for decay in (0.0, 10.0):
            learner, replay = learner_with_replay(small.with_overrides({"weight_decay": decay}))
            before = np.linalg.norm(learner.get_state()["hypermodel/learnable.head.weight"])
            for _ in range(200):
                learner.update(replay)
            sizes[decay] = np.linalg.norm(learner.get_state()["hypermodel/learnable.head.weight"]) / before

        assert sizes[10.0] < 0.5 < sizes[0.0]

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


class TestGradientPenalty:
    def test_it_is_the_squared_gradient_of_the_mean_value(self) -> None:
        """Of a linear model that gradient is the mean observation of each action taken, and its share for the bias."""
        linear = {"network": {"head": "linear", "hidden_sizes": (), "prior_scale": 0.0}, "perturbation_scale": 0.0}
        losses = []
        for weight in (0.0, 0.5):
            config = small.with_overrides({**linear, "gradient_penalty": weight})
            learner, replay = learner_with_replay(config, index_dim=0)
            losses.append(float(learner.update(replay).loss))
        # The batch that a newborn learner of seed 0 draws.
        newborn = Learner(learner.spec, config, 0)
        batch = replay.take(newborn._stream.next()[0])

        expected = 0.0
        for action in range(2):
            taken = batch.observations_tm1[batch.actions_tm1 == action]
            expected += 0.5 * float(((taken.sum(0) / 16) ** 2).sum() + (len(taken) / 16) ** 2)
        assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)

    def test_it_flattens_the_values(self) -> None:
        """Where layers follow each other it has a gradient of its own: it holds the gradient's norm down."""
        norms = []
        for weight in (0.0, 10.0):
            config = small.with_overrides({"gradient_penalty": weight, "learning_rate": 0.01})
            learner, replay = learner_with_replay(config)
            for _ in range(200):
                learner.update(replay)
            norms.append(float(np.linalg.norm(learner.get_state()["hypermodel/learnable.torso.layers.0.weight"])))

        assert norms[1] < 0.8 * norms[0]

    def test_convolutions_can_be_penalised(self) -> None:
        """The second derivative goes through the Atari torso, in the layout in which it learns."""
        config = atari.with_overrides({"gradient_penalty": 0.01, "batch_size": 4, "replay_capacity": 100})
        learner = Learner(atari_spec(), config, 0)
        replay = learner.make_replay()
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (10, 4, 84, 84)).astype(np.uint8)
        replay.add([_of_frames(number, frames) for number in range(9)])

        statistics = learner.update(replay)

        assert np.isfinite(float(statistics.loss))
        assert float(statistics.gradient_norm) > 0


def _of_frames(number: int, frames: Observations) -> NStepTransition:
    step = n_step_transition(number)
    return NStepTransition(
        step.key, frames[number], 0, step.reward, 0.9, frames[number + 1], step.next_number, step.next_action_mask
    )
