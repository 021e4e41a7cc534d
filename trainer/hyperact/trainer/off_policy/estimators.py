"""Estimators of a policy's value from the episodes of another one. Pure.

    G_i = sum over t of gamma^t r_it          the return of episode i
    w_it = P_target(a_0 .. a_t) / P_logged(a_0 .. a_t)          the prefix weight; w_i that of the whole episode
    D_it = gamma^t r_it

| estimator                        | value                                                                          |
|----------------------------------|--------------------------------------------------------------------------------|
| logged mean                      | mean of G_i: what the policy that acted was worth                                |
| importance sampling              | mean of w_i G_i (episode-joint weights)                                        |
| self-normalised                  | sum of w_i G_i / sum of w_i                                                    |
| per decision                     | mean of the sum over t of w_it D_it                                            |
| self-normalised per decision     | sum over t of (sum over i of w_it D_it) / (sum over i of w_it)                 |
| direct                           | mean of V(s_i0), the fitted value                                              |
| doubly robust                    | mean of the sum over t of w_it D_it - gamma^t (w Q)_it + gamma^t (w V)_it      |
| self-normalised doubly robust    | the same, weights divided by their mean at that step number                    |

(w Q)_it is the fitted value of what was done weighted by w_it, (w V)_it its mean over what the target would do next
weighted by w_i,t-1: whatever was fitted, both have the same expectation, so it is no source of bias. An episode that
ended keeps its last weight in the normalisers of later steps: it rests in a state without reward.

For episodes of one step these are the bandit estimators IPS, SNIPS, DM, DR and SNDR.

Letters: N episodes, S steps of all of them together. Weights are of prefixes, [S].

Sources: Precup, Sutton & Singh 2000 (per decision); Dudík, Langford & Li, arXiv:1103.4601, Jiang & Li, arXiv:1511.03722
(doubly robust); Thomas & Brunskill, arXiv:1604.00923 (self-normalised).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hyperact.trainer.off_policy.trajectories import Float64s, Trajectories


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and what each episode did to it.

    Attributes:
        value: the estimated return.
        influences: float64 [N]; by how much each episode pulls the value, times N, with sum 0. The value's variance
            over episodes is their mean square / N.
    """

    value: float
    influences: Float64s

    @property
    def standard_error(self) -> float:
        """The standard error over episodes."""
        num = len(self.influences)
        return float(np.sqrt((self.influences**2).sum() / (num * (num - 1)))) if num > 1 else float("inf")


class Controls(NamedTuple):
    """What a fitted action-value function says, weighted, undiscounted: float64 [S] each.

    Attributes:
        taken: (w Q), the value of what was done.
        expected: (w V), the value before it was done. At an episode's first step the weight is 1.
    """

    taken: Float64s
    expected: Float64s


def logged_mean(steps: Trajectories) -> Estimate:
    """Return the mean return of the episodes as they were."""
    return _mean(steps.returns)


def importance_sampling(steps: Trajectories, weights: Float64s) -> Estimate:
    """Return the mean return under episode-joint weights."""
    return _mean(weights[steps.lasts] * steps.returns)


def self_normalised(steps: Trajectories, weights: Float64s) -> Estimate:
    """Return the weighted mean return under episode-joint weights."""
    of_episode = weights[steps.lasts]
    mean_weight = of_episode.mean()
    value = float(_ratio(of_episode @ steps.returns, of_episode.sum()))
    return Estimate(value, _ratio(of_episode * (steps.returns - value), mean_weight))


def per_decision(steps: Trajectories, weights: Float64s) -> Estimate:
    """Return the mean return, each reward weighted by what led to it."""
    return _mean(steps.per_episode(weights * steps.discounts * steps.rewards))


def self_normalised_per_decision(steps: Trajectories, weights: Float64s) -> Estimate:
    """Return the sum over step numbers of weighted mean rewards."""
    nothing = np.zeros_like(weights)
    return self_normalised_doubly_robust(steps, weights, Controls(nothing, nothing))


def direct(steps: Trajectories, controls: Controls) -> Estimate:
    """Return the mean fitted value of the episodes' first steps. Its error does not tell how wrong the fit is."""
    return _mean(controls.expected[steps.starts])


def doubly_robust(steps: Trajectories, weights: Float64s, controls: Controls) -> Estimate:
    """Return the per-decision estimate with the fitted values as a control variate."""
    surprise = weights * steps.rewards - controls.taken
    return _mean(steps.per_episode(steps.discounts * (surprise + controls.expected)))


def self_normalised_doubly_robust(steps: Trajectories, weights: Float64s, controls: Controls) -> Estimate:
    """Return the doubly robust estimate with weights divided by their mean at each step number."""
    num = steps.num_episodes
    means = mean_weights(steps, weights)
    means_before = np.concatenate([[1.0], means[:-1]])
    surprise = steps.discounts * (weights * steps.rewards - controls.taken)
    expected = steps.discounts * controls.expected
    surprises = _ratio(steps.per_number(surprise) / num, means)
    expecteds = _ratio(steps.per_number(expected) / num, means_before)
    value = float(surprises.sum() + expecteds.sum())
    # What a weight in a normaliser pulls: its own step's surprise, and the next step's expectation.
    pull = _ratio(surprises + np.append(expecteds[1:], 0.0), means)
    own = _ratio(surprise, means[steps.numbers]) + _ratio(expected, means_before[steps.numbers])
    influences = steps.per_episode(own - weights * pull[steps.numbers])
    later = np.append(np.cumsum(pull[::-1])[::-1], 0.0)
    influences -= weights[steps.lasts] * later[steps.lengths] + expecteds[0]
    return Estimate(value, influences)


def mean_weights(steps: Trajectories, weights: Float64s) -> Float64s:
    """Return the mean weight at each step number, episodes that ended before with their last one: [T]."""
    ended = np.bincount(steps.lengths, weights[steps.lasts], steps.max_length + 1)[: steps.max_length]
    result: Float64s = (steps.per_number(weights) + np.cumsum(ended)) / steps.num_episodes
    return result


def _mean(contributions: Float64s) -> Estimate:
    value = float(contributions.mean())
    return Estimate(value, contributions - value)


def _ratio(numerator: Float64s, denominator: Float64s | float) -> Float64s:
    """Divide; 0 where there is no weight at all, for then there is nothing above either."""
    denominator = np.broadcast_to(np.asarray(denominator, np.float64), np.shape(numerator))
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)
