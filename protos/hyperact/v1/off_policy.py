"""What a candidate would be worth, from whole episodes that others decided: the estimate that the gates use. Pure.

    w_i = P_candidate(a_i0 .. a_iT) / P_logged(a_i0 .. a_iT)          the weight of episode i; G_i is its return
    value = sum of w_i G_i / sum of w_i          self-normalised importance sampling
    gain = value - mean of G_i

The probabilities are joint ones (`joint_probabilities`): what shares an index is not independent. Errors: over episodes
by the influence of each, and the bank's by leaving out its groups in turn; neither is believed to be less than what one
more episode could do.

Letters: N episodes, G groups of the bank.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.joint_probabilities import jackknife_error
from hyperact.v1.probabilities import Float64s

min_episodes = 30
max_missing_weight = 0.05
"""How far the mean weight may be from 1 beyond chance: further, and the candidate does what the log does not hold."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it as text for people."""
        return f"{self.value:+.4g} ({self.low:+.4g} to {self.high:+.4g})"


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """What the log says of a candidate.

    Attributes:
        value: the mean return of an episode.
        gain: that less the mean return that was logged.
        effective_size: how many equally weighted episodes the weighted ones are worth.
        refusals: why value and gain mean nothing; empty if they stand.
        is_supported: whether the mean weight is 1, as far as chance goes: whether the log holds what it would do.
    """

    value: Estimate
    gain: Estimate
    effective_size: float
    num_episodes: int
    refusals: tuple[str, ...] = ()
    is_supported: bool = True


def estimate(returns: NDArray[np.float64], weights: Float64s, confidence: float = 0.95) -> OffPolicy:
    """Return what weighted episodes say.

    Args:
        returns: [N], N at least 1.
        weights: [N, 1 + G]; the first column is over the whole bank, the others without one group each.
        confidence: of the intervals.
    """
    size = effective_size(weights[:, 0])
    values = np.array([_value(returns, column) for column in weights.T])
    gains = values - returns.mean()
    least = float(np.ptp(returns)) / (size + 1.0)
    shares = weights[:, 0] / max(float(weights[:, 0].mean()), np.finfo(np.float64).tiny)
    influences = shares * (returns - values[0])
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return OffPolicy(
        value=_interval(values, influences, least, z),
        gain=_interval(gains, influences - (returns - returns.mean()), least, z),
        effective_size=size,
        num_episodes=len(returns),
        refusals=tuple(_refusals(weights, size)),
        is_supported=_is_supported(weights),
    )


def effective_size(weights: NDArray[np.float64]) -> float:
    """Return Kish's effective sample size of weights [N]; 0 without weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def _value(returns: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    total = float(weights.sum())
    return float((weights * returns).sum()) / total if total > 0 else float(returns.mean())


def _interval(values: Float64s, influences: NDArray[np.float64], least: float, z: float) -> Estimate:
    over_episodes = max(float(influences.std()) / math.sqrt(len(influences)), least)
    half = z * math.hypot(over_episodes, jackknife_error(values[1:]))
    return Estimate(float(values[0]), float(values[0]) - half, float(values[0]) + half)


def _refusals(weights: Float64s, size: float) -> list[str]:
    num_episodes = len(weights)
    reasons = []
    if num_episodes < min_episodes:
        reasons.append(f"{num_episodes} episodes, at least {min_episodes} are needed")
    if size < min_episodes:
        reasons.append(f"{num_episodes} episodes are worth {size:.1f}, at least {min_episodes} are needed")
    if not _is_supported(weights):
        mean = weights[:, 0].mean()
        reasons.append(f"the mean weight is {mean:.3f} and not 1: the log holds too little of what it would do")
    return reasons


def _is_supported(weights: Float64s) -> bool:
    means = weights.mean(axis=0)
    error = math.hypot(float(weights[:, 0].std()) / math.sqrt(len(weights)), jackknife_error(means[1:]))
    return bool(abs(means[0] - 1.0) <= max(max_missing_weight, 3.0 * error))
