"""The manifest beside an ONNX file: its JSON form, and the checks that need nothing but the manifest."""

import hashlib
import math
import re

from google.protobuf import json_format

from hyperact.v1.errors import FieldError
from hyperact.v1.indices import COORDINATE, ONE_HOT
from hyperact.v1.model_pb2 import (
    AgentKind,
    GraphKind,
    IndexSchedule,
    Manifest,
    ModelSpec,
    ReferenceDistribution,
)
from hyperact.v1.tensors import TensorChecker

file_name = "manifest.json"
format_version = 1
max_observation_bytes = 64 << 20  # what a message may carry by default
max_num_actions = 65536
max_index_dim = 4096
max_num_indices = 64
min_bank_size, max_bank_size = 16, 65536
num_digest_bytes = 8
_sha256 = re.compile(r"[0-9a-f]{64}")
_plain_file = re.compile(r"[0-9A-Za-z_\-][0-9A-Za-z_.\-]{0,127}")


def to_json(manifest: Manifest) -> str:
    """Return the manifest's file content."""
    return json_format.MessageToJson(manifest, indent=2) + "\n"


def from_json(text: str | bytes) -> Manifest:
    """Return a checked manifest; FieldError if the text is not one."""
    try:
        manifest = json_format.Parse(text, Manifest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise FieldError("manifest", f"expected the JSON form of hyperact.v1.Manifest: {error}") from error
    check_manifest(manifest)
    return manifest


def version_digest(content: bytes) -> bytes:
    """Return the 8 bytes by which steps name the version with this manifest.json (and so this ONNX file)."""
    return hashlib.sha256(content).digest()[:num_digest_bytes]


def check_manifest(manifest: Manifest) -> None:
    """Raise FieldError naming the first field that is missing or out of its range."""
    if manifest.format_version != format_version:
        raise FieldError("format_version", f"expected {format_version}, got {manifest.format_version}")
    if not manifest.model:
        raise FieldError("model", "required")
    if manifest.graph_kind not in (GraphKind.GRAPH_KIND_COEFFICIENTS, GraphKind.GRAPH_KIND_INDEXED):
        raise FieldError("graph_kind", f"expected a known kind, got number {manifest.graph_kind}")
    if not _plain_file.fullmatch(manifest.onnx_file):
        raise FieldError("onnx_file", f"expected a file name without a folder, got {manifest.onnx_file[:80]!r}")
    if not _sha256.fullmatch(manifest.onnx_sha256):
        raise FieldError("onnx_sha256", "expected 64 lowercase hexadecimal digits")
    if manifest.bank_size and not min_bank_size <= manifest.bank_size <= max_bank_size:
        raise FieldError("bank_size", f"expected {min_bank_size} to {max_bank_size}, got {manifest.bank_size}")
    try:
        check_spec(manifest.spec)
    except FieldError as error:
        raise error.under("spec") from error
    if manifest.graph_kind == GraphKind.GRAPH_KIND_INDEXED and not manifest.spec.index_dim:
        raise FieldError("spec.index_dim", "expected at least 1 for an indexed graph, got 0")


def check_spec(spec: ModelSpec) -> None:
    """Raise FieldError naming the first field that is missing or out of its range."""
    _check_observation(spec)
    if not 1 <= spec.action.discrete.num_actions <= max_num_actions:
        raise FieldError(
            "action.discrete.num_actions",
            f"expected 1 to {max_num_actions}, got {spec.action.discrete.num_actions}",
        )
    enums = (
        ("agent_kind", AgentKind),
        ("index_schedule", IndexSchedule),
        ("reference_distribution", ReferenceDistribution),
    )
    for field, enum in enums:
        if getattr(spec, field) not in enum.values() or not getattr(spec, field):
            raise FieldError(field, f"expected a known value, got number {getattr(spec, field)}")
    if spec.index_dim > max_index_dim:
        raise FieldError("index_dim", f"expected 0 to {max_index_dim}, got {spec.index_dim}")
    if not 0.0 < spec.discount < 1.0:
        raise FieldError("discount", f"expected a number in (0, 1), got {spec.discount}")
    if not math.isfinite(spec.default_reward):
        raise FieldError("default_reward", f"expected a finite number, got {spec.default_reward}")
    window_seconds = spec.reward_window.ToTimedelta().total_seconds()
    if window_seconds < 0 or (spec.HasField("default_reward") and not window_seconds):
        raise FieldError(
            "reward_window", f"expected a positive window (a default reward needs one), got {window_seconds} s"
        )
    try:
        _check_acting_rule(spec)
    except FieldError as error:
        raise error.under("acting_rule") from error


def _check_acting_rule(spec: ModelSpec) -> None:
    rule = spec.acting_rule
    if rule.HasField("num_indices"):
        is_discrete = spec.reference_distribution in (ONE_HOT, COORDINATE)
        least, most = (0 if is_discrete and spec.index_dim else 1), (max_num_indices if spec.index_dim else 1)
        if not least <= rule.num_indices <= most:
            raise FieldError("num_indices", f"expected {least} to {most}, got {rule.num_indices}")
    if not 0.0 <= rule.quantile <= 1.0:
        raise FieldError("quantile", f"expected a number in [0, 1], got {rule.quantile}")
    if not 0.0 <= rule.epsilon < 1.0:
        raise FieldError("epsilon", f"expected a number in [0, 1), got {rule.epsilon}")


def _check_observation(spec: ModelSpec) -> None:
    try:
        num_bytes = TensorChecker(spec.observation).num_bytes
    except FieldError as error:
        raise error.under("observation") from error
    if num_bytes > max_observation_bytes:
        raise FieldError("observation.shape", f"expected at most {max_observation_bytes} bytes, got {num_bytes}")


def spec_differences(current: ModelSpec, candidate: ModelSpec) -> list[str]:
    """Return what would change for a client if `candidate` replaced `current`, one line each; empty if nothing would.

    How the index is drawn may change from version to version; what travels over the wire may not.
    """
    fields = ("observation", "action", "agent_kind", "reward_window")
    lines = []
    for field in fields:
        before, after = getattr(current, field), getattr(candidate, field)
        if before != after:
            lines.append(f"spec.{field}: serving {_one_line(before)}, candidate {_one_line(after)}")
    return lines


def _one_line(value: object) -> str:
    return " ".join(str(value).split()) or "unset"
