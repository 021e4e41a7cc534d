"""The Open Inference Protocol beside our own contract: what generic clients get."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

import toys
from hyperact.inference import open_inference_pb2
from hyperact.inference.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerReadyRequest,
)
from hyperact.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from hyperact.service.hypermodel import Hypermodel
from toy_hypermodels import coefficients_of
from toy_worker import RunningWorker, refusal, registry_with_version, running
from toy_worker import make_request as make_act_request

if TYPE_CHECKING:
    from hyperact.inference.open_inference_pb2_grpc import GRPCInferenceServiceAsyncStub

CODE = grpc.StatusCode
OBSERVATIONS = np.arange(9, dtype=np.float32).reshape(3, 3)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    """Run a worker with one version of two actions."""
    registry_with_version(tmp_path)
    async with running(tmp_path, max_batch=8) as worker:
        yield worker


@pytest.fixture
def inference(service: RunningWorker) -> "GRPCInferenceServiceAsyncStub":
    return GRPCInferenceServiceStub(service.channel)


def expected_coefficients(tmp_path: Path, observations: Any = OBSERVATIONS) -> Any:
    """Return what the version's graph answers."""
    model = Hypermodel.load(tmp_path / "toys" / "v1", model="default", max_onnx_bytes=1 << 20)
    return coefficients_of(model, observations)


def make_request(observations: Any = OBSERVATIONS, **fields: Any) -> ModelInferRequest:
    """Return a request with its elements as raw bytes."""
    given = ModelInferRequest.InferInputTensor(name="observations", datatype="FP32", shape=observations.shape)
    return ModelInferRequest(
        **{"model_name": "default", "inputs": [given], "raw_input_contents": [observations.tobytes()], **fields}
    )


async def ask_with_triton(address: str) -> dict[str, Any]:
    """Return what `tritonclient` was told."""
    script = Path(__file__).parents[1] / "toy_triton.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), address, "default", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert not process.returncode
    answer: dict[str, Any] = json.loads(output)
    return answer


class TestGenericClient:
    async def test_tritonclient_gets_the_coefficients(self, service: RunningWorker, tmp_path: Path) -> None:
        """A client that knows nothing of Hyperact finds the model, its ports, and its answers."""
        told = await ask_with_triton(service.address)

        np.testing.assert_array_equal(expected_coefficients(tmp_path), np.array(told["coefficients"], np.float32))
        assert [True, True, True] == [told["is_live"], told["is_ready"], told["is_model_ready"]]
        assert ("hyperact", "seven", "1") == (told["server"]["name"], told["id"], told["version"])
        assert ["1"] == told["metadata"]["versions"]
        assert ["-1", "2", "5"] == told["metadata"]["outputs"][0]["shape"]
        assert "NOT_FOUND" in told["error"]
        assert [] == await service.entries()

    async def test_our_fields_have_the_protocols_numbers(self, service: RunningWorker) -> None:
        """What we call by the protocol's name is on the wire what a generic client takes it for."""
        theirs = (await ask_with_triton(service.address))["fields"]

        ours = open_inference_pb2.DESCRIPTOR.message_types_by_name
        assert "ModelInferRequest" in ours
        for name, message in ours.items():
            for field in message.fields:
                assert theirs[name][field.name] == field.number, f"{name}.{field.name}"


class TestModelInfer:
    async def test_elements_may_come_as_numbers(
        self, inference: "GRPCInferenceServiceAsyncStub", tmp_path: Path
    ) -> None:
        """Contents in the typed field are the same input as raw bytes."""
        request = make_request(raw_input_contents=[])
        request.inputs[0].contents.CopyFrom(InferTensorContents(fp32_contents=OBSERVATIONS.ravel()))

        response = await inference.ModelInfer(request)

        (output,) = response.outputs
        found = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(output.shape)
        assert ("coefficients", "FP32", [3, 2, 5]) == (output.name, output.datatype, list(output.shape))
        np.testing.assert_array_equal(expected_coefficients(tmp_path), found)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"raw_input_contents": [b"short"]}, "inputs[0]"),
            ({"raw_input_contents": [b"", b""]}, "raw_input_contents"),
            ({"raw_input_contents": []}, "inputs[0].contents.fp32_contents"),
            ({"inputs": [], "raw_input_contents": []}, "inputs"),
            ({"outputs": [ModelInferRequest.InferRequestedOutputTensor(name="values")]}, "outputs"),
            ({"observations": np.full((3, 3), np.nan, np.float32)}, "inputs[0]"),
            ({"observations": np.zeros((3, 4), np.float32)}, "inputs[0].shape"),
            ({"observations": np.zeros((9, 3), np.float32)}, "inputs"),
        ],
    )
    async def test_a_wrong_request_is_told_what_is_wrong(
        self, inference: "GRPCInferenceServiceAsyncStub", change: dict[str, Any], field: str
    ) -> None:
        """INVALID_ARGUMENT names the field."""
        found = await refusal(inference.ModelInfer(make_request(**change)))

        assert (CODE.INVALID_ARGUMENT, field) == (found.code, found.field)

    async def test_another_datatype_is_refused(self, inference: "GRPCInferenceServiceAsyncStub") -> None:
        """Numbers are not converted behind the client's back."""
        request = make_request()
        request.inputs[0].datatype = "FP64"

        found = await refusal(inference.ModelInfer(request))

        assert (CODE.INVALID_ARGUMENT, "inputs[0].datatype") == (found.code, found.field)
        assert "FP32" in found.message

    async def test_an_indexed_graph_takes_indices_too(self, tmp_path: Path) -> None:
        """As many a row as the client likes."""
        registry_with_version(tmp_path, is_indexed=True)
        indices = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
        request = make_request(raw_input_contents=[OBSERVATIONS.tobytes(), indices.tobytes()])
        request.inputs.add(name="indices", datatype="FP32", shape=indices.shape)
        async with running(tmp_path) as worker:
            stub: GRPCInferenceServiceAsyncStub = GRPCInferenceServiceStub(worker.channel)
            metadata = await stub.ModelMetadata(ModelMetadataRequest(name="default"))
            response = await stub.ModelInfer(request)
            without = await refusal(stub.ModelInfer(make_request()))
            loaded = worker.worker._versions["default"].serving
        assert loaded is not None

        assert [[-1, 3], [-1, -1, 4]] == [list(one.shape) for one in metadata.inputs]
        assert ("values", [3, 6, 2]) == (response.outputs[0].name, list(response.outputs[0].shape))
        expected = loaded.hypermodel.run({"observations": OBSERVATIONS, "indices": indices})
        np.testing.assert_array_equal(expected.ravel(), np.frombuffer(response.raw_output_contents[0], np.float32))
        assert (CODE.INVALID_ARGUMENT, "inputs") == (without.code, without.field)

    @pytest.mark.parametrize("names", [{"model_name": "nobody"}, {"model_version": "9"}])
    async def test_what_is_not_loaded_is_not_found(
        self, inference: "GRPCInferenceServiceAsyncStub", names: dict[str, str]
    ) -> None:
        """An unknown model and a version that is not loaded are NOT_FOUND."""
        assert CODE.NOT_FOUND == (await refusal(inference.ModelInfer(make_request(**names)))).code


class TestReadiness:
    async def test_a_service_without_a_version_is_live_and_not_ready(self, tmp_path: Path) -> None:
        """Readiness is that of grpc.health.v1; a model without a version is not ready and has no metadata."""
        toys.make_registry(tmp_path)
        async with running(tmp_path) as worker:
            stub: GRPCInferenceServiceAsyncStub = GRPCInferenceServiceStub(worker.channel)

            assert (await stub.ServerLive(ServerLiveRequest())).live
            assert not (await stub.ServerReady(ServerReadyRequest())).ready
            assert not (await stub.ModelReady(ModelReadyRequest(name="default"))).ready
            found = await refusal(stub.ModelMetadata(ModelMetadataRequest(name="default")))

        assert CODE.NOT_FOUND == found.code

    async def test_both_versions_of_a_swap_can_be_asked(self, tmp_path: Path) -> None:
        """While an episode is held by the old version, the metadata names both, the serving one first."""
        uri = registry_with_version(tmp_path)
        async with running(tmp_path) as worker:
            stub: GRPCInferenceServiceAsyncStub = GRPCInferenceServiceStub(worker.channel)
            await worker.decision.Act(make_act_request())
            toys.toy_version(tmp_path / "toys" / "v2", seed=1)
            toys.register(uri, tmp_path / "toys" / "v2", alias="champion")
            await worker.reload()
            metadata = await stub.ModelMetadata(ModelMetadataRequest(name="default"))
            old = await stub.ModelInfer(make_request(model_version="1"))

        assert ["2", "1"] == list(metadata.versions)
        np.testing.assert_array_equal(
            expected_coefficients(tmp_path).ravel(), np.frombuffer(old.raw_output_contents[0], np.float32)
        )
