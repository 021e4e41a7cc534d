"""From coefficients and indices to actions, for a batch of rows that know nothing of each other. Pure.

    q(a) = c[a, 0] + c[a, 1:] · z            the value of action a under the index z
    action = argmax of q over the allowed actions; exact ties are broken by a uniform derived from the step
    propensity = P(action is the argmax) over indices z from the reference distribution

Letters: B rows, A num_actions, M index_dim, L the bank's size, K allowed actions of a row.

How a row's probabilities are computed:

| allowed actions        | Gaussian                 | unit sphere                   | one-hot, coordinate, M = 0 |
|------------------------|--------------------------|-------------------------------|----------------------------|
| 1                      | 1                        | 1                             | 1                          |
| 2                      | Phi(dm / |dv|)           | integral of cos^(M-2)         | exact mean over the bank   |
| more                   | (n + 1/K) / (L + 1)      | (n + 1/K) / (L + 1)           | exact mean over the bank   |

dm and dv are the differences of the two actions' means and loadings; n is how many of the bank's L indices the action
wins, a tie counting in equal parts. The smoothing by 1/K of one more draw keeps every allowed action's probability
positive, whatever the bank's luck, and the sum at 1.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import GAUSSIAN, ONE_HOT, UNIT_SPHERE, Float32s
from hyperact.v1.model_pb2 import ReferenceDistribution

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Float64s = NDArray[np.float64]
smallest_propensity = float(np.finfo(np.float32).tiny)
_max_bank_values = 1 << 22  # values computed at once, so that a large batch of many actions stays in cache and memory


class Reference(NamedTuple):
    """The distribution that indices come from, with its fixed bank, float32 [L, M]."""

    distribution: "ReferenceDistribution.ValueType"
    bank: Float32s


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


def probabilities(coefficients: Float32s, masks: Bools | None, reference: Reference, actions: Ints) -> Float64s:
    """Return the probability, over indices, that each row's given action is chosen: [B]. 0 for a forbidden one."""
    num_rows, num_actions, width = coefficients.shape
    is_continuous = width > 1 and reference.distribution in (GAUSSIAN, UNIT_SPHERE)
    if masks is None:
        if num_actions == 1:
            return np.ones(num_rows)
        if num_actions == 2 and is_continuous:
            return _closed_form(coefficients, actions, 1 - actions, reference)
        return _over_bank(coefficients, None, reference, actions, is_continuous)
    result = masks[np.arange(num_rows), actions].astype(np.float64)
    num_allowed = masks.sum(axis=1)
    is_open = (result > 0) & (num_allowed > 1)
    is_pair = is_open & (num_allowed == 2) & is_continuous
    rows = np.flatnonzero(is_pair)
    if rows.size:
        others = masks[rows].copy()
        others[np.arange(rows.size), actions[rows]] = False
        result[rows] = _closed_form(coefficients[rows], actions[rows], others.argmax(axis=1), reference)
    rows = np.flatnonzero(is_open & ~is_pair)
    if rows.size:
        result[rows] = _over_bank(coefficients[rows], masks[rows], reference, actions[rows], is_continuous)
    return result


def each_probability(coefficients: Float32s, masks: Bools | None, reference: Reference) -> Float64s:
    """Return the probability of every action of every row, as `probabilities` does for one: [B, A]."""
    num_rows, num_actions, width = coefficients.shape
    is_continuous = width > 1 and reference.distribution in (GAUSSIAN, UNIT_SPHERE)
    allowed = np.ones((num_rows, num_actions), np.bool_) if masks is None else masks
    num_allowed = allowed.sum(axis=1)
    num_won = np.zeros((num_rows, num_actions))
    for rows, bank in _portions(num_rows, num_actions, reference.bank):
        num_won[rows] += _num_won_each(_bank_values(coefficients[rows], allowed[rows], bank))
    result = num_won / len(reference.bank)
    if is_continuous:
        result = (num_won + 1.0 / num_allowed[:, None]) / (len(reference.bank) + 1) * allowed
        pairs = np.flatnonzero(num_allowed == 2)
        first, second = allowed[pairs].argmax(axis=1), num_actions - 1 - allowed[pairs, ::-1].argmax(axis=1)
        result[pairs, first] = _closed_form(coefficients[pairs], first, second, reference)
        result[pairs, second] = 1.0 - result[pairs, first]
    result[num_allowed == 1] = allowed[num_allowed == 1]
    return result


def pair_probability(
    mean_difference: Float64s, loading_norm: Float64s, index_dim: int, distribution: "ReferenceDistribution.ValueType"
) -> Float64s:
    """Return P(dm + dv · z > 0), a tie counting half, from dm and |dv|: [B]. Gaussian or unit sphere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean_difference / loading_norm
    sure = np.where(mean_difference == 0, 0.5, mean_difference > 0)
    if distribution == GAUSSIAN:
        spread = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in ratio.tolist()])
    else:
        spread = _sphere_cdf(ratio, index_dim)
    return np.where(loading_norm > 0, spread, sure)


def _sphere_cdf(x: Float64s, dimension: int) -> Float64s:
    """Return P(t <= x) for one coordinate t of a uniform point on the unit sphere in `dimension` dimensions.

    With x = sin(phi) and n = dimension - 2 it is 1/2 + I_n(phi) / (2 I_n(pi/2)), where I_n(phi), the integral of cos^n
    from 0, follows from I_n = (cos^(n-1) sin + (n - 1) I_(n-2)) / n. In one dimension t is -1 or 1.
    """
    if dimension == 1:
        return 0.5 + 0.25 * (np.sign(x - 1.0) + np.sign(x + 1.0))
    x = np.clip(x, -1.0, 1.0)
    power = dimension - 2
    sine, cosine = x, np.sqrt(np.maximum(0.0, 1.0 - x * x))
    integral, whole = (sine, 1.0) if power % 2 else (np.arcsin(x), math.pi / 2)
    for n in range(3 if power % 2 else 2, power + 1, 2):
        integral = (cosine ** (n - 1) * sine + (n - 1) * integral) / n
        whole = (n - 1) * whole / n
    result: Float64s = np.clip(0.5 + integral / (2.0 * whole), 0.0, 1.0)
    return result


def _closed_form(coefficients: Float32s, actions: Ints, others: Ints, reference: Reference) -> Float64s:
    rows = np.arange(len(coefficients))
    difference = coefficients[rows, actions].astype(np.float64) - coefficients[rows, others]
    norm = np.sqrt((difference[:, 1:] ** 2).sum(axis=1))
    return pair_probability(difference[:, 0], norm, difference.shape[1] - 1, reference.distribution)


def _over_bank(
    coefficients: Float32s, masks: Bools | None, reference: Reference, actions: Ints, is_smoothed: bool
) -> Float64s:
    """Return the share of the bank's indices under which each row's action is best."""
    num_rows, num_actions, _ = coefficients.shape
    bank_size = len(reference.bank)
    num_won = np.zeros(num_rows)
    for rows, bank in _portions(num_rows, num_actions, reference.bank):
        values = _bank_values(coefficients[rows], None if masks is None else masks[rows], bank)
        num_won[rows] += _num_won(values, actions[rows])
    if not is_smoothed:
        return num_won / bank_size
    num_allowed = num_actions if masks is None else masks.sum(axis=1)
    result: Float64s = (num_won + 1.0 / num_allowed) / (bank_size + 1)
    return result


def _portions(num_rows: int, num_actions: int, bank: Float32s) -> Iterator[tuple[slice, Float32s]]:
    """Yield rows and parts of the bank that together fit into memory: nearly always everything at once."""
    draws_at_once = max(1, _max_bank_values // num_actions)
    rows_at_once = max(1, _max_bank_values // (num_actions * len(bank)))
    for row in range(0, num_rows, rows_at_once):
        for draw in range(0, len(bank), draws_at_once):
            yield slice(row, row + rows_at_once), bank[draw : draw + draws_at_once]


def _bank_values(coefficients: Float32s, masks: Bools | None, bank: Float32s) -> Float32s:
    """Return the values under every index of the bank: float32 [A, B, L]; maxima are fastest over the first axis."""
    loadings = np.ascontiguousarray(coefficients[:, :, 1:].swapaxes(0, 1))
    num_actions, num_rows, index_dim = loadings.shape
    flat: Float32s = loadings.reshape(num_actions * num_rows, index_dim) @ bank.T
    values = flat.reshape(num_actions, num_rows, len(bank))
    means = coefficients[:, :, 0].T
    if masks is not None:
        means = np.where(masks.T, means, -np.inf)
    values += means[:, :, None]
    return values


def _num_won(values: Float32s, actions: Ints) -> Float64s:
    """Return how many of the L indices each row's action wins, a tie among k counting 1/k: [B]."""
    best = values.max(axis=0)
    rows = np.arange(len(actions))
    is_won = values[actions, rows] == best
    is_best = values == best
    if np.count_nonzero(is_best) == best.size:
        num_won: Float64s = is_won.sum(axis=1, dtype=np.float64)
        return num_won
    shares: Float64s = (is_won / is_best.sum(axis=0)).sum(axis=1)
    return shares


def _num_won_each(values: Float32s) -> Float64s:
    """Return how many of the L indices every action wins, a tie among k counting 1/k: [B, A]."""
    is_best = values == values.max(axis=0)
    shares: Float64s = (is_best / is_best.sum(axis=0)).sum(axis=2).T
    return shares


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


def to_masks(masks: list[bytes], num_actions: int) -> Bools | None:
    """Return the masks of a batch as [B, A]; None if no row has one. An empty mask allows every action."""
    if not any(masks):
        return None
    everything = b"\x01" * num_actions
    joined = b"".join(mask or everything for mask in masks)
    result: Bools = np.frombuffer(joined, np.bool_).reshape(len(masks), num_actions)
    return result
