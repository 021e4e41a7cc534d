"""What a version's learner answered when it was exported, kept beside the ONNX file: so that whoever is about to serve
it can see whether the graph still answers the same, on another machine and in another release of the runtime. Pure.

The file is an .npz without pickles: `observations` [N, *shape], `coefficients` float32 [N, A, M + 1] (of an indexed
graph the values under the bank), and `scale`, the largest summand of them (a learned part and a prior may nearly
cancel, and rounding goes by the parts).
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.errors import FieldError
from hyperact.v1.indices import Float32s

file_name = "golden.npz"
max_bytes = 64 << 20
# Float32 sums in another order: a few units in the sixth digit of the largest summand.
relative_tolerance = 1e-4


@dataclass(frozen=True)
class Golden:
    """Observations and what the learner answered."""

    observations: NDArray[Any]
    coefficients: Float32s
    scale: float

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, observations=self.observations, coefficients=self.coefficients, scale=np.float64(self.scale)
        )
        return buffer.getvalue()


def from_bytes(content: bytes) -> Golden:
    """Return what a file holds; FieldError if it is not one."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return Golden(arrays["observations"], arrays["coefficients"], float(arrays["scale"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FieldError(file_name, f"expected golden answers: {error}") from error


def parity_problem(golden: Golden, graph: Callable[[NDArray[Any]], Float32s]) -> str:
    """Return how a graph's answers differ from the golden ones; empty if they agree."""
    answered = graph(golden.observations)
    if answered.shape != golden.coefficients.shape:
        return f"the learner answered {golden.coefficients.shape}, the graph {answered.shape}"
    difference = float(np.abs(answered - golden.coefficients).max(initial=0.0))
    if not difference <= relative_tolerance * golden.scale:
        return (
            f"the graph's coefficients differ from the learner's by {difference:.3g}; "
            f"allowed is {relative_tolerance:g} of the largest summand, {golden.scale:.3g}"
        )
    return ""
