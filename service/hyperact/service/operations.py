"""The commands that ask and steer: `hyperact status`, `promote`, `rollback`, `deployments`, `log`.

Answers go to standard output; what went wrong goes to standard error in one line, with exit code 1. Interrupting a
command that keeps going ends it as it should.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from rich.live import Live
from rich.markup import escape

from hyperact.service.errors import RegistryUnavailableError
from hyperact.service.operation_settings import (
    DeploymentsSettings,
    LogAction,
    LogSettings,
    RegistrySettings,
    StatusSettings,
)
from hyperact.service.tables import (
    deployments_table,
    entry_line,
    make_console,
    range_view,
    status_view,
)
from hyperact.v1.channels import open_channel
from hyperact.v1.deployment_pb2 import (
    Deployment,
    GetStatusRequest,
    GetStatusResponse,
)
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.log_pb2 import ForgetRequest, GetRangeRequest, LogEntry, LogPosition, ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub

if TYPE_CHECKING:
    from hyperact.service.repository import Repository

watch_period_seconds = 1.0
_tail_growth = 16


def status(settings: StatusSettings) -> int:
    """Show what serves, drains or was refused, and whether the service is ready."""
    console = make_console()
    with open_channel(settings.address, settings) as channel:
        stub = DeploymentServiceStub(channel)
        request = GetStatusRequest(model=settings.model)
        try:
            response: GetStatusResponse = stub.GetStatus(request, timeout=settings.timeout_seconds)
        except grpc.RpcError as error:
            return fail(f"{settings.address}: {explain(error)}")
        if not settings.watch:
            console.print(status_view(settings.address, response))
            return 0
        with Live(status_view(settings.address, response), console=console) as live:
            while True:
                time.sleep(watch_period_seconds)
                try:
                    response = stub.GetStatus(request, timeout=settings.timeout_seconds)
                    live.update(status_view(settings.address, response))
                except grpc.RpcError as error:
                    live.update(f"[red]{escape(f'{settings.address}: {explain(error)}')}[/]")


def deployments(settings: DeploymentsSettings) -> int:
    """Show the ledger: every deployment, who made it, and what came of it."""
    try:
        ledger = read_ledger(settings)
    except RegistryUnavailableError as error:
        return fail(str(error))
    if not ledger:
        make_console().print(f"{settings.model!r} has no deployments at {settings.registry_uri}")
        return 0
    make_console().print(deployments_table(settings.model, ledger[-settings.num_entries :]))
    return 0


def log(settings: LogSettings) -> int:
    """Show the newest entries of the step log, or which partitions it has; verify or export it."""
    if settings.action in (LogAction.VERIFY, LogAction.EXPORT):
        from hyperact.service.log_commands import export, verify

        return verify(settings) if settings.action is LogAction.VERIFY else export(settings)
    with open_channel(settings.address, settings) as channel:
        stub = LogServiceStub(channel)
        try:
            if settings.action is LogAction.RANGE:
                found = stub.GetRange(GetRangeRequest(model=settings.model), timeout=settings.timeout_seconds)
                make_console().print(range_view(found))
                return 0
            if settings.action is LogAction.FORGET:
                stub.Forget(ForgetRequest(reader=settings.reader), timeout=settings.timeout_seconds)
                return 0
            for entry in _tail(stub, settings):
                sys.stdout.write(entry_line(entry) + "\n")
                sys.stdout.flush()
        except grpc.RpcError as error:
            return fail(f"{settings.address}: {explain(error)}")
    return 0


def open_repository(settings: RegistrySettings) -> "Repository":
    """Return the registry that the settings name. RegistryUnavailableError if it is a file that is not there."""
    from hyperact.service.repository import Repository
    from hyperact.service.version_cache import VersionCache

    path = Path(settings.registry_uri.removeprefix("sqlite:///"))
    if settings.registry_uri.startswith("sqlite:///") and not path.exists():
        raise RegistryUnavailableError(f"there is no registry at {path}: name one with --data-dir or --tracking-uri")
    return Repository(settings.registry_uri, VersionCache(settings.data_dir / "versions"), alias=settings.alias)


def read_ledger(settings: RegistrySettings) -> list[Deployment]:
    """Return a model's ledger. Raises RegistryUnavailableError."""
    return asyncio.run(open_repository(settings).look(settings.model)).ledger


def _tail(stub: LogServiceStub, settings: LogSettings) -> Iterator[LogEntry]:
    """Yield the newest entries, then new ones if following.

    Offsets have gaps and other models' entries between them: the window before the end grows until it holds enough.
    """
    found = stub.GetRange(GetRangeRequest(model=settings.model), timeout=settings.timeout_seconds)
    width = settings.n
    while True:
        begins = [max(extent.begin_offset, extent.end_offset - width) for extent in found.ranges]
        request = ReadRequest(model=settings.model)
        for extent, begin in zip(found.ranges, begins, strict=True):
            request.positions.add(partition=extent.partition, offset=begin)
        newest: deque[LogEntry] = deque(maxlen=settings.n)
        positions: list[LogPosition] = []
        for response in stub.Read(request):
            newest.extend(response.entries)
            positions = list(response.next_positions)
        is_all = all(begin == extent.begin_offset for begin, extent in zip(begins, found.ranges, strict=True))
        if len(newest) == settings.n or is_all:
            break
        width *= _tail_growth
    yield from newest
    if settings.follow:
        for response in stub.Read(ReadRequest(model=settings.model, positions=positions, follow=True)):
            yield from response.entries


def explain(error: grpc.RpcError) -> str:
    """Return an error's code and what it says."""
    if not isinstance(error, grpc.Call):
        return str(error)
    details = error.details() or ""
    is_nobody = error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details
    return "no service answers there" if is_nobody else f"{error.code().name}: {details}"


def fail(message: str) -> int:
    """Say in one line on standard error what went wrong; return the exit code 1."""
    sys.stderr.write(" ".join(message.split()) + "\n")
    return 1
