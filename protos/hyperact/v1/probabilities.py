"""How probable an action is over indices: the arithmetic of propensities, the same for whoever logs them and whoever
weighs by them. Pure.

    q(a) = c[a, 0] + c[a, 1:] · z            the value of action a under the index z
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

Only the last row of the table is an estimate: its standard error is `monte_carlo_error`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, bank_size
from hyperact.v1.model_pb2 import ReferenceDistribution

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Float64s = NDArray[np.float64]
_max_bank_values = 1 << 22  # values computed at once, so that a large batch of many actions stays in cache and memory


class Reference(NamedTuple):
    """The distribution that indices come from, with its fixed bank, float32 [L, M]."""

    distribution: "ReferenceDistribution.ValueType"
    bank: Float32s


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


def win_shares(coefficients: Float32s, masks: Bools | None, actions: Ints, bank: Float32s) -> Float32s:
    """Return for each row and index how much of the choice is the given action: float32 [B, L].

    1 where it is the only best action under the index, 1 / k where it is one of k equally good ones, else 0. So a
    probability over the bank is a row's mean, and the probability of several actions under one held index is the mean
    of the product of their rows.
    """
    num_rows, num_actions, _ = coefficients.shape
    shares = np.empty((num_rows, len(bank)), np.float32)
    rows_at_once = max(1, _max_bank_values // (num_actions * len(bank)))
    for row in range(0, num_rows, rows_at_once):
        rows = slice(row, row + rows_at_once)
        values = _bank_values(coefficients[rows], None if masks is None else masks[rows], bank)
        is_best = values == values.max(axis=0)
        chosen = is_best[actions[rows], np.arange(len(actions[rows]))]
        shares[rows] = chosen / is_best.sum(axis=0, dtype=np.float32)
    return shares


def each_win_share(coefficients: Float32s, masks: Bools | None, bank: Float32s) -> Float32s:
    """Return `win_shares` of every action: float32 [B, L, A]."""
    values = _bank_values(coefficients, masks, bank)
    is_best = values == values.max(axis=0)
    shares: Float32s = is_best / is_best.sum(axis=0, dtype=np.float32)
    return shares.transpose(1, 2, 0)


def monte_carlo_error(probability: Float64s, num_indices: int = bank_size) -> Float64s:
    """Return the standard error of a probability that was estimated over a bank: sqrt(p (1 - p) / L)."""
    error: Float64s = np.sqrt(probability * (1.0 - probability) / num_indices)
    return error


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


def to_masks(masks: list[bytes], num_actions: int) -> Bools | None:
    """Return the masks of a batch as [B, A]; None if no row has one. An empty mask allows every action."""
    if not any(masks):
        return None
    everything = b"\x01" * num_actions
    joined = b"".join(mask or everything for mask in masks)
    result: Bools = np.frombuffer(joined, np.bool_).reshape(len(masks), num_actions)
    return result
