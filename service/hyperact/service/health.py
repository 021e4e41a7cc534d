"""grpc.health.v1 over the worker's readiness: asked anew at every check, so that it is never stale."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
watch_period_seconds = 0.2


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Tells whether the worker is ready, for the server as a whole ("") and for each of its services by name."""

    def __init__(self, find_problem: Callable[[], str], services: Collection[str]) -> None:
        self._find_problem = find_problem
        self._services = {"", *services}

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802 - named by the .proto file
        """Answer once; NOT_FOUND if the service is not known."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service {request.service[:80]!r} is not known")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802, ARG002 - likewise
        """Answer for all at once."""
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in self._services}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802, ARG002 - likewise
        """Answer now and after each change."""
        sent = None
        while True:
            status = self._status(request.service)
            if status != sent:
                sent = status
                yield health_pb2.HealthCheckResponse(status=status)
            await asyncio.sleep(watch_period_seconds)

    def _status(self, service: str) -> Any:
        statuses = health_pb2.HealthCheckResponse
        if service not in self._services:
            return statuses.SERVICE_UNKNOWN
        return statuses.NOT_SERVING if self._find_problem() else statuses.SERVING
