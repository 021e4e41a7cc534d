"""The Open Inference Protocol over gRPC: generic clients ask a loaded version for its coefficients, or an indexed graph
for its values under indices of theirs.

Nothing is decided and nothing is logged, so nobody learns from it. A graph is run in a thread, one at a time: a generic
client waits for another one and no agent waits for either.
"""

import asyncio
from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Any, TypeAlias

import grpc
import numpy as np

from hyperact.inference import open_inference_pb2_grpc
from hyperact.inference.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from hyperact.service.errors import DecisionError, InvalidRequestError, UnavailableError, UnknownNameError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.inference_tensors import add_output, read_inputs, to_metadata
from hyperact.service.model_versions import LoadedVersion
from hyperact.service.statuses import abort
from hyperact.service.versions import Versions

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
platform = "onnxruntime_onnx"


class InferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers for the versions that are loaded.

    Args:
        versions: what is loaded.
        find_problem: returns why the service is not ready; empty if it is.
        max_rows: the most rows of one request.
    """

    def __init__(self, versions: Versions, *, find_problem: Callable[[], str], max_rows: int) -> None:
        self._versions = versions
        self._find_problem = find_problem
        self._max_rows = max_rows
        self._turn = asyncio.Lock()

    async def ServerLive(self, request: ServerLiveRequest, context: Context) -> ServerLiveResponse:  # noqa: ARG002
        """Tell that the process answers."""
        return ServerLiveResponse(live=True)

    async def ServerReady(self, request: ServerReadyRequest, context: Context) -> ServerReadyResponse:  # noqa: ARG002
        """Tell whether the service is ready."""
        return ServerReadyResponse(ready=not self._find_problem())

    async def ModelReady(self, request: ModelReadyRequest, context: Context) -> ModelReadyResponse:
        """Tell whether a version is loaded."""
        try:
            versions = self._versions[request.name]
        except DecisionError as error:
            await abort(context, error)
        loaded = versions.get(request.version) if request.version else versions.serving
        return ModelReadyResponse(ready=loaded is not None)

    async def ServerMetadata(
        self,
        request: ServerMetadataRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> ServerMetadataResponse:
        """Name the server."""
        return ServerMetadataResponse(name="hyperact", version=installed_version("hyperact"))

    async def ModelMetadata(self, request: ModelMetadataRequest, context: Context) -> ModelMetadataResponse:
        """Tell what a version takes and returns."""
        try:
            loaded = self._find(request.name, request.version)
        except DecisionError as error:
            await abort(context, error)
        metadata = _describe(loaded.hypermodel)
        metadata.name, metadata.platform = request.name, platform
        metadata.versions.extend(self._loaded_versions(request.name))
        return metadata

    async def ModelInfer(self, request: ModelInferRequest, context: Context) -> ModelInferResponse:
        """Run a version's graph."""
        try:
            loaded = self._find(request.model_name, request.model_version)
            inputs = read_inputs(request, _describe(loaded.hypermodel).inputs, self._max_rows)
            output = loaded.hypermodel.ports.output.name
            _check_outputs(request, output)
            try:
                async with self._turn:
                    answer = await asyncio.to_thread(loaded.hypermodel.run, inputs)
            except Exception as error:  # the runtime raises classes of its own making
                message = f"version {loaded.version} failed on these observations: {error}"
                raise UnavailableError(message, reason="BAD_OUTPUT") from error
        except DecisionError as error:
            await abort(context, error)
        response = ModelInferResponse(model_name=request.model_name, model_version=loaded.version, id=request.id)
        add_output(response, output, answer)
        return response

    def _find(self, model: str, version: str) -> LoadedVersion:
        """Return a version that is loaded; UnknownNameError if it is not."""
        versions = self._versions[model]
        loaded = versions.get(version) if version else versions.serving
        if loaded is None:
            which = f"version {version[:80]!r}" if version else "a version"
            raise UnknownNameError(f"model {model!r}: {which} is not loaded here", field="model_version")
        return loaded

    def _loaded_versions(self, model: str) -> list[str]:
        """Return the versions that are loaded, the one that serves first."""
        versions = self._versions[model]
        known = [status.version for status in versions.status().versions if versions.get(status.version) is not None]
        serving = versions.serving.version if versions.serving is not None else ""
        return sorted(known, key=lambda version: version != serving)


def _describe(hypermodel: Hypermodel) -> ModelMetadataResponse:
    ports, dtype = hypermodel.ports, hypermodel.checker.dtype
    dtypes = {"observations": dtype}
    described = [
        to_metadata(port.name, dtypes.get(port.name, np.dtype(np.float32)), [size or -1 for size in port.shape[1:]])
        for port in (*ports.inputs, ports.output)
    ]
    return ModelMetadataResponse(inputs=described[:-1], outputs=described[-1:])


def _check_outputs(request: ModelInferRequest, output: str) -> None:
    wrong = [one.name[:80] for one in request.outputs if one.name != output]
    if wrong:
        raise InvalidRequestError(f"outputs: expected {output!r}, got {wrong}", field="outputs")
