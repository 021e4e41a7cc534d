# /// script
# dependencies = ["kserve==0.21.0", "numpy==2.4.6", "onnxruntime==1.31.1"]
# ///
"""KServe's Python model server: a model class behind its gRPC port."""

import kserve
import settings
from graph import Graph
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse


class Policy(kserve.Model):
    """Asks the graph."""

    def __init__(self, graph: Graph) -> None:
        super().__init__("policy")
        self._graph = graph
        self.ready = True

    async def predict(self, payload: InferRequest, *_headers, **_more) -> InferResponse:
        """Answer a request."""
        coefficients = self._graph.coefficients(payload.inputs[0].as_numpy())
        output = InferOutput("coefficients", list(coefficients.shape), "FP32")
        output.set_data_from_numpy(coefficients, binary_data=True)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=True)


if __name__ == "__main__":
    path, port = settings.read()
    kserve.ModelServer(
        http_port=settings.free_port(),
        grpc_port=port,
        enable_grpc=True,
        workers=1,
        access_log_format=None,
        enable_docs_url=False,
    ).start([Policy(Graph(path))])
