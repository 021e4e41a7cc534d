"""How probable an action is over indices: the arithmetic of propensities, the same for whoever logs them and whoever
weighs by them. Pure.

    q(a) = c[a, 0] + c[a, 1:] · z            the value of action a under the index z, of a graph of coefficients;
                                             an indexed graph answers q itself
    u(a) = quantile of q(a) under n indices  what the acting rule makes of it; n = 1: q(a) under the one index
    pi(a) = P(a is the argmax of u)          over indices z from the reference distribution
    propensity = (1 - epsilon) pi(a) + epsilon / K

Letters: B rows, A num_actions, M index_dim, n num_indices of the acting rule, L the bank's draws of n indices each,
K allowed actions of a row, W width of a graph's answer: M + 1 coefficients, or n L values under the bank.

How a row's pi are computed:

| allowed actions | Gaussian       | unit sphere          | one-hot, coordinate    | M = 0                 |
|-----------------|----------------|----------------------|------------------------|-----------------------|
| 1               | 1              | 1                    | 1                      | 1                     |
| 2               | Phi(dm / |dv|) | integral of cos^(M-2) | exact mean over the bank | exact mean over the bank |
| more            | (m + 1/K) / (L + 1) | (m + 1/K) / (L + 1) | exact mean over the bank | exact mean over the bank |

dm and dv are the differences of the two actions' means and loadings; m is how many of the bank's L draws the action
wins, a tie counting in equal parts. The smoothing by 1/K of one more draw keeps every allowed action's probability
positive, whatever the bank's luck, and the sum at 1. The closed forms for two actions need coefficients and n = 1; an
indexed graph is counted for two as for more. With n > 1 the discrete distributions are drawn and counted likewise: they
have too many combinations, unless the n are all of their vectors, which is one draw and sure.

What is counted with smoothing is an estimate: its standard error is `monte_carlo_error`.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, bank_size, drawn_bank, index_bank
from hyperact.v1.model_pb2 import GraphKind, Manifest, ModelSpec, ReferenceDistribution

Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]
Float64s = NDArray[np.float64]
_max_bank_values = 1 << 22  # values computed at once, so that a large batch of many actions stays in cache and memory


class Reference(NamedTuple):
    """The distribution that indices come from, with its fixed bank, and how a version acts by them.

    Attributes:
        bank: float32 [n L, M]; the n indices of a draw lie together.
        num_indices: n, under how many indices an action is valued.
        quantile: which of its n values counts; 1: the greatest.
        epsilon: how probable a uniformly random action is.
        is_affine: whether answers are coefficients; otherwise they are values under each of the bank's indices.
    """

    distribution: "ReferenceDistribution.ValueType"
    bank: Float32s
    num_indices: int = 1
    quantile: float = 1.0
    epsilon: float = 0.0
    is_affine: bool = True

    @property
    def num_draws(self) -> int:
        """L."""
        return len(self.bank) // self.num_indices

    @property
    def is_exact(self) -> bool:
        """Whether the bank holds everything that can be drawn, so that a mean over it is a probability."""
        is_discrete = self.distribution not in (GAUSSIAN, UNIT_SPHERE)
        return self.num_draws == 1 or (self.num_indices == 1 and is_discrete)

    @property
    def num_drawn(self) -> int:
        """How many indices `derive_indices` is asked for: 0 if the n are every vector of a discrete distribution."""
        return 0 if self.num_draws == 1 and self.num_indices > 1 else self.num_indices

    @property
    def has_closed_form(self) -> bool:
        """Whether the probabilities of two actions need no bank."""
        return self.is_affine and self.num_indices == 1 and not self.is_exact

    def first(self, num_draws: int) -> "Reference":
        """Return the same over a bank's first draws; an exact bank stays whole."""
        return self if self.is_exact else self._replace(bank=self.bank[: num_draws * self.num_indices])


def make_reference(spec: ModelSpec, graph_kind: "GraphKind.ValueType", num_draws: int = bank_size) -> Reference:
    """Return how a version of this spec acts, with a bank of so many draws."""
    rule = spec.acting_rule
    num_indices = rule.num_indices if rule.HasField("num_indices") else 1
    if num_indices > 1:
        bank = drawn_bank(spec.index_dim, spec.reference_distribution, num_indices * num_draws)
    else:
        bank = index_bank(spec.index_dim, spec.reference_distribution, num_draws)
    return Reference(
        distribution=spec.reference_distribution,
        bank=bank,
        num_indices=num_indices or len(bank),
        quantile=rule.quantile if rule.HasField("quantile") else 1.0,
        epsilon=rule.epsilon,
        is_affine=graph_kind != GraphKind.GRAPH_KIND_INDEXED,
    )


def logged_reference(manifest: Manifest) -> Reference:
    """Return what a version's logged propensities are computed over."""
    return make_reference(manifest.spec, manifest.graph_kind, manifest.bank_size or bank_size)


def probabilities(answers: Float32s, masks: Bools | None, reference: Reference, actions: Ints) -> Float64s:
    """Return the probability, over indices, that each row's given action is chosen: [B]. 0 for a forbidden one.

    answers: float32 [B, A, W].
    """
    num_rows, num_actions, _ = answers.shape
    if masks is None:
        if num_actions == 1:
            return np.ones(num_rows)
        if num_actions == 2 and reference.has_closed_form:
            result = _closed_form(answers, actions, 1 - actions, reference)
        else:
            result = _over_bank(answers, None, reference, actions)
        return _explored(result, 1.0 / num_actions, reference)
    is_allowed = masks[np.arange(num_rows), actions]
    result = is_allowed.astype(np.float64)
    num_allowed = masks.sum(axis=1)
    is_open = is_allowed & (num_allowed > 1)
    is_pair = is_open & (num_allowed == 2) & reference.has_closed_form
    rows = np.flatnonzero(is_pair)
    if rows.size:
        others = masks[rows].copy()
        others[np.arange(rows.size), actions[rows]] = False
        result[rows] = _closed_form(answers[rows], actions[rows], others.argmax(axis=1), reference)
    rows = np.flatnonzero(is_open & ~is_pair)
    if rows.size:
        result[rows] = _over_bank(answers[rows], masks[rows], reference, actions[rows])
    return _explored(result, is_allowed / num_allowed, reference)


def each_probability(answers: Float32s, masks: Bools | None, reference: Reference) -> Float64s:
    """Return the probability of every action of every row, as `probabilities` does for one: [B, A]."""
    num_rows, num_actions, _ = answers.shape
    allowed = np.ones((num_rows, num_actions), np.bool_) if masks is None else masks
    num_allowed = allowed.sum(axis=1)
    num_won = np.zeros((num_rows, num_actions))
    for rows, draws in _portions(num_rows, num_actions, reference):
        num_won[rows] += _num_won_each(bank_values(answers[rows], allowed[rows], reference, draws))
    num_draws = reference.num_draws
    result = num_won / num_draws
    if not reference.is_exact:
        result = (num_won + 1.0 / num_allowed[:, None]) / (num_draws + 1) * allowed
    if reference.has_closed_form:
        pairs = np.flatnonzero(num_allowed == 2)
        first, second = allowed[pairs].argmax(axis=1), num_actions - 1 - allowed[pairs, ::-1].argmax(axis=1)
        result[pairs, first] = _closed_form(answers[pairs], first, second, reference)
        result[pairs, second] = 1.0 - result[pairs, first]
    result[num_allowed == 1] = allowed[num_allowed == 1]
    return _explored(result, allowed / num_allowed[:, None], reference)


def win_shares(answers: Float32s, masks: Bools | None, actions: Ints, reference: Reference) -> Float32s:
    """Return for each row and draw of the bank how probable the given action is: float32 [B, L].

    Without epsilon 1 where it is the only best action, 1 / k where it is one of k equally good ones, else 0. So a
    probability over the bank is a row's mean, and the probability of several actions under held indices is the mean of
    the product of their rows.
    """
    num_rows, num_actions, _ = answers.shape
    num_draws = reference.num_draws
    shares = np.empty((num_rows, num_draws), np.float32)
    rows_at_once = max(1, _max_bank_values // (num_actions * len(reference.bank)))
    for row in range(0, num_rows, rows_at_once):
        rows = slice(row, row + rows_at_once)
        some_masks = None if masks is None else masks[rows]
        values = bank_values(answers[rows], some_masks, reference, slice(0, num_draws))
        is_best = values == values.max(axis=0)
        chosen = is_best[actions[rows], np.arange(len(actions[rows]))]
        shares[rows] = chosen / is_best.sum(axis=0, dtype=np.float32)
    if reference.epsilon:
        uniform = np.ones(num_rows) / num_actions
        if masks is not None:
            uniform = masks[np.arange(num_rows), actions] / masks.sum(axis=1)
        shares = _explored(shares, uniform[:, np.newaxis], reference).astype(np.float32)
    return shares


def each_win_share(answers: Float32s, masks: Bools | None, reference: Reference) -> Float32s:
    """Return `win_shares` of every action: float32 [B, L, A]."""
    values = bank_values(answers, masks, reference, slice(0, reference.num_draws))
    is_best = values == values.max(axis=0)
    shares: Float32s = is_best / is_best.sum(axis=0, dtype=np.float32)
    shares = shares.transpose(1, 2, 0)
    if reference.epsilon:
        allowed = np.ones(answers.shape[:2], np.bool_) if masks is None else masks
        uniform = allowed / allowed.sum(axis=1, keepdims=True)
        shares = _explored(shares, uniform[:, np.newaxis], reference).astype(np.float32)
    return shares


def bank_values(answers: Float32s, masks: Bools | None, reference: Reference, draws: slice) -> Float32s:
    """Return what each action is worth under some draws of the bank: float32 [A, B, L].

    Forbidden actions are worth minus infinity. Maxima are fastest over the first axis.
    """
    num_indices = reference.num_indices
    rows = slice(draws.start * num_indices, draws.stop * num_indices)
    values = _affine_values(answers, reference.bank[rows]) if reference.is_affine else _tabled_values(answers, rows)
    if num_indices > 1:
        values = combine(values.reshape(*values.shape[:2], -1, num_indices), reference)
    if masks is not None:
        values[~masks.T] = -np.inf
    return values


def combine(values: Float32s, reference: Reference) -> Float32s:
    """Return what the acting rule makes of values under n indices: float32 [..., n] to [...].

    The quantile is interpolated linearly between the two nearest of the sorted values.
    """
    num_indices = values.shape[-1]
    result: Float32s
    if num_indices == 1 or reference.quantile == 1.0:
        result = values.max(axis=-1)
        return result
    ordered = np.sort(values, axis=-1)
    place = reference.quantile * (num_indices - 1)
    low = int(place)
    below = ordered[..., low]
    result = below + np.float32(place - low) * (ordered[..., min(low + 1, num_indices - 1)] - below)
    return result


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


def _explored(chances: NDArray[Any], uniform: float | Float64s, reference: Reference) -> NDArray[Any]:
    """Mix probabilities with those of a uniformly random allowed action."""
    epsilon = reference.epsilon
    return (1.0 - epsilon) * chances + epsilon * uniform if epsilon else chances


def _closed_form(coefficients: Float32s, actions: Ints, others: Ints, reference: Reference) -> Float64s:
    rows = np.arange(len(coefficients))
    difference = coefficients[rows, actions].astype(np.float64) - coefficients[rows, others]
    norm = np.sqrt((difference[:, 1:] ** 2).sum(axis=1))
    return pair_probability(difference[:, 0], norm, difference.shape[1] - 1, reference.distribution)


def _over_bank(answers: Float32s, masks: Bools | None, reference: Reference, actions: Ints) -> Float64s:
    """Return the share of the bank's draws under which each row's action is best."""
    num_rows, num_actions, _ = answers.shape
    num_won = np.zeros(num_rows)
    for rows, draws in _portions(num_rows, num_actions, reference):
        values = bank_values(answers[rows], None if masks is None else masks[rows], reference, draws)
        num_won[rows] += _num_won(values, actions[rows])
    if reference.is_exact:
        return num_won / reference.num_draws
    num_allowed = num_actions if masks is None else masks.sum(axis=1)
    result: Float64s = (num_won + 1.0 / num_allowed) / (reference.num_draws + 1)
    return result


def _portions(num_rows: int, num_actions: int, reference: Reference) -> Iterator[tuple[slice, slice]]:
    """Yield rows and draws of the bank that together fit into memory: nearly always everything at once."""
    draws_at_once = max(1, _max_bank_values // (num_actions * reference.num_indices))
    rows_at_once = max(1, _max_bank_values // (num_actions * len(reference.bank)))
    for row in range(0, num_rows, rows_at_once):
        for draw in range(0, reference.num_draws, draws_at_once):
            draws = slice(draw, min(draw + draws_at_once, reference.num_draws))
            yield slice(row, row + rows_at_once), draws


def _affine_values(coefficients: Float32s, indices: Float32s) -> Float32s:
    """Return the values under some indices [L, M], from coefficients [B, A, M + 1]: float32 [A, B, L]."""
    loadings = np.ascontiguousarray(coefficients[:, :, 1:].swapaxes(0, 1))
    num_actions, num_rows, index_dim = loadings.shape
    flat: Float32s = loadings.reshape(num_actions * num_rows, index_dim) @ indices.T
    values = flat.reshape(num_actions, num_rows, len(indices))
    values += coefficients[:, :, 0].T[:, :, None]
    return values


def _tabled_values(values: Float32s, rows: slice) -> Float32s:
    """Return the values under some rows of the bank, from those under all of it [B, A, W]: float32 [A, B, L]."""
    return np.array(values[:, :, rows].swapaxes(0, 1), np.float32, order="C")


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
