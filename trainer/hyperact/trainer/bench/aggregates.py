"""What many games and seeds come to in one number, with an interval, as arXiv:2108.13264 has it.

Scores are human-normalised.

    IQM             mean of the middle half of all runs' scores: a quarter of them is left off at each end
    median          median over games of the mean over a game's runs
    mean            mean over games of the mean over a game's runs
    optimality gap  1 less the mean of scores, each counted as 1 at most: how far from human play, less is better

Intervals are percentile bootstrap intervals, stratified: runs are drawn with replacement within each game, games are
not drawn. A game with a single run adds no width, and intervals of few runs are too narrow: they tell how much seeds
matter, not how another game would end.

Letters: G games, S runs of a game (seeds), R resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
# Scores of each game's runs, [..., S] each, to a number each, [...].
Statistic = Callable[[Sequence[Float64s]], Float64s]

num_resamples = 5_000
confidence = 0.95


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A number with its interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Sequence[Float64s]) -> Float64s:
    """Return the mean of the middle half of all scores."""
    pooled = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    num_cut = pooled.shape[-1] // 4
    middle: Float64s = pooled[..., num_cut : pooled.shape[-1] - num_cut].mean(-1)
    return middle


def median_of_games(scores: Sequence[Float64s]) -> Float64s:
    """Return the median over games of their means."""
    medians: Float64s = np.median(_means(scores), axis=-1)
    return medians


def mean_of_games(scores: Sequence[Float64s]) -> Float64s:
    """Return the mean over games of their means."""
    mean: Float64s = _means(scores).mean(-1)
    return mean


def optimality_gap(scores: Sequence[Float64s]) -> Float64s:
    """Return how far scores stay below 1 in the mean; what is above counts as 1."""
    gap: Float64s = 1.0 - _means([np.minimum(runs, 1.0) for runs in scores]).mean(-1)
    return gap


statistics: Mapping[str, Statistic] = {
    "IQM": interquartile_mean,
    "median": median_of_games,
    "mean": mean_of_games,
    "optimality gap": optimality_gap,
}


def aggregate(scores: Sequence[Sequence[float]], rng: np.random.Generator) -> dict[str, Aggregate]:
    """Return each statistic of the runs of some games, with its interval. ValueError if a game has no run."""
    runs = [np.asarray(found, np.float64) for found in scores]
    if not runs or not all(len(found) for found in runs):
        raise ValueError("scores: expected at least one game, and a run of each")
    resampled = [found[rng.integers(len(found), size=(num_resamples, len(found)))] for found in runs]
    tails = [100 * (1 - confidence) / 2, 100 * (1 + confidence) / 2]
    found_aggregates = {}
    for name, statistic in statistics.items():
        low, high = np.percentile(statistic(resampled), tails)
        found_aggregates[name] = Aggregate(float(statistic(runs)), float(low), float(high))
    return found_aggregates


def _means(scores: Sequence[Float64s]) -> Float64s:
    """Return the mean of each game's runs: [..., G]."""
    return np.stack([runs.mean(-1) for runs in scores], axis=-1)
