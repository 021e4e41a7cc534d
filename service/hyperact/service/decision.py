"""From coefficients and indices to actions, for a batch of rows that know nothing of each other. Pure.

    q(a) = c[a, 0] + c[a, 1:] · z            the value of action a under the index z
    action = argmax of q over the allowed actions; exact ties are broken by a uniform derived from the step
    propensity = P(action is the argmax) over indices, by `hyperact.v1.probabilities`

Letters: B rows, A num_actions, M index_dim.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hyperact.v1.indices import ONE_HOT, UNIT_SPHERE, Float32s
from hyperact.v1.probabilities import Bools, Ints, Reference, each_probability, probabilities

smallest_propensity = float(np.finfo(np.float32).tiny)


class Decisions(NamedTuple):
    """What was decided: one entry per row. Margins are in units of value; propensities in (0, 1]."""

    actions: Ints
    margins: Float32s
    propensities: Float32s


class Posteriors(NamedTuple):
    """How the actions are valued over all indices: float32 [B, A] each."""

    means: Float32s
    standard_deviations: Float32s
    probabilities: Float32s


def decide(
    coefficients: Float32s,
    indices: Float32s,
    masks: Bools | None,
    reference: Reference,
    tie_break: Callable[[int], float],
) -> Decisions:
    """Choose one action per row.

    Args:
        coefficients: float32 [B, A, M + 1], finite.
        indices: float32 [B, M].
        masks: [B, A], True where an action is allowed, at least one per row; None allows all.
        reference: where the indices came from.
        tie_break: gives a row's uniform in (0, 1); called only for a row whose best actions are exactly equal.
    """
    values = index_values(coefficients, indices)
    if masks is not None:
        values = np.where(masks, values, -np.inf)
    actions = _best_actions(values, tie_break)
    margins = _margins(values, actions)
    propensities = probabilities(coefficients, masks, reference, actions)
    return Decisions(actions, margins, np.maximum(propensities, smallest_propensity).astype(np.float32))


def index_values(coefficients: Float32s, indices: Float32s) -> Float32s:
    """Return the value of each action under each row's index: float32 [B, A].

    A plain product and sum, not a matrix product: its rounding does not depend on the other rows.
    """
    loadings: Float32s = (coefficients[:, :, 1:] * indices[:, None, :]).sum(axis=2, dtype=np.float32)
    result: Float32s = coefficients[:, :, 0] + loadings
    return result


def posteriors(coefficients: Float32s, masks: Bools | None, reference: Reference) -> Posteriors:
    """Return mean, standard deviation and probability of every action of every row."""
    num_rows, num_actions, width = coefficients.shape
    means = coefficients[:, :, 0].astype(np.float64)
    loadings = coefficients[:, :, 1:].astype(np.float64)
    if width == 1:
        deviations = np.zeros((num_rows, num_actions))
    elif reference.distribution == ONE_HOT:
        means = means + loadings.mean(axis=2)
        deviations = loadings.std(axis=2)
    else:
        deviations = np.sqrt((loadings**2).sum(axis=2))
        if reference.distribution == UNIT_SPHERE:
            deviations /= math.sqrt(width - 1)
    chances = each_probability(coefficients, masks, reference)
    return Posteriors(*(array.astype(np.float32) for array in (means, deviations, chances)))


def _best_actions(values: Float32s, tie_break: Callable[[int], float]) -> Ints:
    actions: Ints = values.argmax(axis=1)
    is_best = values == values[np.arange(len(actions)), actions][:, None]
    if np.count_nonzero(is_best) > len(actions):
        for row in np.flatnonzero(is_best.sum(axis=1) > 1):
            tied = np.flatnonzero(is_best[row])
            actions[row] = tied[int(tie_break(int(row)) * len(tied))]
    return actions


def _margins(values: Float32s, actions: Ints) -> Float32s:
    """Return by how much each row's action beats the best other allowed one; 0 if there is none."""
    rows = np.arange(len(actions))
    chosen = values[rows, actions]
    if values.shape[1] == 1:
        return np.zeros_like(chosen)
    others = values.copy()
    others[rows, actions] = -np.inf
    margins: Float32s = chosen - others.max(axis=1)
    return np.where(np.isfinite(margins), margins, np.float32(0))
