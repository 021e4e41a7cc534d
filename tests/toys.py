"""Small real things that tests of several rooms use: versions, registries."""

import hashlib
import math
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hyperact.v1 import manifests, tensors
from hyperact.v1.model_pb2 import (
    ActingRule,
    ActionSpec,
    AgentKind,
    DiscreteActions,
    GraphKind,
    IndexSchedule,
    Manifest,
    ModelSpec,
    ReferenceDistribution,
)

onnx_file = "model.onnx"


def toy_spec(
    num_actions: int = 2,
    index_dim: int = 4,
    observation_shape: tuple[int, ...] = (3,),
    observation_dtype: Any = np.float32,
    agent_kind: "AgentKind.ValueType" = AgentKind.AGENT_KIND_EPISODIC,
    index_schedule: "IndexSchedule.ValueType" = IndexSchedule.INDEX_SCHEDULE_EPISODE,
    reference_distribution: "ReferenceDistribution.ValueType" = ReferenceDistribution.REFERENCE_DISTRIBUTION_GAUSSIAN,
    discount: float = 0.9,
    *,
    acting_rule: ActingRule | None = None,
) -> ModelSpec:
    """Return a complete spec."""
    return ModelSpec(
        observation=tensors.make_spec(np.dtype(observation_dtype), observation_shape),
        action=ActionSpec(discrete=DiscreteActions(num_actions=num_actions)),
        agent_kind=agent_kind,
        index_schedule=index_schedule,
        reference_distribution=reference_distribution,
        index_dim=index_dim,
        discount=discount,
        acting_rule=acting_rule,
    )


def toy_version(
    directory: Path,
    model: str = "default",
    num_actions: int = 2,
    index_dim: int = 4,
    observation_shape: tuple[int, ...] = (3,),
    seed: int = 0,
    hidden_sizes: Sequence[int] = (),
    coefficients: NDArray[Any] | None = None,
    *,
    is_indexed: bool = False,
    bank_size: int = 0,
    **spec: Any,
) -> Manifest:
    """Write model.onnx and manifest.json into a directory and return the manifest.

    The graph is a random MLP from `seed`, or answers the constant `coefficients` [A, M + 1] for every observation; an
    indexed one is not affine in the index. The other keywords are those of `toy_spec`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model_spec = toy_spec(num_actions, index_dim, observation_shape, **spec)
    if is_indexed:
        graph = toy_indexed_graph(model_spec, seed)
    else:
        graph = toy_graph(model_spec, seed, hidden_sizes, coefficients)
    content = graph.SerializeToString()
    (directory / onnx_file).write_bytes(content)
    manifest = Manifest(
        format_version=manifests.format_version,
        model=model,
        spec=model_spec,
        graph_kind=GraphKind.GRAPH_KIND_INDEXED if is_indexed else GraphKind.GRAPH_KIND_COEFFICIENTS,
        onnx_file=onnx_file,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        bank_size=bank_size,
    )
    (directory / manifests.file_name).write_text(manifests.to_json(manifest))
    return manifest


def toy_graph(
    spec: ModelSpec, seed: int = 0, hidden_sizes: Sequence[int] = (), coefficients: NDArray[Any] | None = None
) -> onnx.ModelProto:
    """Return the ONNX form of an MLP of the spec: flattened observation, ReLU layers, coefficients."""
    random = np.random.default_rng(seed)
    num_actions, width = spec.action.discrete.num_actions, spec.index_dim + 1
    sizes = [math.prod(spec.observation.shape), *hidden_sizes, num_actions * width]
    nodes = [
        helper.make_node("Cast", ["observations"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat_shape"], ["layer0"]),
    ]
    constants = {
        "flat_shape": np.array([-1, sizes[0]], np.int64),
        "answer_shape": np.array([-1, num_actions, width], np.int64),
    }
    for layer in range(len(sizes) - 1):
        is_last = layer == len(sizes) - 2
        weight = random.normal(size=(sizes[layer], sizes[layer + 1])) / math.sqrt(sizes[layer])
        bias = random.normal(size=sizes[layer + 1])
        if coefficients is not None and is_last:
            weight, bias = np.zeros_like(weight), np.asarray(coefficients).reshape(-1)
        constants |= {f"weight{layer}": weight.astype(np.float32), f"bias{layer}": bias.astype(np.float32)}
        out = "last" if is_last else f"linear{layer}"
        nodes.append(helper.make_node("Gemm", [f"layer{layer}", f"weight{layer}", f"bias{layer}"], [out]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [f"layer{layer + 1}"]))
    nodes.append(helper.make_node("Reshape", ["last", "answer_shape"], ["coefficients"]))
    input_type = helper.np_dtype_to_tensor_dtype(tensors.numpy_dtype(spec.observation.dtype).newbyteorder("="))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("observations", input_type, ["batch", *spec.observation.shape])],
        [helper.make_tensor_value_info("coefficients", TensorProto.FLOAT, ["batch", num_actions, width])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def toy_indexed_graph(spec: ModelSpec, seed: int = 0, width: int = 16) -> onnx.ModelProto:
    """Return the ONNX form of values that are not affine in the index: relu(x X + z Z) Y for the flat observation x."""
    random = np.random.default_rng(seed)
    size, num_actions = math.prod(spec.observation.shape), spec.action.discrete.num_actions
    shapes = {"X": (size, width), "Z": (spec.index_dim, width), "Y": (width, num_actions)}
    constants = {name: random.normal(size=shape) / math.sqrt(shape[0]) for name, shape in shapes.items()}
    weights = {name: value.astype(np.float32) for name, value in constants.items()}
    nodes = [
        helper.make_node("Cast", ["observations"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat_shape"], ["x"]),
        helper.make_node("MatMul", ["x", "X"], ["of_observation"]),
        helper.make_node("MatMul", ["indices", "Z"], ["of_index"]),
        helper.make_node("Add", ["of_observation", "of_index"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["features"]),
        helper.make_node("MatMul", ["features", "Y"], ["values"]),
    ]
    input_type = helper.np_dtype_to_tensor_dtype(tensors.numpy_dtype(spec.observation.dtype).newbyteorder("="))
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("observations", input_type, ["batch", *spec.observation.shape]),
            helper.make_tensor_value_info("indices", TensorProto.FLOAT, ["batch", "index", spec.index_dim]),
        ],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", "index", num_actions])],
        [
            numpy_helper.from_array(np.array([-1, 1, size], np.int64), "flat_shape"),
            *(numpy_helper.from_array(value, name) for name, value in weights.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@cache
def _empty_registry() -> bytes:
    """Return the content of a migrated, empty MLflow database: made once, for its migrations take seconds."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mlflow.db"
        MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
        return path.read_bytes()


def make_registry(data_dir: Path) -> str:
    """Write an empty registry into a data directory and return its tracking URI."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "mlflow.db"
    path.write_bytes(_empty_registry())
    return f"sqlite:///{path}"


def register(tracking_uri: str, directory: Path, model: str = "default", alias: str = "") -> str:
    """Register a version's directory, its artefacts copied beside the registry, and return the version.

    With `alias`, the alias is moved to it too.
    """
    client = MlflowClient(tracking_uri, tracking_uri)
    artifact_root = Path(tracking_uri.removeprefix("sqlite:///")).parent / "artifacts"
    source = artifact_root / "models" / uuid.uuid4().hex
    shutil.copytree(directory, source)
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = str(client.create_model_version(model, source.as_uri()).version)
    if alias:
        promote(tracking_uri, version, model, alias)
    return version


def promote(tracking_uri: str, version: str, model: str = "default", alias: str = "champion") -> None:
    """Move the alias, as anybody with an MLflow client would."""
    MlflowClient(tracking_uri, tracking_uri).set_registered_model_alias(model, alias, version)
