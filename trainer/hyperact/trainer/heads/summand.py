"""What the two summands of a hypermodel, the learnable one and the frozen prior, have in common.

Letters: B observations, K indices per observation, M index_dim, A num_actions.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from hyperact.trainer.reference_distributions import Moments
from hyperact.v1.model_pb2 import GraphKind


class Summand(nn.Module, ABC):
    """A function of observations and indices, in two halves: what indices share, and what each of them adds.

        f(o, z) = values(encode(o), z)

    Shapes:
        observations: the spec's dtype [B, *observation_shape]
        encode:       float32 [B, ...]; computed once per observation, however many indices there are
        values:       float32 [B, K, A] from encode's answer and indices float32 [B, K, M]

    Invariants: the values under one index do not depend on the other indices, nor on the other observations.
    """

    graph_kind: "GraphKind.ValueType" = GraphKind.GRAPH_KIND_INDEXED

    @abstractmethod
    def encode(self, observations: Tensor) -> Tensor:
        """Return what does not depend on the index."""

    @abstractmethod
    def values(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """Return the value of each action under each index."""

    def generated_square(self, moments: Moments) -> Tensor:  # noqa: ARG002 -- heads that generate need them
        """Return the mean square of the generated last-layer weights, over all of them and over indices."""
        raise ValueError(f"regularisation: expected a head that generates its last layer, got {type(self).__name__}")

    def forward(self, observations: Tensor, indices: Tensor | None = None) -> Tensor:
        """Return the values under indices; without any, what does not depend on them."""
        encoded = self.encode(observations)
        return encoded if indices is None else self.values(encoded, indices)


class AffineSummand(Summand):
    """A summand that is affine in the index: what does not depend on it are the coefficients, float32 [B, A, M + 1].

    f(o, a, z) = c(o)[a, 0] + c(o)[a, 1:] . z
    """

    graph_kind = GraphKind.GRAPH_KIND_COEFFICIENTS

    def values(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """Return the value of each action under each index."""
        return indexed_values(encoded, indices)


class NoPrior(AffineSummand):
    """The prior of a model without one: coefficients of zero."""

    def __init__(self, num_actions: int, index_dim: int) -> None:
        super().__init__()
        self._shape = (num_actions, index_dim + 1)

    def encode(self, observations: Tensor) -> Tensor:
        """Return zeros."""
        return observations.new_zeros((1,)).float().expand(observations.shape[0], *self._shape)


def indexed_values(coefficients: Tensor, indices: Tensor) -> Tensor:
    """Return q = m + v . z: [B, K, A] from coefficients [B, A, M + 1] and indices [B, K, M]."""
    loadings = coefficients[..., 1:].transpose(-1, -2)
    return coefficients[..., 0].unsqueeze(-2) + indices @ loadings
