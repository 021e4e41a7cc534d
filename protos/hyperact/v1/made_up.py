"""Observations that nobody saw: for versions that saw none yet, and to judge what one does where it saw nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensors import numpy_dtype


def made_up_observations(spec: ModelSpec, number: int = 16, seed: int = 0) -> NDArray[Any]:
    """Return observations within the spec's bounds."""
    rng = np.random.default_rng(seed)
    shape, dtype = (number, *spec.observation.shape), numpy_dtype(spec.observation.dtype)
    low = spec.observation.minimum if spec.observation.HasField("minimum") else -1.0
    high = spec.observation.maximum if spec.observation.HasField("maximum") else 1.0
    if dtype.kind == "f":
        return rng.uniform(low, high, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    bounds = np.iinfo(dtype)
    if not spec.observation.HasField("minimum"):
        low, high = bounds.min, min(bounds.max, 255)
    return rng.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
