"""When a log says too little."""

import numpy as np
import pytest

from hyperact.trainer.off_policy.intervals import Interval
from hyperact.trainer.off_policy.support import Support, SupportLimits, effective_size, largest_share, refusals


def support(
    num_episodes: int = 1000, effective: float = 400.0, mean: float = 1.0, error: float = 0.02, unexplained: float = 0.0
) -> Support:
    """Return what is known of weights; by default they are good."""
    return Support(num_episodes, effective, Interval(mean, error, 0.0, 0.95), 0.01, unexplained)


class TestSizes:
    @pytest.mark.parametrize(
        ("weights", "size", "share"),
        [([1, 1, 1, 1], 4, 0.25), ([2, 0, 0, 0], 1, 1), ([3, 1], 1.6, 0.75), ([0, 0], 0, 1)],
    )
    def test_weights_are_worth_as_many_equal_ones(self, weights: list[float], size: float, share: float) -> None:
        """Kish's effective size, and the share of the heaviest."""
        assert size == pytest.approx(effective_size(np.array(weights, np.float64)))
        assert share == pytest.approx(largest_share(np.array(weights, np.float64)))


class TestRefusals:
    def test_good_weights_pass(self) -> None:
        """Nothing to say against a thousand episodes worth four hundred."""
        assert [] == refusals(support(), SupportLimits())

    @pytest.mark.parametrize(
        ("poor", "reason"),
        [
            (support(num_episodes=10, effective=60.0), "10 episodes, at least 30"),
            (support(effective=12.3), "1000 episodes are worth 12.3, at least 50"),
            (support(mean=0.8), "mean weight is 0.800"),
            (support(mean=1.3), "mean weight is 1.300"),
            (support(mean=0.5, error=float("nan")), "mean weight is 0.500"),
            (support(unexplained=0.02), "2.0% of logged propensities"),
        ],
    )
    def test_each_reason_is_told(self, poor: Support, reason: str) -> None:
        """Whoever is refused learns what is missing."""
        (told,) = refusals(poor, SupportLimits())

        assert reason in told

    @pytest.mark.parametrize("mean", [0.96, 1.04])
    def test_what_chance_or_little_explains_passes(self, mean: float) -> None:
        """Four percent do not matter; twenty may be chance where little is known."""
        assert [] == refusals(support(mean=mean, error=0.001), SupportLimits())
        assert [] == refusals(support(mean=0.8, error=0.1), SupportLimits())
