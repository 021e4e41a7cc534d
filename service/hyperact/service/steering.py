"""The commands that change what serves: `hyperact promote`, `rollback`, `canary`, `shadow`, `kill`.

Each moves an alias and writes an entry of the ledger, in this order, and then has the service look. What gives a
version real decisions is judged first: promotions and canaries. What takes decisions away from one is never judged.
"""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from hyperact.service.errors import DecisionError, RegistryUnavailableError, VersionRefusedError
from hyperact.service.operation_settings import (
    CanarySettings,
    GateSettings,
    KillSettings,
    PromoteSettings,
    RegistrySettings,
    RollbackSettings,
    ShadowSettings,
    SteeringSettings,
)
from hyperact.service.operations import explain, fail, open_repository, read_ledger
from hyperact.service.tables import deployments_table, gates_table, make_console, shadow_table
from hyperact.v1.channels import open_channel
from hyperact.v1.deployment_pb2 import Deployment, DeploymentRole, ModelStatus, ReloadRequest
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.deployments import CHALLENGER, CHAMPION, SHADOW, last_of, role_of, standing_kill
from hyperact.v1.gates import Verdict

if TYPE_CHECKING:
    from hyperact.service.repository import Repository

promotion_gate_tag = "hyperact.gate.promotion"
uniform = "uniform"


def promote(settings: PromoteSettings) -> int:
    """Judge a version and, if no gate holds it back, move the alias to it: then it serves."""
    note = Deployment(role=CHAMPION, actor=settings.actor_or_user, reason=settings.reason)
    try:
        if (kill := _standing_kill(settings)) is not None and not settings.reason:
            return fail(f"{_kill_line(kill)}: to promote in spite of it, say why with --reason")
        return _deploy_judged(settings, settings.version, note, is_forced=settings.force)
    except RegistryUnavailableError as error:
        return fail(str(error))


def rollback(settings: RollbackSettings) -> int:
    """Move the alias back to the version that served before the last deployment, or to another one."""
    version = settings.to
    if not version:
        try:
            last = last_of(read_ledger(settings), CHAMPION)
        except RegistryUnavailableError as error:
            return fail(str(error))
        if last is not None and last.is_immediate:
            return fail(f"{_kill_line(last)}: to lift it, promote a version, or name one with --to")
        version = last.from_version if last is not None else ""
    if not version:
        return fail(f"nothing served before on {settings.model!r}: name a version with --to")
    note = Deployment(role=CHAMPION, actor=settings.actor_or_user, reason=settings.reason)
    return _deploy(settings, version, note)


def canary(settings: CanarySettings) -> int:
    """Judge a version and give it a share of sessions, or end that."""
    note = Deployment(role=CHALLENGER, actor=settings.actor_or_user, reason=settings.reason)
    if settings.stop:
        return _deploy(settings, "", note)
    note.share = settings.share
    try:
        if (kill := _standing_kill(settings)) is not None:
            return fail(f"{_kill_line(kill)}: no canary until a version is promoted")
        return _deploy_judged(settings, settings.version, note, is_forced=settings.force)
    except RegistryUnavailableError as error:
        return fail(str(error))


def shadow(settings: ShadowSettings) -> int:
    """Have a version score what others decide, or end that, or show the scores."""
    if settings.report:
        return _report(settings)
    note = Deployment(role=SHADOW, actor=settings.actor_or_user, reason=settings.reason)
    return _deploy(settings, settings.version, note)


def kill(settings: KillSettings) -> int:
    """Put a baseline in the place of everything, at once: running episodes move to it."""
    version = "" if settings.to == uniform else settings.to
    note = Deployment(role=CHAMPION, actor=settings.actor_or_user, reason=settings.reason, is_immediate=True)
    return _deploy(settings, version, note)


def _deploy_judged(settings: GateSettings, version: str, note: Deployment, *, is_forced: bool) -> int:
    verdict = asyncio.run(_judge(settings, version))
    make_console().print(gates_table(version, verdict))
    if not verdict.is_promotion and not is_forced:
        return fail(f"version {version} is held back: {'; '.join(verdict.reasons)}")
    note.gate_report = verdict.report
    note.is_forced = not verdict.is_promotion
    return _deploy(settings, version, note)


async def _judge(settings: GateSettings, version: str) -> Verdict:
    """Judge a version, and keep the verdict as its tag and with the run that made it."""
    from hyperact.service.judgement import Judgement

    repository = open_repository(settings)
    versions = await repository.list_versions(settings.model)
    if version not in versions:
        known = f"there are {', '.join(versions)}" if versions else "there are none"
        raise RegistryUnavailableError(f"model {settings.model!r} has no version {version}: {known}")
    with Judgement(repository, settings) as judgement:
        verdict = await judgement.judge(version)
        run_id = await judgement.run_of(version)
    await repository.set_version_tag(settings.model, version, promotion_gate_tag, verdict.report)
    if run_id:
        text = verdict.to_markdown(f"gates of version {version}, before it served")
        with contextlib.suppress(RegistryUnavailableError):  # the run may be gone; the tag has the verdict
            await repository.log_text(run_id, text, f"gates/version-{version}-promotion.md")
    return verdict


def _deploy(settings: SteeringSettings, version: str, note: Deployment) -> int:
    """Move the alias of the note's role, write the ledger, and have the service look."""
    try:
        entry = asyncio.run(deploy(settings, version, note))
    except (RegistryUnavailableError, VersionRefusedError) as error:
        return fail(str(error))
    make_console().print(deployments_table(settings.model, [entry]))
    return _wait_for_service(settings, entry) if settings.wait_seconds else 0


async def deploy(settings: RegistrySettings, version: str, note: Deployment) -> Deployment:
    """Move the alias of the note's role and write the ledger; return the entry.

    A promotion of what the last entry names already is no new one; everything else is. The kill switch ends canary and
    shadow, too.
    Raises RegistryUnavailableError or VersionRefusedError.
    """
    repository, now = open_repository(settings), datetime.now(UTC)
    is_promotion = role_of(note) == CHAMPION and not note.is_immediate
    if is_promotion and standing_kill((await repository.look(settings.model)).ledger) is None:
        return await repository.promote(settings.model, version, now, note)
    entry = await repository.deploy(settings.model, version, now, note)
    if note.is_immediate:
        await _end_companions(repository, settings.model, now, note)
    return entry


async def _end_companions(repository: "Repository", model: str, now: datetime, kill: Deployment) -> None:
    """End canary and shadow for good: they must not come back when the kill switch is lifted."""
    view = await repository.look(model)
    for role, version in ((CHALLENGER, view.challenger_version), (SHADOW, view.shadow_version)):
        if version:
            await repository.deploy(model, "", now, Deployment(role=role, actor=kill.actor, reason=kill.reason))


def _wait_for_service(settings: SteeringSettings, entry: Deployment) -> int:
    """Ask the service to look at the registry now, and tell what came of it. No service there is no failure."""
    console = make_console()
    with open_channel(settings.address, settings) as channel:
        request = ReloadRequest(model=settings.model)
        try:
            response = DeploymentServiceStub(channel).Reload(request, timeout=settings.wait_seconds)
        except grpc.RpcError as error:
            console.print(f"{settings.address} was not told ({explain(error)}); services see it at their next look")
            return 0
    status = next((model for model in response.status.models if model.model == settings.model), ModelStatus())
    problem = _problem(status, entry)
    if problem:
        return fail(f"{settings.address} {problem}")
    console.print(f"{settings.address} {_effect(entry)}, deployment {entry.number}")
    return 0


def _problem(status: ModelStatus, entry: Deployment) -> str:
    """Return why a service did not do what a deployment says; empty if it did."""
    version, role = entry.to_version, role_of(entry)
    by_role = {found.role: found for found in status.versions if found.role}
    if entry.is_immediate:
        is_in_force = status.kill.number == entry.number
        return "" if is_in_force else f"does not heed the kill switch yet: {status.registry_problem or 'look again'}"
    if not version:
        return f"still has version {by_role[role].version} there" if role in by_role else ""
    if role in by_role and by_role[role].version == version:
        return ""
    refused = [found for found in status.versions if found.version == version and found.problem]
    if refused:
        return f"refused version {version}: {refused[0].problem}"
    if role != CHAMPION and by_role.get(CHAMPION) and by_role[CHAMPION].version == version:
        return f"serves version {version} to everybody already"
    return f"does not serve version {version}: does it follow the same registry and alias?"


def _effect(entry: Deployment) -> str:
    version, role = entry.to_version, role_of(entry)
    if entry.is_immediate:
        return f"acts by {f'version {version}' if version else 'the uniform fallback'} alone"
    if not version:
        return f"has no {DeploymentRole.Name(role).removeprefix('DEPLOYMENT_ROLE_').lower()} any more"
    if role == CHALLENGER:
        return f"serves version {version} to {entry.share:.1%} of sessions"
    return f"has version {version} score in the shadow" if role == SHADOW else f"serves version {version}"


def _standing_kill(settings: RegistrySettings) -> Deployment | None:
    return standing_kill(read_ledger(settings))


def _kill_line(kill: Deployment) -> str:
    return f"the kill switch stands (deployment {kill.number}, by {kill.actor}: {kill.reason})"


def _report(settings: ShadowSettings) -> int:
    from hyperact.service.shadow_report import read_scores

    try:
        rows = asyncio.run(read_scores(settings.data_dir, settings.model))
    except DecisionError as error:
        return fail(str(error))
    make_console().print(shadow_table(settings.model, rows))
    return 0
