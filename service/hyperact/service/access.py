"""Who may call what: the one table of all methods and the roles that they ask for.

A method that is not in the table is not served: the server does not start.
"""

from collections.abc import Iterable
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do. None includes another."""

    ACT = "act"
    READ_LOG = "read-log"
    OPERATE = "operate"


class Access(StrEnum):
    """Whom a method answers: anyone who reaches the port, whoever is known whatever the roles, or a role."""

    ANYONE = "anyone"
    KNOWN = "known"
    ACT = Role.ACT
    READ_LOG = Role.READ_LOG
    OPERATE = Role.OPERATE


access_of_method: dict[str, Access] = {
    "/hyperact.v1.DecisionService/Act": Access.ACT,
    "/hyperact.v1.DecisionService/ActBatch": Access.ACT,
    "/hyperact.v1.DecisionService/ActStream": Access.ACT,
    "/hyperact.v1.DecisionService/Report": Access.ACT,
    "/hyperact.v1.DecisionService/GetSpec": Access.KNOWN,
    "/hyperact.v1.LogService/Read": Access.READ_LOG,
    "/hyperact.v1.LogService/GetRange": Access.READ_LOG,
    "/hyperact.v1.LogService/Acknowledge": Access.READ_LOG,
    # It lets retention remove what a reader has not read.
    "/hyperact.v1.LogService/Forget": Access.OPERATE,
    # What serves is in every answer of Act; clients ask for it to learn whether the service is there.
    "/hyperact.v1.DeploymentService/GetStatus": Access.KNOWN,
    "/hyperact.v1.DeploymentService/WatchStatus": Access.KNOWN,
    "/hyperact.v1.DeploymentService/Reload": Access.OPERATE,
    "/inference.GRPCInferenceService/ServerMetadata": Access.KNOWN,
    "/inference.GRPCInferenceService/ModelReady": Access.KNOWN,
    "/inference.GRPCInferenceService/ModelMetadata": Access.KNOWN,
    "/inference.GRPCInferenceService/ModelInfer": Access.ACT,
    # Balancers and container engines ask without credentials, and learn one bit.
    "/grpc.health.v1.Health/Check": Access.ANYONE,
    "/grpc.health.v1.Health/List": Access.ANYONE,
    "/grpc.health.v1.Health/Watch": Access.ANYONE,
    "/inference.GRPCInferenceService/ServerLive": Access.ANYONE,
    "/inference.GRPCInferenceService/ServerReady": Access.ANYONE,
    # The contract is public; still, a stranger has no business here.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access.KNOWN,
}


def check_complete(methods: Iterable[str]) -> None:
    """Raise RuntimeError if a method has no place in the table."""
    missing = sorted(set(methods) - access_of_method.keys())
    if missing:
        raise RuntimeError(f"nobody said who may call {', '.join(missing)}")
