"""Whether logged propensities are the frequencies of actions: a chi-square test that knows where they come from.

A propensity in closed form, or over a bank that holds every index, is exact: Pearson's statistic against it. One that
was counted over the bank is itself a sample of L indices: then the bank's counts and the draws' are two samples of one
distribution (the test of homogeneity). Cells with fewer than five expected are put together.

Letters: A num_actions, N draws, L the bank's size, K allowed actions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, derive_index, index_bank
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.probabilities import Float64s, Reference, each_probability
from hyperact.v1.steps import StepKey

key = b"calibration key!"
least_expected = 5.0
_rows_at_once = 1 << 14


class Question(NamedTuple):
    """One situation: its coefficients float32 [A, M + 1] and the allowed actions [A]."""

    distribution: "ReferenceDistribution.ValueType"
    coefficients: Float32s
    mask: NDArray[np.bool_]


class Calibration(NamedTuple):
    """How logged and empirical agree. `is_counted` tells whether the bank's own error is part of it."""

    statistic: float
    degrees: int
    p_value: float
    is_counted: bool
    largest_difference: float


def draw_question(
    distribution: "ReferenceDistribution.ValueType", num_actions: int, index_dim: int, is_masked: bool, seed: int
) -> Question:
    """Return a plausible situation; a mask allows every action but each third."""
    random = np.random.default_rng([seed, num_actions, index_dim])
    coefficients = random.normal(size=(num_actions, index_dim + 1)).astype(np.float32)
    mask = np.ones(num_actions, np.bool_)
    if is_masked:
        mask[::3] = False
    return Question(distribution, coefficients, mask)


def derive_indices(num: int, index_dim: int, distribution: "ReferenceDistribution.ValueType") -> Float32s:
    """Return the indices of as many episodes, as the service derives them: float32 [N, M]."""
    steps = (StepKey("default", f"agent-{number % 100}", "run", number // 100, 0) for number in range(num))
    return np.stack([derive_index(key, step, 0, index_dim, distribution) for step in steps])


def count_actions(question: Question, indices: Float32s) -> NDArray[np.int64]:
    """Return how often each action is best, forbidden ones left out: [A]."""
    counts = np.zeros(len(question.mask), np.int64)
    for start in range(0, len(indices), _rows_at_once):
        values = question.coefficients[:, 0] + indices[start : start + _rows_at_once] @ question.coefficients[:, 1:].T
        counts += np.bincount(np.where(question.mask, values, -np.inf).argmax(axis=1), minlength=len(counts))
    return counts


def logged_propensities(question: Question) -> Float64s:
    """Return what the service would log of each action: [A]."""
    reference = Reference(question.distribution, index_bank(question.coefficients.shape[1] - 1, question.distribution))
    chances: Float64s = each_probability(question.coefficients[np.newaxis], question.mask[np.newaxis], reference)[0]
    return chances


def calibrate(question: Question, counts: NDArray[np.int64]) -> Calibration:
    """Compare logged propensities with the counts of draws [A]."""
    logged = logged_propensities(question)
    num_draws, num_allowed = int(counts.sum()), int(question.mask.sum())
    difference = float(np.abs(logged - counts / num_draws).max())
    is_counted = num_allowed > 2 and question.distribution in (GAUSSIAN, UNIT_SPHERE)
    if is_counted:
        bank_size = len(index_bank(question.coefficients.shape[1] - 1, question.distribution))
        # The smoothing undone: how many of the bank's indices the action wins.
        won = (logged * (bank_size + 1) - 1.0 / num_allowed)[question.mask]
        samples = [won, counts[question.mask].astype(np.float64)]
    else:
        samples = [counts[question.mask].astype(np.float64)]
    pooled = sum(samples) / sum(sample.sum() for sample in samples) if is_counted else logged[question.mask]
    statistic, degrees = _pearson(samples, pooled)
    p_value = float(stats.chi2.sf(statistic, degrees)) if degrees else 1.0
    return Calibration(statistic, degrees, p_value, is_counted, difference)


def _pearson(samples: list[Float64s], chances: Float64s) -> tuple[float, int]:
    """Return the statistic over all samples, and the degrees of freedom: cells - 1 in either case."""
    is_rare = chances * min(sample.sum() for sample in samples) < least_expected
    statistic, num_cells = 0.0, 0
    for sample in samples:
        cells = np.append(sample[~is_rare], sample[is_rare].sum())
        expected = np.append(chances[~is_rare], chances[is_rare].sum()) * sample.sum()
        is_there = expected > 0
        assert not cells[~is_there].any(), "an action that is said to be impossible was chosen"
        statistic += float(((cells - expected)[is_there] ** 2 / expected[is_there]).sum())
        num_cells = int(is_there.sum())
    return statistic, num_cells - 1
