"""How far Adam still moves a parameter that gets no more gradients: what makes a row that was not touched computable.

Adam moves a parameter also where its gradient is zero, for its moments only decay. With moments m and v = s^2 after
step t, and zero gradients from then on, the steps t + 1, t + 2, ... together move it by minus

    D_t(m, s) = learning_rate * m * sum_j a_j y_j / (s + epsilon y_j)          j = 1, 2, ...
    a_j = beta1^j / (1 - beta1^(t+j))          y_j = sqrt((1 - beta2^(t+j)) / beta2^j)

So a parameter that was last touched at step t with the value p is worth, at step t + k,

    p - D_t(m, s) + D_(t+k)(beta1^k m, beta2^(k/2) s)

whatever k: two sums in place of k steps. Each sum is an integral of the smooth function y / (s + epsilon y) under
the positive weights a_j, and few distinct y_j matter because a_j falls by beta1 a step: a Gauss rule of five nodes has
an absolute error below 3e-7 of parameter after the first step, below 1e-9 from the sixth on, and below 1e-12 from the
fiftieth on (at learning rate 1e-3, over all m and s that Adam can produce). The nodes depend on t alone.

Letters: t the number of the last step, n the number of nodes. Source of the rule: Golub & Welsch 1969, by the
Lanczos process on the discrete weights.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperact.trainer.adam import beta1, beta2

num_nodes = 5
# Terms fall by beta1: the 400th is 1e-18 of the first.
_num_terms = 400
_block_size = 512
# Beyond it the bias corrections are 1 to float32, and nodes no longer depend on t.
_last_step = 32 * _block_size

Float64s = NDArray[np.float64]


class DriftNodes:
    """The nodes for every step, computed as learning gets there.

    Shapes:
        at: float32 [2, n]: the factors learning_rate * w_i y_i and epsilon * y_i of the rule at a step
        bias_corrections: float32 [2]: learning_rate / (1 - beta1^t) and 1 / sqrt(1 - beta2^t)
    """

    def __init__(self, learning_rate: float, epsilon: float) -> None:
        self._learning_rate = learning_rate
        self._epsilon = epsilon
        self._blocks: dict[int, Tensor] = {}

    def at(self, step: int) -> Tensor:
        """Return the nodes after a step."""
        block, place = divmod(min(step, _last_step), _block_size)
        if block not in self._blocks:
            self._blocks[block] = self._make_block(block)
        return self._blocks[block][place]

    def _make_block(self, block: int) -> Tensor:
        weights, nodes = gauss_rule(np.arange(block * _block_size, (block + 1) * _block_size))
        factors = np.stack([self._learning_rate * weights * nodes, self._epsilon * nodes], axis=1)
        return torch.from_numpy(factors.astype(np.float32))


def bias_corrections(step: int, learning_rate: float) -> Tensor:
    """Return learning_rate / (1 - beta1^t) and 1 / sqrt(1 - beta2^t): float32 [2]."""
    return torch.tensor([learning_rate / (1.0 - beta1**step), (1.0 - beta2**step) ** -0.5])


def drift(first: Tensor, root: Tensor, nodes: Tensor) -> Tensor:
    """Return D_t(m, s) from m and s, each float32 [...], and the nodes after step t."""
    factors, shifts = nodes.unbind()
    total = factors[0] / (root + shifts[0])
    for place in range(1, num_nodes):
        total = total + factors[place] / (root + shifts[place])
    return first * total


def gauss_rule(steps: NDArray[np.int64]) -> tuple[Float64s, Float64s]:
    """Return the weights and the nodes y of the rule after each of some steps, float64 [T, n] each."""
    j = np.arange(1.0, _num_terms + 1)
    times = steps[:, np.newaxis] + j
    weights = beta1**j / -np.expm1(times * np.log(beta1))
    nodes = np.sqrt(-np.expm1(times * np.log(beta2)) / beta2**j)
    total = weights.sum(1, keepdims=True)
    eigenvalues, vectors = np.linalg.eigh(_jacobi_matrices(np.sqrt(weights / total), nodes))
    return total * vectors[:, 0, :] ** 2, eigenvalues


def _jacobi_matrices(start: Float64s, nodes: Float64s) -> Float64s:
    """Return the matrices [T, n, n] of Lanczos processes on diagonal matrices [T, J] from unit vectors [T, J]."""
    matrices = np.zeros((len(start), num_nodes, num_nodes))
    basis = [start]
    for place in range(num_nodes):
        residual = nodes * basis[-1]
        matrices[:, place, place] = (residual * basis[-1]).sum(1)
        # Against all of the basis and not the last two alone: rounding would bring the others back.
        for vector in basis:
            residual = residual - (residual * vector).sum(1, keepdims=True) * vector
        norm = np.linalg.norm(residual, axis=1, keepdims=True)
        if place + 1 < num_nodes:
            matrices[:, place, place + 1] = matrices[:, place + 1, place] = norm[:, 0]
        basis.append(residual / norm)
    return matrices
