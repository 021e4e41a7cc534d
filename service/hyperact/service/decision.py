"""From values to actions, for a batch of rows that know nothing of each other. Pure.

    q(a) = c[a, 0] + c[a, 1:] · z            the value of action a under the index z, or what an indexed graph answers
    action = argmax of q over the allowed actions; exact ties are broken by a uniform derived from the step
    propensity = P(action) over indices, by `hyperact.v1.probabilities`

The acting rule may value actions under several indices, and may explore: with probability epsilon the action is a
uniformly random allowed one.

Letters: B rows, A num_actions, M index_dim, W width of a graph's answer.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hyperact.v1.indices import ONE_HOT, UNIT_SPHERE, Float32s
from hyperact.v1.probabilities import Bools, Float64s, Ints, Reference, each_probability, probabilities

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
    values: Float32s,
    answers: Float32s,
    masks: Bools | None,
    reference: Reference,
    tie_break: Callable[[int], float],
    explore: Callable[[int], float | None] | None = None,
) -> Decisions:
    """Choose one action per row.

    Args:
        values: float32 [B, A], finite: what each action is worth under the row's own indices.
        answers: float32 [B, A, W], finite: what the graph says of all indices, in the form that `reference` tells.
        masks: [B, A], True where an action is allowed, at least one per row; None allows all.
        reference: where the indices came from.
        tie_break: gives a row's uniform in (0, 1); called only for a row whose best actions are exactly equal.
        explore: gives a row's uniform in (0, 1) that chooses its action at random, or None; None if no row explores.
    """
    if masks is not None:
        values = np.where(masks, values, -np.inf)
    actions = _best_actions(values, tie_break)
    if explore is not None:
        _explore(actions, values, explore)
    margins = _margins(values, actions)
    propensities = probabilities(answers, masks, reference, actions)
    return Decisions(actions, margins, np.maximum(propensities, smallest_propensity).astype(np.float32))


def index_values(coefficients: Float32s, indices: Float32s) -> Float32s:
    """Return the value of each action under each row's index: float32 [B, A].

    A plain product and sum, not a matrix product: its rounding does not depend on the other rows.
    """
    loadings: Float32s = (coefficients[:, :, 1:] * indices[:, None, :]).sum(axis=2, dtype=np.float32)
    result: Float32s = coefficients[:, :, 0] + loadings
    return result


def posteriors(answers: Float32s, masks: Bools | None, reference: Reference) -> Posteriors:
    """Return mean, standard deviation and probability of every action of every row.

    Mean and deviation are of the value under one index, whatever the acting rule: exact for coefficients, else over the
    bank.
    """
    means, deviations = _moments(answers, reference)
    chances = each_probability(answers, masks, reference)
    return Posteriors(*(array.astype(np.float32) for array in (means, deviations, chances)))


def _moments(answers: Float32s, reference: Reference) -> tuple[Float64s, Float64s]:
    """Return mean and standard deviation of each action's value: [B, A] each."""
    if not reference.is_affine:
        table = answers[:, :, : len(reference.bank)].astype(np.float64)
        return table.mean(axis=2), table.std(axis=2)
    num_rows, num_actions, width = answers.shape
    means = answers[:, :, 0].astype(np.float64)
    loadings = answers[:, :, 1:].astype(np.float64)
    if width == 1:
        deviations = np.zeros((num_rows, num_actions))
    elif reference.distribution == ONE_HOT:
        means = means + loadings.mean(axis=2)
        deviations = loadings.std(axis=2)
    else:
        deviations = np.sqrt((loadings**2).sum(axis=2))
        if reference.distribution == UNIT_SPHERE:
            deviations /= math.sqrt(width - 1)
    return means, deviations


def _best_actions(values: Float32s, tie_break: Callable[[int], float]) -> Ints:
    actions: Ints = values.argmax(axis=1)
    is_best = values == values[np.arange(len(actions)), actions][:, None]
    if np.count_nonzero(is_best) > len(actions):
        for row in np.flatnonzero(is_best.sum(axis=1) > 1):
            tied = np.flatnonzero(is_best[row])
            actions[row] = tied[int(tie_break(int(row)) * len(tied))]
    return actions


def _explore(actions: Ints, values: Float32s, explore: Callable[[int], float | None]) -> None:
    """Replace the actions of rows that explore by uniformly random allowed ones."""
    for row in range(len(actions)):
        uniform = explore(row)
        if uniform is not None:
            allowed = np.flatnonzero(values[row] > -np.inf)
            actions[row] = allowed[int(uniform * len(allowed))]


def _margins(values: Float32s, actions: Ints) -> Float32s:
    """Return by how much each row's action beats the best other allowed one; 0 if there is none.

    Negative where chance chose a worse one.
    """
    rows = np.arange(len(actions))
    chosen = values[rows, actions]
    if values.shape[1] == 1:
        return np.zeros_like(chosen)
    others = values.copy()
    others[rows, actions] = -np.inf
    margins: Float32s = chosen - others.max(axis=1)
    return np.where(np.isfinite(margins), margins, np.float32(0))
