"""Confidence intervals. Pure.

An estimate is uncertain for two reasons that have nothing to do with each other: which episodes were logged, and which
indices the bank holds. Their variances add:

    error^2 = (error over episodes)^2 + (error over the bank)^2

    interval = value -+ z error,        z the normal quantile

Neither is believed to be smaller than what one more episode, or one more index, could do: the range of logged returns
over their number plus one. Else what is so rare that it was not seen would be excluded with certainty.

The normal approximation holds where many episodes carry weight, which `support` sees to.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hyperact.trainer.off_policy.trajectories import Float64s


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its standard errors and the interval of some confidence."""

    value: float
    episode_error: float
    bank_error: float
    confidence: float

    @property
    def error(self) -> float:
        """The standard error for both reasons."""
        return float(np.hypot(self.episode_error, self.bank_error))

    @property
    def low(self) -> float:
        """The lower end."""
        return self.value - quantile(self.confidence) * self.error

    @property
    def high(self) -> float:
        """The upper end."""
        return self.value + quantile(self.confidence) * self.error


def quantile(confidence: float) -> float:
    """Return how many standard errors a two-sided interval of a confidence reaches to either side."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def bootstrap_interval(
    influences: Float64s, value: float, confidence: float, rng: np.random.Generator, num_resamples: int = 1000
) -> tuple[float, float]:
    """Return the percentile interval of a value over resampled episodes: a check of the normal approximation."""
    num = len(influences)
    draws = rng.multinomial(num, np.full(num, 1.0 / num), size=num_resamples)
    values = value + draws @ influences / num
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
