"""Where indices are drawn from while learning: moments for the closed-form loss, and draws for the targets.

The service derives its indices from ids (hyperact.v1.indices); the learner draws from a stream, for nobody needs to
recompute the index of a target. Both are the same four distributions. Letters: M index_dim.
"""

import math
from typing import NamedTuple

import numpy as np

from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, Float32s
from hyperact.v1.model_pb2 import ReferenceDistribution


class Moments(NamedTuple):
    """The first two moments of an index z: E[z] = mean * (1, ..., 1) and E[z z'] = second * I."""

    mean: float
    second: float


def moments(index_dim: int, distribution: "ReferenceDistribution.ValueType") -> Moments:
    """Return the moments that the closed-form loss needs; for M = 0 they weigh nothing."""
    per_dimension = 1.0 / max(index_dim, 1)
    return {
        GAUSSIAN: Moments(0.0, 1.0),
        UNIT_SPHERE: Moments(0.0, per_dimension),
        ONE_HOT: Moments(per_dimension, per_dimension),
        COORDINATE: Moments(0.0, 1.0),
    }[distribution]


def draw_indices(
    rng: np.random.Generator,
    num_indices: int,
    index_dim: int,
    distribution: "ReferenceDistribution.ValueType",
) -> Float32s:
    """Draw indices: float32 [num_indices, M]."""
    if distribution in (GAUSSIAN, UNIT_SPHERE):
        normals = rng.standard_normal((num_indices, index_dim))
        if distribution == UNIT_SPHERE and index_dim:
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return normals.astype(np.float32)
    basis = np.eye(index_dim, dtype=np.float32)[rng.integers(index_dim, size=num_indices)]
    if distribution == COORDINATE:
        basis *= (math.sqrt(index_dim) * rng.choice((-1.0, 1.0), (num_indices, 1))).astype(np.float32)
    return basis


def is_discrete(distribution: "ReferenceDistribution.ValueType") -> bool:
    """Tell whether all indices of a distribution can be enumerated."""
    return distribution in (ONE_HOT, COORDINATE)
