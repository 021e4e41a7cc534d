"""The gRPC server: its options, its services, its port."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from hyperact.inference import open_inference_pb2, open_inference_pb2_grpc
from hyperact.service.deployment_servicer import DeploymentServicer
from hyperact.service.guard import Guard, GuardedMethods
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
handshake_timeout_ms = 10_000


@dataclass(frozen=True, slots=True)
class Servicers:
    """What answers."""

    decision: DecisionServicer
    log: LogServicer
    deployment: DeploymentServicer
    inference: InferenceServicer
    readiness: Readiness


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how to listen.

    Attributes:
        is_shared: whether other processes listen on the same port.
        max_message_bytes: the largest message, in either direction.
        max_calls: the most calls that one connection may have open at a time; its others wait at the client.
        tls: None: without encryption.
        guard: None: everyone may call everything.
        interceptors: what stands around every call.
    """

    address: str
    is_shared: bool
    max_message_bytes: int
    max_calls: int
    tls: grpc.ServerCredentials | None = None
    guard: Guard | None = None
    interceptors: Sequence[Any] = ()


def make_server(servicers: Servicers, listening: Listening) -> tuple[grpc.aio.Server, int]:
    """Return a server that is not started yet, and the port that it will listen on.

    RuntimeError if the port cannot be had.
    """
    server = grpc.aio.server(
        interceptors=list(listening.interceptors),
        options=[
            ("grpc.so_reuseport", int(listening.is_shared)),
            ("grpc.max_receive_message_length", listening.max_message_bytes),
            ("grpc.max_send_message_length", listening.max_message_bytes),
            ("grpc.max_concurrent_streams", listening.max_calls),
            ("grpc.server_handshake_timeout_ms", handshake_timeout_ms),
            # Clients may keep an idle stream alive, once in ten seconds.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    server.add_generic_rpc_handlers((_guarded(servicers, listening.guard),))
    if listening.tls is None:
        return server, server.add_insecure_port(listening.address)
    return server, server.add_secure_port(listening.address, listening.tls)


def _guarded(servicers: Servicers, guard: Guard | None) -> GuardedMethods:
    """Return every method of every service, behind the guard."""
    methods: Any = GuardedMethods(guard)
    decision_pb2_grpc.add_DecisionServiceServicer_to_server(servicers.decision, methods)
    log_pb2_grpc.add_LogServiceServicer_to_server(servicers.log, methods)
    deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(servicers.deployment, methods)
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicers.inference, methods)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(servicers.readiness.problem, service_names), methods)
    asked = reflection.aio.ReflectionServicer((*service_names, _health_name, reflection.SERVICE_NAME))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(asked, methods)
    guarded: GuardedMethods = methods
    return guarded
