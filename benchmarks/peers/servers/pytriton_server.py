# /// script
# dependencies = ["nvidia-pytriton==0.7.0", "numpy==1.26.4", "onnxruntime==1.31.1"]
# ///
"""PyTriton: a Python function behind Triton, with dynamic batching."""

import numpy as np
import settings
from graph import Graph
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main() -> None:
    """Serve until the process ends."""
    path, port = settings.read()
    graph = Graph(path)

    @batch
    def infer(observations):
        return {"coefficients": graph.coefficients(observations)}

    # PyTriton asks its own server over HTTP whether it is ready.
    ports = {"grpc_port": port, "http_port": settings.free_port()}
    config = TritonConfig(grpc_address="127.0.0.1", http_address="127.0.0.1", allow_metrics=False, **ports)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="policy",
            infer_func=infer,
            inputs=[Tensor(name="observations", dtype=graph.dtype.type, shape=graph.observation_shape)],
            outputs=[Tensor(name="coefficients", dtype=np.float32, shape=graph.output_shape)],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
