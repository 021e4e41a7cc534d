"""One version, loaded: its manifest, its graph, and what decisions need to know of both.

The rules:

1. Nothing of a version is trusted: size, digest, manifest and graph are checked before the graph runs.
2. A hypermodel is complete when `load` returns and proven when `warm_up` returns; both block and belong off the loop.
3. After that it only computes: `ask` keeps no state, and any number of threads may call it.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hyperact.service import decision
from hyperact.service.errors import VersionRefusedError
from hyperact.service.onnx_files import find_foreign
from hyperact.v1 import manifests
from hyperact.v1.errors import FieldError
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import GraphKind, Manifest, ModelSpec
from hyperact.v1.probabilities import combine, logged_reference
from hyperact.v1.tensors import TensorChecker

max_manifest_bytes = 16 << 20
_max_indices_at_once = 1 << 11  # of all rows of a call, so that what a head makes of them stays in the cache
_onnx_name_of_dtype = {"float32": "float", "float64": "double"}


class Valuations(NamedTuple):
    """What a version says of a batch.

    Attributes:
        values: float32 [B, A], what each action is worth under the row's own indices.
        beliefs: float32 [B, A, W], over all indices: coefficients, or values under the bank (`Reference.is_affine`).
    """

    values: Float32s
    beliefs: Float32s


class Hypermodel(ABC):
    """Turns observations and indices into what the actions are worth.

    Letters: B observations, A num_actions, M index_dim, n num_indices of the acting rule, L the bank's draws, W the
    width of beliefs.

    Shapes:
        observations: the spec's dtype [B, *observation_shape]
        indices:      float32 [B, n, M]

    Invariant: the row of one observation does not depend on the other rows.

    Attributes:
        digest: what steps name the version by, whatever its number in the registry.
        reference: how the version acts, and the bank that its propensities are counted over.
        ports: what its graph takes and answers.
    """

    def __init__(self, manifest: Manifest, digest: bytes, session: onnxruntime.InferenceSession) -> None:
        self.manifest = manifest
        self.digest = digest
        self.spec = manifest.spec
        self.checker = TensorChecker(manifest.spec.observation)
        self.num_actions = manifest.spec.action.discrete.num_actions
        self.index_dim = manifest.spec.index_dim
        self.reference = logged_reference(manifest)
        self.ports = self.ports_of(manifest.spec)
        self._session = session

    @staticmethod
    def load(
        directory: Path,
        *,
        model: str,
        max_onnx_bytes: int,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> "Hypermodel":
        """Read and check a version's directory; VersionRefusedError says why it cannot be served.

        `model` is the name that the version is registered under; a version made for another one is refused.
        """
        manifest, digest = _read_manifest(directory / manifests.file_name)
        if manifest.model != model:
            raise VersionRefusedError("WRONG_MODEL", f"made for model {manifest.model!r}, registered as {model!r}")
        content = _read_onnx(directory / manifest.onnx_file, manifest.onnx_sha256, max_onnx_bytes)
        session = _open_session(content, providers)
        is_indexed = manifest.graph_kind == GraphKind.GRAPH_KIND_INDEXED
        made: Hypermodel = (IndexedHypermodel if is_indexed else CoefficientHypermodel)(manifest, digest, session)
        _check_graph(session, made.ports)
        return made

    @abstractmethod
    def ask(self, observations: NDArray[Any], indices: Float32s) -> Valuations:
        """Return what the actions are worth."""

    @staticmethod
    @abstractmethod
    def ports_of(spec: ModelSpec) -> "Ports":
        """Return what a graph of this kind must take and answer."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Float32s:
        """Return the graph's one output for its inputs by name."""
        answer: Float32s = self._session.run([self.ports.output.name], dict(inputs))[0]
        return answer

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Run once per batch size; VersionRefusedError BAD_OUTPUT if an answer has a wrong shape or is not finite."""
        spec = self.manifest.spec.observation
        low = spec.minimum if spec.HasField("minimum") else 0.0
        for batch_size in batch_sizes:
            observations = np.full((batch_size, *self.checker.shape), low).astype(self.checker.dtype)
            indices = np.resize(self.reference.bank, (batch_size, self.reference.num_indices, self.index_dim))
            try:
                answers = self.ask(observations, indices)
            except VersionRefusedError:
                raise
            except Exception as error:  # the runtime raises classes of its own making
                raise VersionRefusedError(
                    "BAD_OUTPUT", f"the graph fails on a batch of {batch_size}: {error}"
                ) from error
            if not all(np.isfinite(part).all() for part in answers):
                raise VersionRefusedError("BAD_OUTPUT", "answers are not finite for a constant observation")

    def _run(self, expected: tuple[int, ...], **inputs: NDArray[Any]) -> Float32s:
        answer = self.run(inputs)
        if answer.shape != expected:
            message = f"expected {self.ports.output.name} {expected}, got {answer.shape}"
            raise VersionRefusedError("BAD_OUTPUT", message)
        return answer


class CoefficientHypermodel(Hypermodel):
    """One whose graph answers coefficients, from which any index gives action values.

    q(o, a, z) = c(o)[a, 0] + c(o)[a, 1:] · z        for the index z
    """

    def ask(self, observations: NDArray[Any], indices: Float32s) -> Valuations:
        """Return the coefficients, float32 [B, A, M + 1], and the values that they give."""
        coefficients = self.coefficients(observations)
        if indices.shape[1] == 1:
            return Valuations(decision.index_values(coefficients, indices[:, 0]), coefficients)
        values = [decision.index_values(coefficients, indices[:, place]) for place in range(indices.shape[1])]
        return Valuations(combine(np.stack(values, axis=-1), self.reference), coefficients)

    def coefficients(self, observations: NDArray[Any]) -> Float32s:
        """Return float32 [B, A, M + 1] for observations [B, *observation_shape] of the spec's dtype."""
        expected = (len(observations), self.num_actions, self.index_dim + 1)
        return self._run(expected, observations=observations)

    @staticmethod
    def ports_of(spec: ModelSpec) -> "Ports":
        """Return observations in, coefficients out."""
        return Ports(
            _observations_port(spec), Port("coefficients", "float", (None, _num_actions(spec), spec.index_dim + 1))
        )


class IndexedHypermodel(Hypermodel):
    """One whose graph takes indices too: a row's own, and with them the whole bank, in one call.

    So the graph's torso runs once a row, and what depends on the index 1 + L times (n + n L with several indices).

    A row alone is asked twice: the runtime multiplies a single row by another kernel than several, which rounds
    otherwise, and an audit should find the same bits whatever batch a row was in.
    """

    def ask(self, observations: NDArray[Any], indices: Float32s) -> Valuations:
        """Return the values under the rows' own indices, and under the bank's: float32 [B, A, n L]."""
        rows_at_once = max(2, _max_indices_at_once // (len(self.reference.bank) + indices.shape[1]))
        parts = [
            self._ask(observations[row : row + rows_at_once], indices[row : row + rows_at_once])
            for row in range(0, len(observations), rows_at_once)
        ]
        return parts[0] if len(parts) == 1 else Valuations(*map(np.concatenate, zip(*parts, strict=True)))

    def _ask(self, observations: NDArray[Any], indices: Float32s) -> Valuations:
        if len(observations) == 1:
            twice = self._ask(np.repeat(observations, 2, axis=0), np.repeat(indices, 2, axis=0))
            return Valuations(twice.values[:1], twice.beliefs[:1])
        num_rows, num_own, index_dim = indices.shape
        bank = np.broadcast_to(self.reference.bank, (num_rows, len(self.reference.bank), index_dim))
        together = np.concatenate([indices, bank], axis=1)
        expected = (num_rows, together.shape[1], self.num_actions)
        values = self._run(expected, observations=observations, indices=together).swapaxes(1, 2)
        return Valuations(combine(values[:, :, :num_own], self.reference), values[:, :, num_own:])

    @staticmethod
    def ports_of(spec: ModelSpec) -> "Ports":
        """Return observations and indices in, values out."""
        indices = Port("indices", "float", (None, None, spec.index_dim))
        return Ports(_observations_port(spec), Port("values", "float", (None, None, _num_actions(spec))), indices)


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
        if foreign := find_foreign(content):
            raise VersionRefusedError("WRONG_SPEC", f"{path.name} needs {foreign}")
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
        session = onnxruntime.InferenceSession(content, options, providers=list(providers))
        for port in (*session.get_inputs(), *session.get_outputs()):
            _ = port.name, port.type, port.shape  # what is no text is met only when it is asked for
    except Exception as error:  # the runtime raises classes of its own making
        raise VersionRefusedError("LOAD_FAILED", f"ONNX Runtime cannot load it: {error}") from error
    return session


class Port(NamedTuple):
    """An input or output of a graph. In `shape` None stands for a dimension that must be left open."""

    name: str
    element_type: str
    shape: tuple[int | None, ...]


class Ports:
    """What a graph must take and answer."""

    def __init__(self, observations: Port, output: Port, *more_inputs: Port) -> None:
        self.inputs = (observations, *more_inputs)
        self.output = output


def _num_actions(spec: ModelSpec) -> int:
    return spec.action.discrete.num_actions


def _observations_port(spec: ModelSpec) -> Port:
    dtype = TensorChecker(spec.observation).dtype.name
    return Port("observations", _onnx_name_of_dtype.get(dtype, dtype), (None, *spec.observation.shape))


def _check_graph(session: onnxruntime.InferenceSession, ports: Ports) -> None:
    """Compare the graph's ports with those that it should have. What it leaves open is proven by warm-up."""
    _check_ports("input", session.get_inputs(), ports.inputs)
    _check_ports("output", session.get_outputs(), (ports.output,))


def _check_ports(side: str, found: Sequence[Any], expected: Sequence[Port]) -> None:
    by_name = {port.name: port for port in found}
    names = [port.name for port in expected]
    if sorted(by_name) != sorted(names):
        raise VersionRefusedError("WRONG_SPEC", f"expected the {side}s {names}, got {list(by_name)}")
    for port in expected:
        _check_port(side, by_name[port.name], port)


def _check_port(side: str, found: Any, expected: Port) -> None:
    if found.type != f"tensor({expected.element_type})":
        raise VersionRefusedError(
            "WRONG_SPEC", f"expected {side} {expected.name} of tensor({expected.element_type}), got {found.type}"
        )
    shape = list(found.shape or ())
    fits = len(shape) == len(expected.shape) and all(
        not isinstance(size, int) or size == wanted for size, wanted in zip(shape, expected.shape, strict=True)
    )
    if not fits:
        wanted = [size if size is not None else "any" for size in expected.shape]
        raise VersionRefusedError("WRONG_SPEC", f"expected {side} {expected.name} of shape {wanted}, got {shape}")
