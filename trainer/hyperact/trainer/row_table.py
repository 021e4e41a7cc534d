"""The first layer of an MLP over one-hot observations, as a table of rows: nothing here grows with the table's length.

A one-hot observation times the first layer's weights is one row of them. So a forward pass gathers rows, a gradient
touches the batch's rows, and what dense Adam would have done to all the others is computed when a row is next read:
equal to dense Adam up to rounding, not an approximation by "sparse" moments (see `adam_drift`).

The rules:

1. For each row stand its moments after the step that touched it last, the stamp, and its *limit*: the value at which
   it would come to rest if it were never touched again. Reading at step t adds what is left of the way to the limit.
2. The target network's rows are those at the last copy, step c. A row not touched since is read at c; one that is
   touched for the first time since has its value at c put aside first.
3. Blank observations are the row after the last, which is zero and stays zero.

Letters: R rows, B positions, H width. Stamps and times count learner steps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hyperact.trainer.adam import beta1, beta2
from hyperact.trainer.adam_drift import drift


class Clock(NamedTuple):
    """Where learning stands at one learner step.

    Attributes:
        times: int64 [2]: the number of steps made before, and at the last copy to the target network.
        corrections: Adam's, of the step that is made: see `adam_drift.bias_corrections`.
        nodes: float32 [3, 2, n]: of the drift before the step, after it, and at the last copy.
    """

    times: Tensor
    corrections: Tensor
    nodes: Tensor


class Rows(NamedTuple):
    """Rows at one time: their values and moments, float32 [B, H] each. The second moment is kept as its root."""

    values: Tensor
    firsts: Tensor
    roots: Tensor


class RowTable:
    """A table of rows and its target network's, with Adam's moments."""

    names = ("limits", "firsts", "roots", "snapshots", "stamps")

    def __init__(self, num_rows: int, width: int, epsilon: float, device: torch.device) -> None:
        self._epsilon = epsilon
        self.num_rows = num_rows
        self.limits, self.firsts, self.roots, self.snapshots = (
            torch.zeros(num_rows + 1, width, device=device) for _ in range(4)
        )
        self.stamps = torch.zeros(num_rows + 1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def load(self, rows: Rows, target: Tensor, clock: Clock) -> None:
        """Take on rows [R, H] as they are at a time, and the target network's."""
        self.limits[:-1] = rows.values - drift(rows.firsts, rows.roots, clock.nodes[0])
        self.firsts[:-1] = rows.firsts
        self.roots[:-1] = rows.roots
        self.snapshots[:-1] = target
        self.stamps.fill_(int(clock.times[0]))

    @torch.no_grad()
    def read_all(self, clock: Clock) -> tuple[Rows, Tensor]:
        """Return all rows [R, H] and the target network's."""
        positions = torch.arange(self.num_rows, device=self.stamps.device)
        return self.read(positions, clock.times[0], clock.nodes[0]), self.read_target(positions, clock)

    def read(self, positions: Tensor, time: Tensor, nodes: Tensor) -> Rows:
        """Return rows as they are at a time that is not before their stamps."""
        ages = (time - self.stamps[positions]).clamp(min=0).to(torch.float32).unsqueeze(-1)
        firsts = self.firsts[positions] * torch.exp(math.log(beta1) * ages)
        roots = self.roots[positions] * torch.exp(0.5 * math.log(beta2) * ages)
        return Rows(self.limits[positions] + drift(firsts, roots, nodes), firsts, roots)

    def read_target(self, positions: Tensor, clock: Clock) -> Tensor:
        """Return the target network's rows: float32 [B, H]."""
        was_touched = (self.stamps[positions] > clock.times[1]).unsqueeze(-1)
        untouched = self.read(positions, clock.times[1], clock.nodes[2]).values
        return torch.where(was_touched, self.snapshots[positions], untouched)

    def step(self, positions: Tensor, rows: Rows, gradients: Tensor, clock: Clock) -> None:
        """Make Adam's step on rows as they were read before it. Equal positions must come with equal gradients."""
        step_size, root_scale = clock.corrections.unbind()
        snapshots = self.read_target(positions, clock)
        firsts = beta1 * rows.firsts + (1 - beta1) * gradients
        roots = (beta2 * rows.roots**2 + (1 - beta2) * gradients**2).sqrt()
        values = rows.values - step_size * firsts / (roots * root_scale + self._epsilon)
        self.snapshots[positions] = snapshots
        self.limits[positions] = values - drift(firsts, roots, clock.nodes[1])
        self.firsts[positions] = firsts
        self.roots[positions] = roots
        self.stamps[positions] = clock.times[:1] + 1


def summed_by_position(positions: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each of a batch the sum of the gradients [B, H] of its position, and how often that is there [B].

    By a matrix of equalities: sums of the same numbers in the same order, whatever the number of threads.
    """
    is_same = (positions.unsqueeze(0) == positions.unsqueeze(1)).to(gradients.dtype)
    return is_same @ gradients, is_same.sum(1)
