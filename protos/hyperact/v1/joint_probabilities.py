"""How probable a whole sequence of actions is when its steps share an index. Pure.

Steps of one segment are decided under one index, so their actions are not independent: the product of their
propensities is not their probability. With C(l, t) the share of step t's action under the bank's index l,

    P(a_0 .. a_t) = product over segments of P(the segment's actions up to t)
    P(one segment's actions) = n / L,        n = sum over l of the product over the segment of C(l, t)
                             = (n + 1) / (L + 1) for actions that were observed to be this policy's

Letters: T steps, A num_actions, M index_dim, L the bank's size, p the true probability.

The smoothing for what was observed counts the index that was drawn in fact as one more of the bank: nothing is known of
it but that it chose these actions. Over draws of the bank E[(L + 1) / (n + 1)] = (1 - (1 - p)^(L + 1)) / p, so what
divides by it is never infinite, at most L + 1 times as large, and in the mean a little too small where p is below about
1 / L, rather than much too large. A policy that did not act is not smoothed: n / L is right in the mean, and may be 0.

Exact in either case: a bank that holds every index (n / L), and a segment of a single step with at most two allowed
actions where the propensity has a closed form.

An acting rule that values actions under several indices has draws of as many where this says index; one that explores
does so at each step apart, so that C(l, t) is what is left of 1 and its share of epsilon.

What the bank's luck does to a result is measured by leaving a part of it out: with `num_groups` G, column 1 + g of what
is returned is the same without the indices l = g modulo G. From a result's values over those columns, `jackknife_error`
gives its standard error.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import Float32s
from hyperact.v1.probabilities import Bools, Float64s, Ints, Reference, probabilities, win_shares

default_num_groups = 16


class Sequence(NamedTuple):
    """Steps one after the other.

    Attributes:
        coefficients: float32 [T, A, M + 1]; for an indexed graph the values under the bank's indices, [T, A, L].
        masks: [T, A], True where an action is allowed; None allows all.
        actions: [T].
        segments: [T]; neighbours with the same number share an index.
    """

    coefficients: Float32s
    masks: Bools | None
    actions: Ints
    segments: NDArray[np.int64]


def log_prefix_probabilities(
    sequence: Sequence, reference: Reference, *, is_observed: bool, num_groups: int = 0
) -> Float64s:
    """Return log P(a_0 .. a_t) for every t: [T, 1 + G]; -inf for what no draw of the bank does.

    The bank's size must be a multiple of `num_groups` unless the bank is exact.
    """
    shares = win_shares(sequence.coefficients, sequence.masks, sequence.actions, reference)
    allowed = _num_allowed(sequence)
    result = np.empty((len(shares), 1 + num_groups))
    before = np.zeros(1 + num_groups)
    for rows in stretches(sequence.segments):
        with np.errstate(divide="ignore"):
            if reference.is_exact:
                logs = np.log(np.cumprod(shares[rows], axis=0, dtype=np.float64).mean(axis=1))[:, np.newaxis]
            elif reference.has_closed_form and rows.stop - rows.start == 1 and allowed[rows.start] <= 2:
                logs = np.log(_single(sequence, rows, reference))[:, np.newaxis]
            else:
                logs = np.log(_over_bank(shares[rows], is_observed, num_groups))
        result[rows] = before + logs
        before = result[rows.stop - 1]
    return result


def jackknife_error(values: Float64s) -> float:
    """Return the standard error of a result from its values without each group: [G]. 0 without groups."""
    num_groups = len(values)
    if not num_groups:
        return 0.0
    deviations = values - values.mean()
    return float(np.sqrt((num_groups - 1) / num_groups * (deviations**2).sum()))


def stretches(segments: NDArray[np.int64]) -> Iterator[slice]:
    """Yield the rows of each segment, in order."""
    starts = np.flatnonzero(np.diff(segments, prepend=segments[:1] - 1))
    for start, end in zip(starts, [*starts[1:], len(segments)], strict=True):
        yield slice(int(start), int(end))


def _over_bank(shares: Float32s, is_observed: bool, num_groups: int) -> Float64s:
    """Return the probabilities of one segment's prefixes: [T, 1 + G]."""
    num_steps, bank_size = shares.shape
    held = np.cumprod(shares, axis=0)
    counts = held.sum(axis=1, dtype=np.float64)[:, np.newaxis]
    sizes = np.array([bank_size])
    if num_groups:
        # Index l = g modulo G stands in column g.
        of_group = held.reshape(num_steps, bank_size // num_groups, num_groups).sum(axis=1, dtype=np.float64)
        counts = np.concatenate([counts, counts - of_group], axis=1)
        sizes = np.array([bank_size] + [bank_size - bank_size // num_groups] * num_groups)
    result: Float64s = (counts + is_observed) / (sizes + is_observed)
    return result


def _single(sequence: Sequence, rows: slice, reference: Reference) -> Float64s:
    masks = None if sequence.masks is None else sequence.masks[rows]
    # A unit sphere may be sure of itself: what happened nevertheless is a matter of rounding, not of log 0.
    return np.maximum(
        probabilities(sequence.coefficients[rows], masks, reference, sequence.actions[rows]),
        np.finfo(np.float64).tiny,
    )


def _num_allowed(sequence: Sequence) -> Ints:
    num_steps, num_actions, _ = sequence.coefficients.shape
    if sequence.masks is None:
        return np.full(num_steps, num_actions)
    result: Ints = sequence.masks.sum(axis=1)
    return result
