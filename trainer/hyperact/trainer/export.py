"""A hypermodel as a file that explains itself: an ONNX graph and its manifest, checked against torch before anyone
sees it.

The graph: input "observations" [B, *shape] in the spec's dtype (the cast is inside), output "coefficients" float32
[B, A, M + 1], the frozen prior included. B is dynamic. One file, no external data.
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
from hyperact.v1.tensors import numpy_dtype

onnx_file = "model.onnx"
golden_batch_sizes = (1, 2, 7)
_num_golden_kept = 16

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
    """Return the coefficient graph of a hypermodel, serialised."""
    # Two rows: an example of one would fix the batch size to one.
    example = torch.from_numpy(np.zeros((2, *spec.observation.shape), numpy_dtype(spec.observation.dtype)))
    with _quiet():
        program = torch.onnx.export(
            hypermodel,
            (example,),
            dynamo=True,
            input_names=["observations"],
            output_names=["coefficients"],
            dynamic_shapes={"observations": {0: torch.export.Dim("batch", min=1)}},
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
        graph_kind=GraphKind.GRAPH_KIND_COEFFICIENTS,
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
    (directory / golden.file_name).write_bytes(_golden(hypermodel, golden_observations[:_num_golden_kept]).to_bytes())
    (directory / manifests.file_name).write_text(manifests.to_json(manifest))
    return manifest


def check_parity(hypermodel: Hypermodel, graph: bytes, observations: Observations) -> None:
    """Raise ParityError unless torch and ONNX Runtime agree on [N, *shape], in batches of 1, 2, 7 and N + 1.

    A blank observation goes first: constant ones are where normalisations fail.
    """
    session = OnnxGraph(graph)
    observations = np.concatenate([np.zeros_like(observations[:1]), observations])
    for size in (*golden_batch_sizes, len(observations)):
        batch = np.resize(observations, (size, *observations.shape[1:]))
        expected = _golden(hypermodel, batch)
        answered = session.coefficients(batch)
        if answered.shape != expected.coefficients.shape:
            shape = expected.coefficients.shape
            raise ParityError(f"batch of {size}: torch answers {shape}, the graph {answered.shape}")
        difference = float(np.abs(answered - expected.coefficients).max())
        if not difference <= relative_tolerance * expected.scale:
            raise ParityError(
                f"batch of {size}: coefficients differ by {difference:.3g}; "
                f"allowed is {relative_tolerance:g} of the largest summand, {expected.scale:.3g}"
            )


@torch.no_grad()
def _golden(hypermodel: Hypermodel, observations: Observations) -> Golden:
    """Return what torch answers.

    Where much was learned the two parts nearly cancel, so rounding is measured against them and not their sum.
    """
    batch = torch.from_numpy(observations)
    learnable, prior = hypermodel.learnable(batch), hypermodel.prior(batch)
    scale = max(float(learnable.abs().max()), float(prior.abs().max()), 1e-3)
    return Golden(observations, (learnable + prior).numpy(), scale)


class OnnxGraph:
    """A coefficient graph in ONNX Runtime, on one CPU thread."""

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
