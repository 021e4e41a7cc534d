"""The estimate that the gates use."""

import numpy as np
import pytest

from hyperact.trainer.off_policy import estimators
from hyperact.trainer.off_policy.trajectories import Trajectories
from hyperact.v1.off_policy import effective_size, estimate


def plain(weights: np.ndarray) -> np.ndarray:
    """Return weights [N] as those over a bank that holds every index."""
    return weights[:, np.newaxis]


class TestEstimate:
    def test_it_is_the_self_normalised_one(self) -> None:
        """The value and its error over episodes are those of the estimator of that name."""
        random = np.random.default_rng(0)
        returns, weights = random.normal(size=400), random.lognormal(sigma=0.5, size=400)
        steps = Trajectories(np.ones(400, np.int64), returns)

        found = estimate(returns, plain(weights))

        expected = estimators.self_normalised(steps, weights)
        assert pytest.approx(expected.value) == found.value.value
        half = found.value.high - found.value.value
        assert pytest.approx(1.96 * expected.standard_error, rel=0.01) == half

    def test_intervals_hold_the_truth_as_often_as_they_say(self) -> None:
        """A two-armed bandit, logged evenly, judged for a policy that takes the better arm nine times in ten."""
        random = np.random.default_rng(1)
        num_covered = 0
        for _ in range(200):
            arms = random.integers(2, size=300)
            returns = arms + random.normal(size=300)
            found = estimate(returns, plain(np.where(arms == 1, 1.8, 0.2)))
            num_covered += found.value.low <= 0.9 <= found.value.high

        # 190 of 200 with a standard deviation of 3.1: four of them down.
        assert num_covered >= 177

    def test_the_gain_of_what_was_logged_is_nothing(self) -> None:
        """Weights of one: no gain, and every episode counts."""
        found = estimate(np.arange(50.0), plain(np.ones(50)))

        assert 0.0 == found.gain.value
        assert 50.0 == found.effective_size
        assert not found.refusals

    @pytest.mark.parametrize(
        ("weights", "reason"),
        [
            (np.ones(10), "10 episodes, at least 30 are needed"),
            (np.array([300.0] + [0.0] * 299), "300 episodes are worth 1.0"),
            (np.full(300, 0.5), "the mean weight is 0.500 and not 1"),
            (np.zeros(300), "worth 0.0"),
        ],
    )
    def test_too_thin_a_log_is_told(self, weights: np.ndarray, reason: str) -> None:
        """With the reason, and without an error."""
        found = estimate(np.linspace(0.0, 1.0, len(weights)), plain(weights))

        assert reason in "; ".join(found.refusals)

    def test_the_banks_luck_widens_the_interval(self) -> None:
        """Values that change when a part of the bank is left out are known less well."""
        random = np.random.default_rng(2)
        returns = random.normal(size=200)
        without = plain(np.ones(200))
        with_groups = np.concatenate([without, 1.0 + 0.3 * random.normal(size=(200, 16))], axis=1)

        sure, unsure = estimate(returns, without), estimate(returns, with_groups)

        assert unsure.value.high - unsure.value.low > sure.value.high - sure.value.low


def test_no_weight_is_worth_nothing() -> None:
    """And does not divide by zero."""
    assert 0.0 == effective_size(np.zeros(3))
