"""The command `hyperact watch`: takes a deployment back when it does harm, by declared conditions.

The rules:

1. Returns come from the log, by deployment, as a trainer counts them; failures of a version from the status of the
   service at the address (of one worker). Evaluation episodes are passed over.
2. A challenger is held against what the champion returned since the canary began; a champion against the champion
   before it. What a condition needs to be certain of is in rollback_rules.py.
3. A challenger is stopped; a champion is rolled back to the version before it. The ledger says that it was this
   command, and why. What this command put into service it does not take back again: two versions that are both bad must
   not take turns. While the kill switch stands nothing is done.
4. Nothing is remembered but what was read: started again, it reads the end of the log again and comes to the same.
"""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import grpc

from hyperact.service.errors import DecisionError, RegistryUnavailableError, VersionRefusedError
from hyperact.service.operations import explain, fail, open_repository
from hyperact.service.rollback_rules import find_error_problem, find_return_problem
from hyperact.service.steering import deploy
from hyperact.service.step_sources import RemoteSteps, StepSource
from hyperact.service.watch_settings import WatchSettings
from hyperact.v1.channels import open_aio_channel
from hyperact.v1.deployment_pb2 import Deployment, GetStatusRequest, ModelStatus
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.deployments import CHALLENGER, CHAMPION, last_of, role_of, standing_kill
from hyperact.v1.transitions import EpisodeSummary, TransitionAssembler

commit_margin_seconds = 1.0


def watch(settings: WatchSettings) -> int:
    """Take a deployment back when it does harm, by declared conditions."""
    try:
        return asyncio.run(_watch(settings))
    except VersionRefusedError as error:
        return fail(str(error))


async def _watch(settings: WatchSettings) -> int:
    source = RemoteSteps(settings.address, settings)
    watcher = Watcher(settings, source)
    try:
        while True:
            try:
                entry = await watcher.look()
            except (DecisionError, RegistryUnavailableError, grpc.aio.AioRpcError) as error:
                problem = explain(error) if isinstance(error, grpc.aio.AioRpcError) else str(error)
                if settings.once:
                    return fail(problem)
                _tell(f"cannot look: {problem}")
                entry = None
            if entry is not None:
                _tell(f"deployment {entry.number}: {_what(entry)}, because {entry.reason}")
            if settings.once:
                return 0
            await asyncio.sleep(settings.poll_seconds)
    finally:
        await source.close()


class Watcher:
    """Watches the deployments of one model."""

    def __init__(self, settings: WatchSettings, source: StepSource) -> None:
        self._settings = settings
        self._source = source
        self._assembler: TransitionAssembler | None = None
        self._positions: dict[str, int] = {}
        self._episodes: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)

    async def look(self) -> Deployment | None:
        """Read what is new and take back what does harm; return the entry of the ledger, if there is one.

        Raises DecisionError or AioRpcError if the service, RegistryUnavailableError if the registry is away.
        """
        status = await self._status()
        await self._read(status)
        ledger = (await open_repository(self._settings).look(self._settings.model)).ledger
        if standing_kill(ledger) is not None:
            return None
        for role in (CHALLENGER, CHAMPION):
            entry = last_of(ledger, role)
            if entry is None or not entry.to_version or entry.actor == self._settings.watcher:
                continue
            problem = self._problem(entry, ledger, status)
            if problem and (role == CHALLENGER or entry.from_version):
                version = "" if role == CHALLENGER else entry.from_version
                note = Deployment(role=role, actor=self._settings.watcher, reason=problem)
                return await deploy(self._settings, version, note)
        return None

    def _problem(self, entry: Deployment, ledger: Sequence[Deployment], status: ModelStatus) -> str:
        returns = [value for _, value in self._episodes[entry.number]]
        problem = find_return_problem(returns, self._baseline(entry, ledger), self._settings.limits)
        if problem:
            return problem
        found = next((version for version in status.versions if version.deployment == entry.number), None)
        return find_error_problem(found.num_steps, found.num_errors, self._settings.limits) if found else ""

    def _baseline(self, entry: Deployment, ledger: Sequence[Deployment]) -> list[float]:
        """Return the returns that a deployment is held against."""
        since = 0.0
        if role_of(entry) == CHALLENGER:
            baseline, since = last_of(ledger, CHAMPION), entry.time.ToNanoseconds() / 1e9
        else:
            baseline = last_of([found for found in ledger if found.number < entry.number], CHAMPION)
        if baseline is None:
            return []
        return [value for end_seconds, value in self._episodes[baseline.number] if end_seconds >= since]

    async def _status(self) -> ModelStatus:
        async with open_aio_channel(self._settings.address, self._settings) as channel:
            request = GetStatusRequest(model=self._settings.model)
            response = await DeploymentServiceStub(channel).GetStatus(request, timeout=self._settings.timeout_seconds)
        status: ModelStatus = response.models[0]
        return status

    async def _read(self, status: ModelStatus) -> None:
        """Take in the log from where it was read until; at first, its end."""
        if not status.HasField("spec"):
            return
        model = self._settings.model
        if self._assembler is None:
            self._assembler = TransitionAssembler(status.spec)
            found = await self._source.get_range(model)
            self._positions = {
                extent.partition: max(extent.begin_offset, extent.end_offset - self._settings.num_entries)
                for extent in found.ranges
            }
        now_seconds = time.time() - commit_margin_seconds
        async for page in self._source.pages(model, self._positions):
            self._positions |= {entry.partition: entry.offset + 1 for entry in page}
            self._take(self._assembler.push(page).episodes)
        self._take(self._assembler.advance(now_seconds).episodes)

    def _take(self, episodes: Sequence[EpisodeSummary]) -> None:
        for episode in episodes:
            if not episode.is_evaluation:
                self._episodes[episode.deployment].append((episode.end_time_seconds, episode.episode_return))


def _what(entry: Deployment) -> str:
    if role_of(entry) == CHALLENGER:
        return f"the canary of version {entry.from_version} is stopped"
    return f"rolled back from version {entry.from_version} to {entry.to_version}"


def _tell(line: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(line.split())}\n")
    sys.stdout.flush()
