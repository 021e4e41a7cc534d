"""A hypermodel as a file that explains itself: an ONNX graph and its manifest, checked against torch before anyone
sees it.

The graph: input "observations" [B, *shape] in the spec's dtype (the cast is inside), output "coefficients" float32
[B, A, M + 1], the frozen prior included. Of a head that is not affine in the index: a second input "indices" float32
[B, K, M], output "values" float32 [B, K, A]; what does not depend on the index is computed once a row. B and K are
dynamic. One file, no external data.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
import torch

from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.observations import Observations
from hyperact.v1 import golden, manifests
from hyperact.v1.golden import Golden, relative_tolerance
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import GraphKind, LogRange, Manifest, ModelSpec
from hyperact.v1.probabilities import Reference, logged_reference
from hyperact.v1.tensors import numpy_dtype

onnx_file = "model.onnx"
golden_batch_sizes = (1, 2, 7)
_num_golden_kept = 16

# A head that is not affine runs once for each index of the bank: a quarter of the usual 1024 is a quarter of the cost,
# and a standard error of at most 3.1 percentage points.
indexed_bank_size = 256
_num_parity_indices = 5
_max_indices_at_once = 1 << 15

_noisy_loggers = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


class ParityError(Exception):
    """The exported graph does not answer what torch answers."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version comes from."""

    model: str
    dataset: Sequence[LogRange] = ()
    parent_version: str = ""
    run_id: str = ""
    num_learner_steps: int = 0
    environment: str = ""


def to_onnx(hypermodel: Hypermodel, spec: ModelSpec) -> bytes:
    """Return the graph of a hypermodel, serialised: of coefficients if it has such, else of values under indices."""
    # Two rows, and three indices: an example of one would fix the size to one.
    example = [torch.from_numpy(np.zeros((2, *spec.observation.shape), numpy_dtype(spec.observation.dtype)))]
    batch, names, output = torch.export.Dim("batch", min=1), ["observations"], "coefficients"
    shapes = {"observations": {0: batch}}
    if hypermodel.graph_kind == GraphKind.GRAPH_KIND_INDEXED:
        example.append(torch.zeros(2, 3, spec.index_dim))
        shapes["indices"] = {0: batch, 1: torch.export.Dim("index", min=1)}
        names, output = ["observations", "indices"], "values"
    with _quiet():
        program = torch.onnx.export(
            hypermodel,
            tuple(example),
            dynamo=True,
            input_names=names,
            output_names=[output],
            dynamic_shapes=shapes,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    graph = program.model_proto
    _forget_sources(graph)
    return graph.SerializeToString()


def write_version(
    directory: Path,
    hypermodel: Hypermodel,
    spec: ModelSpec,
    golden_observations: Observations,
    lineage: Lineage,
    now: datetime,
) -> Manifest:
    """Write graph, golden answers and manifest into a directory; ParityError (and no manifest) if they do not agree."""
    graph = to_onnx(hypermodel, spec)
    check_parity(hypermodel, graph, golden_observations)
    manifest = Manifest(
        format_version=manifests.format_version,
        model=lineage.model,
        spec=spec,
        graph_kind=hypermodel.graph_kind,
        bank_size=indexed_bank_size if hypermodel.graph_kind == GraphKind.GRAPH_KIND_INDEXED else 0,
        onnx_file=onnx_file,
        onnx_sha256=hashlib.sha256(graph).hexdigest(),
        dataset=lineage.dataset,
        parent_version=lineage.parent_version,
        run_id=lineage.run_id,
        num_learner_steps=lineage.num_learner_steps,
        environment=lineage.environment,
    )
    manifest.create_time.FromDatetime(now)
    manifests.check_manifest(manifest)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / onnx_file).write_bytes(graph)
    kept = _golden(hypermodel, golden_observations[:_num_golden_kept], logged_reference(manifest))
    (directory / golden.file_name).write_bytes(kept.to_bytes())
    (directory / manifests.file_name).write_text(manifests.to_json(manifest))
    return manifest


def check_parity(hypermodel: Hypermodel, graph: bytes, observations: Observations) -> None:
    """Raise ParityError unless torch and ONNX Runtime agree on [N, *shape], in batches of 1, 2, 7 and N + 1.

    A blank observation goes first: constant ones are where normalisations fail. Indices, where the graph takes them,
    are one a row and several, standard normal whatever the reference distribution: the graph is the same function.
    """
    session = OnnxGraph(graph)
    observations = np.concatenate([np.zeros_like(observations[:1]), observations])
    rng = np.random.default_rng(0)
    for size in (*golden_batch_sizes, len(observations)):
        batch = np.resize(observations, (size, *observations.shape[1:]))
        if hypermodel.graph_kind == GraphKind.GRAPH_KIND_COEFFICIENTS:
            _compare(hypermodel, session.coefficients(batch), batch, None)
            continue
        for num_indices in (1, _num_parity_indices):
            indices = rng.standard_normal((size, num_indices, hypermodel.index_dim)).astype(np.float32)
            _compare(hypermodel, session.values(batch, indices), batch, indices)


def _compare(hypermodel: Hypermodel, answered: Float32s, batch: Observations, indices: Float32s | None) -> None:
    """Raise ParityError unless a graph's answer is what torch says."""
    expected, scale = _answer(hypermodel, batch, indices)
    what = "coefficients" if indices is None else "values"
    if answered.shape != expected.shape:
        raise ParityError(f"batch of {len(batch)}: torch answers {expected.shape}, the graph {answered.shape}")
    difference = float(np.abs(answered - expected).max())
    if not difference <= relative_tolerance * scale:
        raise ParityError(
            f"batch of {len(batch)}: {what} differ by {difference:.3g}; "
            f"allowed is {relative_tolerance:g} of the largest summand, {scale:.3g}"
        )


def _golden(hypermodel: Hypermodel, observations: Observations, reference: Reference) -> Golden:
    """Return what torch answers: coefficients, or the values under the bank."""
    if reference.is_affine:
        return Golden(observations, *_answer(hypermodel, observations, None))
    values, scale = _answer(hypermodel, observations, _repeated(reference.bank, len(observations)))
    return Golden(observations, values.swapaxes(1, 2), scale)


@torch.no_grad()
def _answer(hypermodel: Hypermodel, observations: Observations, indices: Float32s | None) -> tuple[Float32s, float]:
    """Return what torch answers, and its largest summand.

    Where much was learned the two parts nearly cancel, so rounding is measured against them and not their sum.
    """
    given = (torch.from_numpy(observations), None if indices is None else torch.from_numpy(indices))
    learnable, prior = hypermodel.learnable(*given), hypermodel.prior(*given)
    scale = max(float(learnable.abs().max()), float(prior.abs().max()), 1e-3)
    return (learnable + prior).numpy(), scale


def _repeated(bank: Float32s, num_rows: int) -> Float32s:
    """Return a bank for each row: float32 [B, L, M]."""
    return np.broadcast_to(bank, (num_rows, *bank.shape)).copy()


class OnnxGraph:
    """A version's graph in ONNX Runtime, on one CPU thread."""

    def __init__(self, graph: bytes) -> None:
        import onnxruntime  # slow to import, and only an export needs it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def coefficients(self, observations: Observations) -> Float32s:
        """Return the coefficients of observations [N, *shape]: float32 [N, A, M + 1]."""
        answer: Float32s = self._session.run(["coefficients"], {"observations": observations})[0]
        return answer

    def values(self, observations: Observations, indices: Float32s) -> Float32s:
        """Return the values of observations [N, *shape] under indices [N, K, M]: float32 [N, K, A]. Indexed graphs."""
        rows = max(1, _max_indices_at_once // indices.shape[1])
        parts = [
            self._session.run(
                ["values"],
                {"observations": observations[row : row + rows], "indices": indices[row : row + rows]},
            )[0]
            for row in range(0, len(observations), rows)
        ]
        return np.concatenate(parts)

    def beliefs(self, observations: Observations, reference: Reference) -> Float32s:
        """Return what the graph says of all indices: coefficients, or the values under a bank, float32 [N, A, W]."""
        if reference.is_affine:
            return self.coefficients(observations)
        return self.values(observations, _repeated(reference.bank, len(observations))).swapaxes(1, 2)


def _forget_sources(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (stack traces with local paths) that say nothing about the graph."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about packages that we do not use from the log."""
    loggers = [logging.getLogger(name) for name in _noisy_loggers]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
