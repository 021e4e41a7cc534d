"""A table of coefficients as a hypermodel, so that it is exported, judged and served like any other.

    c(o) = sum over states s of o[s] C[s]          o one-hot: the row of its state

Shapes: observations [B, S], one-hot, of any dtype; table float32 [S, A, M + 1]. Letters: S states, A num_actions, M
index_dim, B observations.
"""

import numpy as np
import torch
from torch import Tensor, nn

from hyperact.trainer.heads.summand import AffineSummand, NoPrior
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.tabular.mdp import Float64s


class Table(AffineSummand):
    """A row of coefficients for each state."""

    def __init__(self, coefficients: Float64s) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(coefficients.astype(np.float32)), requires_grad=False)

    def encode(self, observations: Tensor) -> Tensor:
        """Return the coefficients of the states: float32 [B, A, M + 1]."""
        rows = observations.float() @ self.table.flatten(1)
        return rows.reshape(-1, *self.table.shape[1:])


class TabularHypermodel(Hypermodel):
    """One whose learnable summand is a table that holds everything, its prior included."""

    def __init__(self, coefficients: Float64s) -> None:
        super(Hypermodel, self).__init__()
        _, self.num_actions, width = coefficients.shape
        self.index_dim = width - 1
        self.learnable = Table(coefficients)
        self.prior = NoPrior(self.num_actions, self.index_dim)
