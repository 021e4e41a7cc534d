"""The commands that ask and steer: `hyperact status`, `promote`, `rollback`, `deployments`, `log`.

Answers go to standard output; what went wrong goes to standard error in one line, with exit code 1. Interrupting a
command that keeps going ends it as it should.
"""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from rich.live import Live
from rich.markup import escape

from hyperact.service.errors import RegistryUnavailableError, VersionRefusedError
from hyperact.service.operation_settings import (
    DeploymentsSettings,
    LogAction,
    LogSettings,
    PromoteSettings,
    RegistrySettings,
    RollbackSettings,
    StatusSettings,
    SteeringSettings,
)
from hyperact.service.tables import (
    deployments_table,
    entry_line,
    gates_table,
    make_console,
    range_view,
    status_view,
)
from hyperact.v1.channels import open_channel
from hyperact.v1.deployment_pb2 import (
    Deployment,
    GetStatusRequest,
    GetStatusResponse,
    ReloadRequest,
    VersionState,
)
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.gates import Verdict
from hyperact.v1.log_pb2 import ForgetRequest, GetRangeRequest, LogEntry, LogPosition, ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub

if TYPE_CHECKING:
    from hyperact.service.repository import Repository

watch_period_seconds = 1.0
promotion_gate_tag = "hyperact.gate.promotion"
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
            return fail(f"{settings.address}: {_explain(error)}")
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
                    live.update(f"[red]{escape(f'{settings.address}: {_explain(error)}')}[/]")


def promote(settings: PromoteSettings) -> int:
    """Judge a version and, if no gate holds it back, move the alias to it: then it serves."""
    try:
        verdict = asyncio.run(_judge(settings))
    except RegistryUnavailableError as error:
        return fail(str(error))
    make_console().print(gates_table(settings.version, verdict))
    if not verdict.is_promotion and not settings.force:
        return fail(f"version {settings.version} is held back: {'; '.join(verdict.reasons)}")
    note = Deployment(
        actor=settings.actor_or_user,
        gate_report=verdict.report,
        reason=settings.reason,
        is_forced=not verdict.is_promotion,
    )
    return _move(settings, settings.version, note)


def rollback(settings: RollbackSettings) -> int:
    """Move the alias back to the version that served before the last deployment, or to another one."""
    version = settings.to
    if not version:
        try:
            ledger = _read_ledger(settings)
        except RegistryUnavailableError as error:
            return fail(str(error))
        version = ledger[-1].from_version if ledger else ""
    if not version:
        return fail(f"nothing served before on {settings.model!r}: name a version with --to")
    return _move(settings, version, Deployment(actor=settings.actor_or_user, reason=settings.reason))


def deployments(settings: DeploymentsSettings) -> int:
    """Show the ledger: every deployment, who made it, and what came of it."""
    try:
        ledger = _read_ledger(settings)
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
            return fail(f"{settings.address}: {_explain(error)}")
    return 0


def open_repository(settings: RegistrySettings) -> "Repository":
    """Return the registry that the settings name. RegistryUnavailableError if it is a file that is not there."""
    from hyperact.service.repository import Repository
    from hyperact.service.version_cache import VersionCache

    path = Path(settings.registry_uri.removeprefix("sqlite:///"))
    if settings.registry_uri.startswith("sqlite:///") and not path.exists():
        raise RegistryUnavailableError(f"there is no registry at {path}: name one with --data-dir or --tracking-uri")
    return Repository(settings.registry_uri, VersionCache(settings.data_dir / "versions"), alias=settings.alias)


def _read_ledger(settings: RegistrySettings) -> list[Deployment]:
    return asyncio.run(open_repository(settings).look(settings.model)).ledger


async def _judge(settings: PromoteSettings) -> Verdict:
    """Judge a version, and keep the verdict as its tag and with the run that made it."""
    from hyperact.service.judgement import Judgement

    repository = open_repository(settings)
    versions = await repository.list_versions(settings.model)
    if settings.version not in versions:
        known = f"there are {', '.join(versions)}" if versions else "there are none"
        raise RegistryUnavailableError(f"model {settings.model!r} has no version {settings.version}: {known}")
    with Judgement(repository, settings) as judgement:
        verdict = await judgement.judge(settings.version)
        run_id = await judgement.run_of(settings.version)
    await repository.set_version_tag(settings.model, settings.version, promotion_gate_tag, verdict.report)
    if run_id:
        text = verdict.to_markdown(f"gates of version {settings.version}, by hyperact promote")
        with contextlib.suppress(RegistryUnavailableError):  # the run may be gone; the tag has the verdict
            await repository.log_text(run_id, text, f"gates/version-{settings.version}-promotion.md")
    return verdict


def _move(settings: SteeringSettings, version: str, note: Deployment) -> int:
    try:
        entry = asyncio.run(open_repository(settings).promote(settings.model, version, datetime.now(UTC), note))
    except (RegistryUnavailableError, VersionRefusedError) as error:
        return fail(str(error))
    make_console().print(deployments_table(settings.model, [entry]))
    return _wait_for_service(settings, version) if settings.wait_seconds else 0


def _wait_for_service(settings: SteeringSettings, version: str) -> int:
    """Ask the service to look at the registry now, and tell what came of it. No service there is no failure."""
    console = make_console()
    with open_channel(settings.address, settings) as channel:
        request = ReloadRequest(model=settings.model)
        try:
            response = DeploymentServiceStub(channel).Reload(request, timeout=settings.wait_seconds)
        except grpc.RpcError as error:
            console.print(f"{settings.address} was not told ({_explain(error)}); services see it at their next look")
            return 0
    versions = [found for model in response.status.models for found in model.versions if found.version == version]
    for found in versions:
        if found.state == VersionState.VERSION_STATE_SERVING:
            console.print(f"{settings.address} serves version {version}, deployment {found.deployment}")
            return 0
        if found.state == VersionState.VERSION_STATE_REFUSED:
            return fail(f"{settings.address} refused version {version}: {found.problem}")
    return fail(f"{settings.address} does not serve version {version}: does it follow the same registry and alias?")


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


def _explain(error: grpc.RpcError) -> str:
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
