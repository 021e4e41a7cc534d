"""DeploymentService over gRPC: translates, nothing else."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from hyperact.service.errors import DecisionError, RegistryUnavailableError, UnavailableError
from hyperact.service.statuses import abort
from hyperact.service.step_log import StepLog
from hyperact.service.versions import Versions
from hyperact.v1 import deployment_pb2_grpc
from hyperact.v1.deployment_pb2 import (
    GetStatusRequest,
    GetStatusResponse,
    ReloadRequest,
    ReloadResponse,
    WatchStatusRequest,
    WatchStatusResponse,
)


class DeploymentServicer(deployment_pb2_grpc.DeploymentServiceServicer):
    """Reports versions and deployments.

    Args:
        versions: what serves.
        step_log: the log of this worker.
        find_problem: returns why the service is not ready; empty if it is.
        count_sessions: returns how many sessions this worker remembers.
    """

    def __init__(
        self,
        versions: Versions,
        step_log: StepLog,
        *,
        find_problem: Callable[[], str],
        count_sessions: Callable[[], int],
    ) -> None:
        self._versions = versions
        self._step_log = step_log
        self._find_problem = find_problem
        self._count_sessions = count_sessions

    async def GetStatus(
        self, request: GetStatusRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> GetStatusResponse:
        """Tell what is serving, loading and draining."""
        try:
            return self._status(request.model)
        except DecisionError as error:
            await abort(context, error)

    async def WatchStatus(
        self, request: WatchStatusRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[WatchStatusResponse]:
        """Send the status now and after each change."""
        while True:
            changed = self._versions.changed
            try:
                status = self._status(request.model)
            except DecisionError as error:
                await abort(context, error)
            yield WatchStatusResponse(status=status)
            await changed.wait()

    async def Reload(self, request: ReloadRequest, context: "grpc.aio.ServicerContext[Any, Any]") -> ReloadResponse:
        """Look at the registry now."""
        try:
            await self._versions.reload(request.model)
            return ReloadResponse(status=self._status(request.model))
        except RegistryUnavailableError as error:
            await abort(
                context,
                UnavailableError(
                    f"the registry cannot be read: {error}", reason="REGISTRY_UNAVAILABLE", retry_delay_seconds=1
                ),
            )
        except DecisionError as error:
            await abort(context, error)

    def _status(self, model: str) -> GetStatusResponse:
        problem = self._find_problem()
        return GetStatusResponse(
            models=self._versions.status(model),
            is_ready=not problem,
            problem=problem,
            num_logged_steps=self._step_log.num_steps,
            log_problem=self._step_log.problem(),
            num_sessions=self._count_sessions(),
            log_set_aside=self._step_log.find_set_aside(),
        )
