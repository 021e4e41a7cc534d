"""The gRPC server: its options, its services, its port."""

from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hyperact.inference import open_inference_pb2, open_inference_pb2_grpc
from hyperact.service.deployment_servicer import DeploymentServicer
from hyperact.service.health import HealthServicer
from hyperact.service.inference_servicer import InferenceServicer
from hyperact.service.log_servicer import LogServicer
from hyperact.service.readiness import Readiness
from hyperact.service.servicer import DecisionServicer
from hyperact.v1 import decision_pb2, decision_pb2_grpc, deployment_pb2, deployment_pb2_grpc, log_pb2, log_pb2_grpc

service_names = (
    decision_pb2.DESCRIPTOR.services_by_name["DecisionService"].full_name,
    log_pb2.DESCRIPTOR.services_by_name["LogService"].full_name,
    deployment_pb2.DESCRIPTOR.services_by_name["DeploymentService"].full_name,
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
_health_name = "grpc.health.v1.Health"


@dataclass(frozen=True, slots=True)
class Servicers:
    """What answers."""

    decision: DecisionServicer
    log: LogServicer
    deployment: DeploymentServicer
    inference: InferenceServicer
    readiness: Readiness


def make_server(
    servicers: Servicers, address: str, *, is_shared: bool, max_message_bytes: int
) -> tuple[grpc.aio.Server, int]:
    """Return a server that is not started yet, and the port that it will listen on.

    `is_shared`: other processes listen on the same port. RuntimeError if the port cannot be had.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(is_shared)),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Clients may keep an idle stream alive, once in ten seconds.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )
    decision_pb2_grpc.add_DecisionServiceServicer_to_server(servicers.decision, server)
    log_pb2_grpc.add_LogServiceServicer_to_server(servicers.log, server)
    deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(servicers.deployment, server)
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicers.inference, server)
    health = HealthServicer(servicers.readiness.problem, service_names)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((*service_names, _health_name, reflection.SERVICE_NAME), server)
    return server, server.add_insecure_port(address)
