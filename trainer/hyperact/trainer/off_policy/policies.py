"""What decided, and what might: policies by what their graphs answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import Float32s, bank_size
from hyperact.v1.joint_probabilities import Sequence, log_prefix_probabilities
from hyperact.v1.model_pb2 import GraphKind, ModelSpec
from hyperact.v1.probabilities import Float64s, Reference, make_reference, probabilities

_batch_size = 256


@dataclass
class Policy:
    """One version: how it acts, over its indices.

    Attributes:
        version: its number in the registry.
        spec: how it draws its index, and acts by it.
        graph: observations [B, *shape] to coefficients float32 [B, A, M + 1]; of an indexed graph to the values under
            the bank of `max_draws` draws, float32 [B, A, W].
        num_indices: the bank's size for joint probabilities, if it does not hold every index.
        graph_kind: what `graph` answers.
        num_logged: the size of the bank that its logged propensities were counted over.
    """

    version: str
    spec: ModelSpec
    graph: Callable[[NDArray[Any]], Float32s]
    num_indices: int = bank_size
    graph_kind: "GraphKind.ValueType" = GraphKind.GRAPH_KIND_COEFFICIENTS
    num_logged: int = bank_size
    _answers: dict[int, Float32s] = field(default_factory=dict)

    def coefficients(self, observations: NDArray[Any], rows: NDArray[np.int64]) -> Float32s:
        """Return what the graph answers to some rows of `observations`, which must always be the same array."""
        missing = np.array(sorted(set(rows.tolist()) - self._answers.keys()), np.int64)
        for start in range(0, len(missing), _batch_size):
            portion = missing[start : start + _batch_size]
            self._answers.update(zip(portion.tolist(), self.graph(observations[portion]), strict=True))
        return np.stack([self._answers[row] for row in rows.tolist()])

    def log_prefixes(self, sequence: Sequence, *, is_observed: bool, num_groups: int) -> Float64s:
        """Return the log probability of the actions up to each step: [T, 1 + G]."""
        return log_prefix_probabilities(sequence, self.reference, is_observed=is_observed, num_groups=num_groups)

    def propensities(self, sequence: Sequence) -> Float64s:
        """Return what the service logs for each step by itself: [T]."""
        reference = make_reference(self.spec, self.graph_kind, self.num_logged)
        return probabilities(sequence.coefficients, sequence.masks, reference, sequence.actions)

    @cached_property
    def reference(self) -> Reference:
        """How it acts, over `num_indices` draws."""
        return make_reference(self.spec, self.graph_kind, self.num_indices)

    @property
    def max_draws(self) -> int:
        """The size of the bank that an indexed graph is asked for: the longer begins with the shorter."""
        return max(self.num_indices, self.num_logged)

    @property
    def is_estimated(self) -> bool:
        """Whether its bank stands for infinitely many indices."""
        return not self.reference.is_exact


# Versions to policies; the target is among them if it decided itself.
Policies = Mapping[str, Policy]
