import numpy as np
import pytest

from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.observations import Observations
from hyperact.trainer.replay import Replay
from hyperact.v1.indices import Float32s, derive_perturbation
from toy_trainer import key, n_step_transition
from toys import toy_spec


class CountingPrior:
    """A prior whose mean of action a is the observation's first number + a, and that counts what it was asked."""

    def __init__(self) -> None:
        self.num_observations = 0

    def __call__(self, observations: Observations) -> Float32s:  # noqa: D102 -- the class says it
        self.num_observations += len(observations)
        answer = np.zeros((len(observations), 2, 5), np.float32)
        answer[:, :, 0] = observations[:, :1] + np.arange(2)
        return answer


def make_replay(capacity: int = 100) -> tuple[Replay, CountingPrior]:
    prior = CountingPrior()
    return Replay(toy_spec(), capacity, prior), prior


class TestReplay:
    @pytest.mark.parametrize("discount", [0.9, 0.0])
    def test_what_goes_in_comes_out(self, discount: float) -> None:
        """Every field of a transition is drawn as it was stored, with its perturbation and the prior's answers."""
        replay, _ = make_replay()
        replay.add([n_step_transition(7, discount=discount)])

        batch = replay.sample(np.random.default_rng(0), 3)

        np.testing.assert_array_equal(np.full((3, 3), 7.0), batch.observations_tm1)
        np.testing.assert_array_equal([1, 1, 1], batch.actions_tm1)
        np.testing.assert_allclose([0.7] * 3, batch.rewards_t, rtol=1e-6)
        np.testing.assert_allclose([discount] * 3, batch.discounts_t)
        np.testing.assert_array_equal([derive_perturbation(key(number=7), 4)] * 3, batch.perturbations_tm1)
        np.testing.assert_array_equal([[7.0, 8.0]] * 3, batch.prior_tm1[:, :, 0])
        if discount:
            np.testing.assert_array_equal(np.full((3, 3), 8.0), batch.observations_t)
            np.testing.assert_array_equal([[8.0, 9.0]] * 3, batch.prior_t[:, :, 0])

    def test_the_perturbation_is_fixed_when_the_transition_is_written(self) -> None:
        """Drawing twice gives the same perturbation: learning regresses on it."""
        replay, _ = make_replay()
        replay.add([n_step_transition(number) for number in range(10)])

        first, second = (replay.sample(np.random.default_rng(3), 20).perturbations_tm1 for _ in range(2))

        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(np.ones(20), np.linalg.norm(first, axis=1), rtol=1e-6)

    def test_consecutive_transitions_share_observations(self) -> None:
        """An episode of ten transitions has eleven observations: the prior is asked about each once."""
        replay, prior = make_replay()

        replay.add([n_step_transition(number) for number in range(10)])

        assert 11 == prior.num_observations

    def test_sharing_goes_on_over_calls(self) -> None:
        """A step that is added alone finds the observation that its predecessor brought."""
        replay, prior = make_replay()

        for number in range(10):
            replay.add([n_step_transition(number)])

        assert 11 == prior.num_observations

    @pytest.mark.parametrize("capacity", [1, 7, 300])
    def test_the_oldest_leave_first(self, capacity: int) -> None:
        """Beyond the capacity exactly the newest are drawn, each with its own observations."""
        replay, _ = make_replay(capacity)
        replay.add([n_step_transition(number) for number in range(1000)])

        batch = replay.sample(np.random.default_rng(0), 2000)

        assert capacity == len(replay)
        assert {float(number) for number in range(1000 - capacity, 1000)} >= set(batch.observations_tm1[:, 0])
        np.testing.assert_array_equal(batch.observations_tm1 + 1, batch.observations_t)
        np.testing.assert_array_equal(
            batch.observations_tm1[:, 0], batch.prior_tm1[:, 0, 0], "prior and observation disagree"
        )

    def test_unshared_observations_never_outlive_their_ring(self) -> None:
        """Transitions of single-step truncated episodes store two observations each; what is drawn is still whole."""
        replay, _ = make_replay(50)
        replay.add([_alone(number) for number in range(2000)])

        batch = replay.sample(np.random.default_rng(0), 500)

        assert 0 < len(replay) <= 50
        np.testing.assert_array_equal(batch.observations_tm1 + 1, batch.observations_t)

    def test_masks_become_allowed_actions(self) -> None:
        """An empty mask allows everything."""
        replay, _ = make_replay()
        replay.add([n_step_transition(0, mask=b"\x00\x01")])

        assert [[False, True]] == replay.sample(np.random.default_rng(0), 1).is_allowed_t.tolist()

    def test_recent_observations_are_the_newest(self) -> None:
        """The gates look at what was seen lately."""
        replay, _ = make_replay(5)
        replay.add([n_step_transition(number) for number in range(10)])

        assert [7.0, 8.0, 9.0] == replay.recent_observations(3)[:, 0].tolist()
        assert 5 == len(replay.recent_observations(100))


def _alone(number: int) -> NStepTransition:
    step = n_step_transition(0, episode=number)
    return NStepTransition(
        step.key, step.observation, step.action, step.reward, step.discount, step.next_observation, None, b""
    )
