import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from hyperact.trainer.config import NetworkConfig, atari
from hyperact.trainer.export import (
    Lineage,
    OnnxGraph,
    ParityError,
    check_parity,
    to_onnx,
    write_version,
)
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.v1 import manifests
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.model_pb2 import LogRange, ModelSpec
from toy_trainer import atari_spec
from toys import toy_spec

small = NetworkConfig(hidden_sizes=(8,))
now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def mlp_spec() -> ModelSpec:
    spec = toy_spec(num_actions=3, observation_shape=(4, 5), observation_dtype=np.uint8)
    spec.observation.minimum, spec.observation.maximum = 0, 255
    return spec


@pytest.fixture(scope="module")
def model(mlp_spec: ModelSpec) -> Hypermodel:
    return Hypermodel(mlp_spec, small, 0)


@pytest.fixture(scope="module")
def graph(model: Hypermodel, mlp_spec: ModelSpec) -> bytes:
    return to_onnx(model, mlp_spec)


class TestGraph:
    @pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
    def test_any_batch_size_answers_as_torch_does(
        self, batch_size: int, model: Hypermodel, graph: bytes, mlp_spec: ModelSpec
    ) -> None:
        """The batch is dynamic, the cast and the scaling are inside, and so is the prior."""
        observations = made_up_observations(mlp_spec, batch_size, seed=batch_size)

        answered = OnnxGraph(graph).coefficients(observations)

        assert (batch_size, 3, 5) == answered.shape
        np.testing.assert_allclose(model(torch.from_numpy(observations)).detach(), answered, rtol=1e-4, atol=1e-4)

    def test_its_ports_are_the_contracts(self, graph: bytes) -> None:
        """Input "observations" in the spec's dtype, output "coefficients"."""
        description = onnx.load_from_string(graph).graph

        assert [("observations", onnx.TensorProto.UINT8)] == [
            (port.name, port.type.tensor_type.elem_type) for port in description.input
        ]
        assert ["coefficients"] == [port.name for port in description.output]

    def test_it_carries_no_traces_of_the_machine(self, graph: bytes) -> None:
        """No stack traces, and with them no local paths, leave with a version."""
        assert b".py" not in graph

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.bool_])
    def test_every_dtype_of_observations_is_cast_inside(self, dtype: Any) -> None:
        """Clients send what their environment gives."""
        spec = toy_spec(observation_dtype=dtype)
        model = Hypermodel(spec, small, 0)

        check_parity(model, to_onnx(model, spec), made_up_observations(spec))

    def test_the_atari_torso_answers_as_torch_does(self) -> None:
        """Convolutions and the min-max normalisation survive the export, in batches of 1, 2 and 7."""
        spec = atari_spec(3)
        model = Hypermodel(spec, atari.network, 0)

        check_parity(model, to_onnx(model, spec), made_up_observations(spec, 3))


class TestWriteVersion:
    def test_the_directory_explains_itself(self, tmp_path: Path, model: Hypermodel, mlp_spec: ModelSpec) -> None:
        """The manifest beside the graph tells its digest, its spec and where it comes from."""
        lineage = Lineage(
            model="default",
            dataset=[LogRange(partition="a" * 32, begin_offset=1, end_offset=9)],
            parent_version="3",
            run_id="run",
            num_learner_steps=17,
            environment="Toy-v0",
        )

        write_version(tmp_path, model, mlp_spec, made_up_observations(mlp_spec), lineage, now)

        manifest = manifests.from_json((tmp_path / "manifest.json").read_bytes())
        assert hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest() == manifest.onnx_sha256
        assert mlp_spec == manifest.spec
        assert ("3", "run", 17, 9) == (
            manifest.parent_version,
            manifest.run_id,
            manifest.num_learner_steps,
            manifest.dataset[0].end_offset,
        )

    def test_a_graph_that_answers_something_else_is_refused(self, graph: bytes, mlp_spec: ModelSpec) -> None:
        """A graph of other weights does not pass for this model's."""
        other = Hypermodel(mlp_spec, small, 1)

        with pytest.raises(ParityError, match="coefficients differ"):
            check_parity(other, graph, made_up_observations(mlp_spec))

    def test_coefficients_that_are_not_numbers_are_refused(self, tmp_path: Path, mlp_spec: ModelSpec) -> None:
        """A learner that diverged is not exported."""
        broken = Hypermodel(mlp_spec, small, 0)
        with torch.no_grad():
            next(broken.learnable.parameters()).fill_(torch.nan)

        with pytest.raises(ParityError):
            write_version(tmp_path, broken, mlp_spec, made_up_observations(mlp_spec), Lineage("default"), now)

        assert not list(tmp_path.iterdir())
