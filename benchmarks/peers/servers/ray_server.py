# /// script
# dependencies = ["ray[serve]==2.60.0", "onnxruntime==1.31.1"]
# ///
"""Ray Serve: a deployment with one replica behind its gRPC proxy, asked with raw bytes."""

import signal

import grpc
import ray
import settings
from google.protobuf.wrappers_pb2 import BytesValue
from graph import PATH_VARIABLE, Graph
from ray import serve
from ray.serve.config import gRPCOptions


def add_peer(servicer: object, server: grpc.Server) -> None:
    """Add the method that is asked; Ray finds this function by its name."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Ask, request_deserializer=BytesValue.FromString, response_serializer=BytesValue.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peers.Peer", {"Ask": handler}),))


@serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 0})
class Policy:
    """Asks the graph."""

    def __init__(self) -> None:
        self._graph = Graph()

    async def Ask(self, question: BytesValue) -> BytesValue:  # noqa: N802  # the method's name
        """Answer a request."""
        return BytesValue(value=self._graph.coefficients(self._graph.parse(question.value)).tobytes())


def main() -> None:
    """Serve until the process is told to end."""
    path, port = settings.read()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit))
    environment = {"env_vars": {PATH_VARIABLE: str(path)}}
    ray.init(num_cpus=1, include_dashboard=False, runtime_env=environment, log_to_driver=True)
    try:
        serve.start(grpc_options=gRPCOptions(port=port, grpc_servicer_functions=["ray_server.add_peer"]))
        serve.run(Policy.bind(), route_prefix=None)
        signal.pause()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
