"""What decided, and what might: policies by their coefficients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.joint_probabilities import Sequence, log_prefix_probabilities
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.probabilities import Float64s, Reference, probabilities

_batch_size = 256


@dataclass
class Policy:
    """One version: Thompson sampling over its indices.

    Attributes:
        version: its number in the registry.
        spec: how it draws its index.
        graph: observations [B, *shape] to coefficients float32 [B, A, M + 1].
        num_indices: the bank's size for joint probabilities, if its indices are continuous.
    """

    version: str
    spec: ModelSpec
    graph: Callable[[NDArray[Any]], Float32s]
    num_indices: int = 1024
    _answers: dict[int, Float32s] = field(default_factory=dict)

    def coefficients(self, observations: NDArray[Any], rows: NDArray[np.int64]) -> Float32s:
        """Return the coefficients of some rows of `observations`, which must always be the same array."""
        missing = np.array(sorted(set(rows.tolist()) - self._answers.keys()), np.int64)
        for start in range(0, len(missing), _batch_size):
            portion = missing[start : start + _batch_size]
            self._answers.update(zip(portion.tolist(), self.graph(observations[portion]), strict=True))
        return np.stack([self._answers[row] for row in rows.tolist()])

    def log_prefixes(self, sequence: Sequence, *, is_observed: bool, num_groups: int) -> Float64s:
        """Return the log probability of the actions up to each step: [T, 1 + G]."""
        bank = index_bank(self.spec.index_dim, self.spec.reference_distribution, self.num_indices)
        reference = Reference(self.spec.reference_distribution, bank)
        return log_prefix_probabilities(sequence, reference, is_observed=is_observed, num_groups=num_groups)

    def propensities(self, sequence: Sequence) -> Float64s:
        """Return what the service logs for each step by itself: [T]."""
        bank = index_bank(self.spec.index_dim, self.spec.reference_distribution)
        reference = Reference(self.spec.reference_distribution, bank)
        return probabilities(sequence.coefficients, sequence.masks, reference, sequence.actions)

    @property
    def is_estimated(self) -> bool:
        """Whether its bank stands for infinitely many indices."""
        return self.spec.index_dim > 0 and self.spec.reference_distribution in (GAUSSIAN, UNIT_SPHERE)


# Versions to policies; the target is among them if it decided itself.
Policies = Mapping[str, Policy]
