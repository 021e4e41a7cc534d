# /// script
# dependencies = ["mlserver==1.7.1", "numpy==2.4.6", "onnxruntime==1.31.1"]
# ///
"""MLServer: a runtime class behind its gRPC port, in the server's own process."""

import asyncio

import settings
from graph import Graph
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Policy(MLModel):
    """Asks the graph."""

    async def load(self) -> bool:
        """Load the graph."""
        self._graph = Graph()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request."""
        coefficients = self._graph.coefficients(NumpyCodec.decode_input(payload.inputs[0]))
        output = NumpyCodec.encode_output("coefficients", coefficients)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])


async def main() -> None:
    """Serve until the process ends."""
    _, port = settings.read()
    server = MLServer(
        Settings(
            host="127.0.0.1",
            grpc_port=port,
            http_port=settings.free_port(),
            metrics_endpoint=None,
            parallel_workers=0,
            debug=False,
        )
    )
    await server.start([ModelSettings(name="policy", implementation=Policy, parameters=ModelParameters())])


if __name__ == "__main__":
    asyncio.run(main())
