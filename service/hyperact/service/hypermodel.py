"""One version, loaded: its manifest, its graph, and what decisions need to know of both.

The rules:

1. Nothing of a version is trusted: size, digest, manifest and graph are checked before the graph runs.
2. A hypermodel is complete when `load` returns and proven when `warm_up` returns; both block and belong off the loop.
3. After that it only computes: `coefficients` keeps no state, and any number of threads may call it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hyperact.service.errors import VersionRefusedError
from hyperact.service.onnx_files import has_external_data
from hyperact.v1 import manifests
from hyperact.v1.errors import FieldError
from hyperact.v1.indices import Float32s, index_bank
from hyperact.v1.model_pb2 import GraphKind, Manifest
from hyperact.v1.tensors import TensorChecker

max_manifest_bytes = 16 << 20
_input, _output = "observations", "coefficients"
_onnx_name_of_dtype = {"float32": "float", "float64": "double"}


class Hypermodel:
    """Turns observations into coefficients, from which any index gives action values.

        q(o, a, z) = c(o)[a, 0] + c(o)[a, 1:] · z

    Letters: B observations, A num_actions, M index_dim, z the index.

    Shapes:
        observations: the spec's dtype [B, *observation_shape]
        coefficients: float32 [B, A, M + 1]

    Invariant: the row of one observation does not depend on the other rows.

    Attributes:
        digest: what steps name the version by, whatever its number in the registry.
    """

    def __init__(self, manifest: Manifest, digest: bytes, session: onnxruntime.InferenceSession) -> None:
        self.manifest = manifest
        self.digest = digest
        self.spec = manifest.spec
        self.checker = TensorChecker(manifest.spec.observation)
        self.num_actions = manifest.spec.action.discrete.num_actions
        self.index_dim = manifest.spec.index_dim
        self.bank = index_bank(self.index_dim, manifest.spec.reference_distribution)
        self._session = session

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        model: str,
        max_onnx_bytes: int,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> Self:
        """Read and check a version's directory; VersionRefusedError says why it cannot be served.

        `model` is the name that the version is registered under; a version made for another one is refused.
        """
        manifest, digest = _read_manifest(directory / manifests.file_name)
        if manifest.model != model:
            raise VersionRefusedError("WRONG_MODEL", f"made for model {manifest.model!r}, registered as {model!r}")
        if manifest.graph_kind != GraphKind.GRAPH_KIND_COEFFICIENTS:
            raise VersionRefusedError("WRONG_SPEC", "only graphs that answer coefficients are served")
        content = _read_onnx(directory / manifest.onnx_file, manifest.onnx_sha256, max_onnx_bytes)
        session = _open_session(content, providers)
        _check_graph(session, manifest)
        return cls(manifest, digest, session)

    def coefficients(self, observations: NDArray[Any]) -> Float32s:
        """Return float32 [B, A, M + 1] for observations [B, *observation_shape] of the spec's dtype."""
        result: Float32s = self._session.run([_output], {_input: observations})[0]
        return result

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run once per batch size; VersionRefusedError BAD_OUTPUT if an answer has a wrong shape or is not finite."""
        spec = self.manifest.spec.observation
        low = spec.minimum if spec.HasField("minimum") else 0.0
        for batch_size in batch_sizes:
            observations = np.full((batch_size, *self.checker.shape), low).astype(self.checker.dtype)
            try:
                answer = self.coefficients(observations)
            except Exception as error:  # the runtime raises classes of its own making
                raise VersionRefusedError(
                    "BAD_OUTPUT", f"the graph fails on a batch of {batch_size}: {error}"
                ) from error
            expected = (batch_size, self.num_actions, self.index_dim + 1)
            if answer.shape != expected:
                raise VersionRefusedError("BAD_OUTPUT", f"expected coefficients {expected}, got {answer.shape}")
            if not np.isfinite(answer).all():
                raise VersionRefusedError("BAD_OUTPUT", "coefficients are not finite for a constant observation")


def _read_manifest(path: Path) -> tuple[Manifest, bytes]:
    try:
        if path.stat().st_size > max_manifest_bytes:
            raise VersionRefusedError("TOO_LARGE", f"{path.name} is larger than {max_manifest_bytes} bytes")
        content = path.read_bytes()
        return manifests.from_json(content), manifests.version_digest(content)
    except OSError as error:
        raise VersionRefusedError("MISSING", f"cannot read {path.name}: {error.strerror}") from error
    except FieldError as error:
        raise VersionRefusedError("CORRUPT", f"{path.name}: {error}") from error


def _read_onnx(path: Path, sha256: str, max_bytes: int) -> bytes:
    try:
        num_bytes = path.stat().st_size
        if num_bytes > max_bytes:
            raise VersionRefusedError("TOO_LARGE", f"{path.name} has {num_bytes} bytes, the limit is {max_bytes}")
        content = path.read_bytes()
    except OSError as error:
        raise VersionRefusedError("MISSING", f"cannot read {path.name}: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VersionRefusedError("CORRUPT", f"{path.name} does not have the digest that the manifest promises")
    try:
        if has_external_data(content):
            raise VersionRefusedError("WRONG_SPEC", f"{path.name} refers to tensors in other files")
    except ValueError as error:
        raise VersionRefusedError("CORRUPT", f"{path.name} is not an ONNX file: {error}") from error
    return content


def _open_session(content: bytes, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # the runtime raises classes of its own making
        raise VersionRefusedError("LOAD_FAILED", f"ONNX Runtime cannot load it: {error}") from error


def _check_graph(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    """Compare the graph's input and output with the spec. What the graph leaves open is proven by warm-up."""
    spec = manifest.spec
    dtype = TensorChecker(spec.observation).dtype.name
    element_type = f"tensor({_onnx_name_of_dtype.get(dtype, dtype)})"
    shape = list(spec.observation.shape)
    _check_ports("input", session.get_inputs(), _input, element_type, shape)
    coefficients = [spec.action.discrete.num_actions, spec.index_dim + 1]
    _check_ports("output", session.get_outputs(), _output, "tensor(float)", coefficients)


def _check_ports(side: str, ports: Sequence[Any], name: str, element_type: str, shape: list[int]) -> None:
    if [port.name for port in ports] != [name]:
        raise VersionRefusedError("WRONG_SPEC", f"expected one {side} {name!r}, got {[port.name for port in ports]}")
    port = ports[0]
    if port.type != element_type:
        raise VersionRefusedError("WRONG_SPEC", f"expected {side} {name} of {element_type}, got {port.type}")
    is_batch_fixed = not port.shape or isinstance(port.shape[0], int)
    is_rank_wrong = len(port.shape) != len(shape) + 1
    if (
        is_batch_fixed
        or is_rank_wrong
        or any(
            isinstance(found, int) and found != expected for found, expected in zip(port.shape[1:], shape, strict=True)
        )
    ):
        raise VersionRefusedError(
            "WRONG_SPEC", f"expected {side} {name} of shape {['batch', *shape]}, got {port.shape}"
        )
