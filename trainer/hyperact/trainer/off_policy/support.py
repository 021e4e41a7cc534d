"""Whether the log says enough about a policy for its estimated value to mean anything. Pure.

    effective size = (sum of w)^2 / sum of w^2          as many equally weighted episodes would be worth as much (Kish)
    mean weight                                           1 in expectation if the log holds all that the target would do

A mean weight under 1 is the share of the target's behaviour that the log holds: what is missing has no reward to
average, and no interval knows of it. Hence the refusals:

1. too few episodes;
2. a small effective size: a few episodes decide, and the normal interval does not hold;
3. a mean weight that is away from 1 by more than can be chance, and by more than matters;
4. propensities in the log that the registered versions do not have: then the weights are those of other policies.
"""

from dataclasses import dataclass

from hyperact.trainer.off_policy.intervals import Interval
from hyperact.trainer.off_policy.trajectories import Float64s


@dataclass(frozen=True, slots=True)
class SupportLimits:
    """What is asked of a log.

    Attributes:
        min_episodes: episodes to weigh at least.
        min_effective_size: effective episodes at least.
        max_missing: the largest distance of the mean weight from 1 that is let pass, beyond chance or not.
        max_unexplained: the largest share of steps whose logged propensity may differ from the recomputed one.
    """

    min_episodes: int = 30
    min_effective_size: float = 50.0
    max_missing: float = 0.05
    max_unexplained: float = 0.01


@dataclass(frozen=True, slots=True)
class Support:
    """What is known of the weights.

    Attributes:
        num_episodes: how many were weighed.
        effective_size: how many equally weighted ones they are worth.
        mean_weight: with its errors.
        largest_share: the share of the heaviest episode in all weight.
        unexplained: the share of steps whose logged propensity differs from the recomputed one.
    """

    num_episodes: int
    effective_size: float
    mean_weight: Interval
    largest_share: float
    unexplained: float = 0.0


def effective_size(weights: Float64s) -> float:
    """Return Kish's effective sample size of weights [N]; 0 without weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def largest_share(weights: Float64s) -> float:
    """Return the share of the heaviest in all weight; 1 without weight."""
    total = float(weights.sum())
    return float(weights.max()) / total if total > 0 else 1.0


def refusals(support: Support, limits: SupportLimits) -> list[str]:
    """Return every reason not to trust weights like these; empty if there is none."""
    reasons = []
    if support.num_episodes < limits.min_episodes:
        reasons.append(f"{support.num_episodes} episodes, at least {limits.min_episodes} are needed")
    if support.effective_size < limits.min_effective_size:
        reasons.append(
            f"{support.num_episodes} episodes are worth {support.effective_size:.1f}, "
            f"at least {limits.min_effective_size:g} are needed"
        )
    mean = support.mean_weight
    missing = abs(mean.value - 1.0)
    if missing > limits.max_missing and not missing <= 3.0 * mean.error:
        reasons.append(f"the mean weight is {mean.value:.3f} and not 1: the log holds too little of what it would do")
    if support.unexplained > limits.max_unexplained:
        reasons.append(f"{support.unexplained:.1%} of logged propensities are not those of the registered versions")
    return reasons
