"""When a deployment is to be taken back: what agents got from it against declared conditions. Pure.

| condition    | holds when it is certain that                                               |
|--------------|-----------------------------------------------------------------------------|
| loss         | its mean return is lower than the baseline's by more than `max_loss`        |
| least return | its mean return is under `min_return`                                       |
| errors       | it fails more than `max_error_rate` of the steps that it is asked to decide |

Certain means: with the declared confidence, over all looks together. A deployment is looked at when it has
`min_episodes` episodes, and again each time that number has doubled; look k (from 0) may be wrong with a probability of
(1 - confidence) / 2^(k + 1), and these add up to 1 - confidence. So noise triggers nothing, however long one watches.

Means are compared by a normal approximation. Both sides count with the larger of the two variances: a side that
happened to see the same return every time is not known more exactly for that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pvariance


@dataclass(frozen=True, slots=True)
class RollbackLimits:
    """The declared conditions. None: not declared.

    Attributes:
        min_episodes: episodes that a deployment, and its baseline, must have before anything is said of returns.
        min_steps: the same of steps, for errors.
        confidence: how certain a condition must be, over all looks at one deployment.
    """

    max_loss: float | None = None
    min_return: float | None = None
    max_error_rate: float | None = None
    min_episodes: int = 30
    min_steps: int = 200
    confidence: float = 0.99


def find_return_problem(returns: Sequence[float], baseline: Sequence[float], limits: RollbackLimits) -> str:
    """Return why a deployment with these returns is to be taken back; empty if it is not, or not certainly."""
    look = _look(len(returns), limits.min_episodes)
    if look is None:
        return ""
    # Only what was there at the look counts: between looks nothing is tested.
    seen = returns[: limits.min_episodes << look]
    z = _quantile(look, limits.confidence)
    mean, variance = fmean(seen), pvariance(seen)
    if limits.min_return is not None and mean + z * math.sqrt(variance / len(seen)) < limits.min_return:
        return f"mean return {mean:.4g} of {len(seen)} episodes is under {limits.min_return:.4g}"
    if limits.max_loss is None or len(baseline) < limits.min_episodes:
        return ""
    before = fmean(baseline)
    error = math.sqrt(max(variance, pvariance(baseline)) * (1 / len(seen) + 1 / len(baseline)))
    if before - mean - limits.max_loss > z * error:
        return (
            f"mean return {mean:.4g} of {len(seen)} episodes is below {before:.4g} of {len(baseline)} "
            f"by more than {limits.max_loss:g}"
        )
    return ""


def find_error_problem(num_steps: int, num_errors: int, limits: RollbackLimits) -> str:
    """Return why a deployment that decided and failed so many steps is to be taken back; empty if it is not."""
    num_asked = num_steps + num_errors
    look = _look(num_asked, limits.min_steps)
    if limits.max_error_rate is None or look is None:
        return ""
    rate, z = num_errors / num_asked, _quantile(look, limits.confidence)
    # Wilson's lower bound.
    centre = rate + z * z / (2 * num_asked)
    half = z * math.sqrt(rate * (1 - rate) / num_asked + z * z / (4 * num_asked**2))
    if (centre - half) / (1 + z * z / num_asked) > limits.max_error_rate:
        return f"{num_errors} of {num_asked} steps failed, more than {limits.max_error_rate:.1%}"
    return ""


def _look(number: int, least: int) -> int | None:
    """Return which look so many allow, from 0; None before the first."""
    return (number // least).bit_length() - 1 if number >= least else None


def _quantile(look: int, confidence: float) -> float:
    return NormalDist().inv_cdf(1.0 - (1.0 - confidence) / 2.0 ** (look + 1))
