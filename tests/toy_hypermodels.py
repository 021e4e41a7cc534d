"""Versions loaded, damaged and asked in tests."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import toys
from hyperact.service.hypermodel import CoefficientHypermodel, Hypermodel
from hyperact.v1 import manifests
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import Manifest


def load(directory: Path, model: str = "default", max_onnx_bytes: int = 1 << 20) -> Hypermodel:
    """Load a version as the service does."""
    return Hypermodel.load(directory, model=model, max_onnx_bytes=max_onnx_bytes)


def replace_graph(directory: Path, graph: onnx.ModelProto) -> None:
    """Put another graph into a version, with its digest."""
    content = graph.SerializeToString()
    (directory / toys.onnx_file).write_bytes(content)
    edit(directory, lambda manifest: setattr(manifest, "onnx_sha256", hashlib.sha256(content).hexdigest()))


def edit(directory: Path, change: Callable[[Manifest], Any]) -> None:
    """Change a version's manifest."""
    path = directory / manifests.file_name
    manifest = manifests.from_json(path.read_text())
    change(manifest)
    path.write_text(manifests.to_json(manifest))


def coefficients_of(hypermodel: Hypermodel, observations: NDArray[Any]) -> Float32s:
    """Return the coefficients of observations, from a version whose graph answers such."""
    assert isinstance(hypermodel, CoefficientHypermodel)
    return hypermodel.coefficients(observations)


def index_batch(hypermodel: Hypermodel, num_rows: int, seed: int = 0) -> Float32s:
    """Return indices for some rows, as many for each as the version's rule needs: float32 [B, n, M]."""
    shape = (num_rows, hypermodel.reference.num_indices, hypermodel.index_dim)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
