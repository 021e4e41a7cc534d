"""The versions of one model: which one serves, which drain, which were refused.

Rules:

1. The registry decides. A look at it reads alias and ledger in one call; nothing else changes what serves.
2. A version serves when it was downloaded, checked, loaded and warmed, and its deployment has a number; then it is
   swapped in by one assignment. What fails before that leaves the last good version serving, with the reason in the
   status.
3. A version that is at fault is refused: not tried again until the alias moves or somebody asks for a reload. A
   registry that is away is looked at again at the next poll.
4. The version that served before drains: it stays loaded until its last pinned episode ends, but at least
   `min_drain_seconds`, for tokens that other replicas handed out, and at most until the drain deadline.
5. A token may name a version that is not loaded here. If the ledger says that it served and its drain deadline has not
   passed, it is loaded again.
6. An alias that was moved without an entry in the ledger is a deployment with a number at once, and is written there as
   "observed" `observe_seconds` later (or at the end), if it is still missing: whoever moved the alias may be about to
   write it, and the later of the two would take the other's words away.
7. At a start without the registry, or with an alias that cannot be served, the version that served last goes on, from
   the cache.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from hyperact.service.errors import RegistryUnavailableError, VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.metrics import Metrics
from hyperact.service.repository import RegistryView, Repository
from hyperact.service.version_cache import LastServed
from hyperact.service.version_loader import Fresh, Loader, VersionLoader
from hyperact.v1.deployment_pb2 import Deployment, ModelStatus, VersionState, VersionStatus
from hyperact.v1.deployments import entry_for, observed
from hyperact.v1.manifests import spec_differences

logger = logging.getLogger(__name__)
min_drain_seconds = 5.0
obtain_look_period_seconds = 1.0
observe_seconds = 3.0
cache_keep_seconds = 3600.0
_max_looks = 3
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that can decide, and the deployment that put it into service."""

    version: str
    deployment: int
    hypermodel: Hypermodel


@dataclass(frozen=True, slots=True)
class VersionOptions:
    """What the models of one service share.

    Attributes:
        load: reads a version's folder.
        drain_deadline_seconds: how long after a promotion pinned episodes may go on.
        metrics: where changes are counted.
        executor: where blocking work runs.
        now: the time, in Unix seconds.
        notify: called after each change of the status.
    """

    repository: Repository
    load: Loader
    drain_deadline_seconds: float
    warm_up_batch_sizes: Sequence[int]
    metrics: Metrics
    executor: Executor
    now: Callable[[], float]
    notify: Callable[[], None]


@dataclass(slots=True)
class _Held:
    """A loaded version and what it is doing. `deadline` is set while it drains."""

    loaded: LoadedVersion
    origin: str
    since: float
    deadline: float | None = None
    num_pins: int = 0
    num_steps: int = 0

    def is_drained(self, now: float) -> bool:
        """Tell whether nobody may need it any more."""
        if self.deadline is None:
            return False
        return now >= self.deadline or (not self.num_pins and now - self.since >= min_drain_seconds)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a version is not tried."""

    reason: str
    message: str
    since: float


class ModelVersions:
    """The versions of one model.

    Attributes:
        model: the registered model's name.
        serving: what new episodes begin with; None while there is none.
    """

    def __init__(self, model: str, options: VersionOptions) -> None:
        self.model = model
        self.serving: LoadedVersion | None = None
        self._options = options
        self._loader = VersionLoader(
            model,
            options.repository,
            options.load,
            warm_up_batch_sizes=options.warm_up_batch_sizes,
            executor=options.executor,
            now=options.now,
            notify=options.notify,
            observe_phase=partial(options.metrics.observe_swap_phase, model),
        )
        self._held: dict[str, _Held] = {}
        self._refused: dict[str, _Refusal] = {}
        self._look_lock = asyncio.Lock()
        self._view = RegistryView()
        self._observed: list[Deployment] = []
        self._is_verified = True
        self._registry_problem = "the registry was not read yet"
        self._registry_time = 0.0
        self._obtain_look_time = 0.0

    # For the hot path.

    def get(self, version: str) -> LoadedVersion | None:
        """Return a version if it is loaded."""
        held = self._held.get(version)
        return held.loaded if held else None

    def is_overdue(self, version: str) -> bool:
        """Tell whether a version drains and its deadline has passed: its episodes are to move on."""
        held = self._held.get(version)
        return held is not None and held.deadline is not None and self._options.now() >= held.deadline

    def pin(self, version: str) -> None:
        """Note that an episode began with a version."""
        if held := self._held.get(version):
            held.num_pins += 1

    def unpin(self, version: str) -> None:
        """Note that an episode that was pinned to a version ended."""
        if held := self._held.get(version):
            held.num_pins = max(0, held.num_pins - 1)

    def count_steps(self, version: str, number: int) -> None:
        """Note that a version decided some steps."""
        if held := self._held.get(version):
            held.num_steps += number

    # Versions that sessions are pinned to.

    async def obtain(self, version: str) -> LoadedVersion | None:
        """Return a version that a session is pinned to, loaded again if need be; None if it must be re-pinned."""
        if not version or version in self._held or version in self._refused:
            return self.get(version)
        entry, deadline = self._last_deployment(version)
        if entry is None:
            await self._look_for_obtain()
            entry, deadline = self._last_deployment(version)
        if version not in self._held and entry is not None and self._options.now() < deadline:
            await self._load_again(version, entry, deadline)
        return self.get(version)

    def _last_deployment(self, version: str) -> tuple[Deployment | None, float]:
        """Return the last deployment of a version, and when its episodes must have moved on (Unix seconds)."""
        ledger = self._ledger()
        if self._view.alias_version == version:
            # Perhaps nobody has written it yet.
            ledger = [*ledger, entry_for(ledger, version, observed, _to_datetime(self._options.now()))]
        for place in reversed(range(len(ledger))):
            if ledger[place].to_version == version:
                is_last = place == len(ledger) - 1
                left = self._options.now() if is_last else ledger[place + 1].time.ToNanoseconds() / 1e9
                return ledger[place], left + self._options.drain_deadline_seconds
        return None, 0.0

    async def _look_for_obtain(self) -> None:
        """Read the ledger for a token of a version unknown here: another replica may have been quicker.

        Only the ledger, for bringing up what the alias names may take long.
        """
        now = self._options.now()
        if now - self._obtain_look_time >= obtain_look_period_seconds:
            self._obtain_look_time = now
            with contextlib.suppress(RegistryUnavailableError):
                view = await self._options.repository.look(self.model)
                if view.identity == self._view.identity:
                    self._view = view

    async def _load_again(self, version: str, entry: Deployment, deadline: float) -> None:
        try:
            fresh = await self._loader.load(version)
        except VersionRefusedError as error:
            self._refuse(version, error)
            return
        except RegistryUnavailableError as error:
            logger.warning("cannot load version %s of %s again: %s", version, self.model, error)
            return
        if version not in self._held:
            loaded = LoadedVersion(version, entry.number, fresh.hypermodel)
            self._held[version] = _Held(loaded, fresh.origin, self._options.now(), deadline)
            self._options.notify()

    # Following the alias.

    async def look(self, *, is_forced: bool = False) -> None:
        """Look at the registry and bring up what the alias names; `is_forced` tries refused versions again.

        Raises RegistryUnavailableError. What is wrong with a version ends in the status, not here.
        """
        async with self._look_lock:
            if is_forced:
                self._refused.clear()
            for _ in range(_max_looks):
                try:
                    view = await self._options.repository.look(self.model)
                    is_settled = await self._apply(view)
                except RegistryUnavailableError as error:
                    self._note_registry(str(error), is_up=False)
                    raise
                if is_settled:
                    return

    async def _apply(self, view: RegistryView) -> bool:
        """Bring up what the registry names; False if the alias moved on meanwhile and another look is due."""
        if self._view.identity and view.identity != self._view.identity:
            self._is_verified = False
            self._observed.clear()
        self._view = view
        await self._record_observed(self._options.now() - observe_seconds)
        version = view.alias_version
        self._refused = {name: refusal for name, refusal in self._refused.items() if name == version}
        self._note_registry(self._alias_problem(), is_up=True)
        if not version or version in self._refused:
            return True
        try:
            fresh = await self._bring_up(version)
        except VersionRefusedError as error:
            self._refuse(version, error)
            return True
        return await self._deploy(version, fresh)

    def _alias_problem(self) -> str:
        if self._view.alias_version or self.serving is None:
            return ""
        alias = self._options.repository.alias
        return f"the alias {alias!r} is gone from the registry; version {self.serving.version} goes on serving"

    async def _bring_up(self, version: str) -> Fresh:
        """Return a version loaded, warm and fit to replace what serves."""
        held = self._held.get(version)
        if held is not None and not self._is_verified:
            cached = await self._options.repository.fetch(self.model, version)
            if cached.origin != held.origin:
                logger.warning("version %s of %s is another one than before: the registry changed", version, self.model)
                held = None
        if held is not None:
            return Fresh(held.loaded.hypermodel, held.origin, is_verified=True)
        fresh = await self._loader.load(version)
        if self.serving is not None:
            differences = spec_differences(self.serving.hypermodel.manifest.spec, fresh.hypermodel.manifest.spec)
            if differences:
                raise VersionRefusedError("WRONG_SPEC", "; ".join(differences))
        return fresh

    async def _deploy(self, version: str, fresh: Fresh) -> bool:
        """Give the version its deployment number and swap it in; False if the alias moved on meanwhile."""
        entry = await self._find_entry(version)
        if entry is None:
            return False
        loaded = LoadedVersion(version, entry.number, fresh.hypermodel)
        self._is_verified = fresh.is_verified
        if self.serving != loaded:
            await self._swap(loaded, fresh.origin)
        return True

    async def _find_entry(self, version: str) -> Deployment | None:
        """Return the deployment of the version that the alias names; None if the alias moved on meanwhile."""
        now = _to_datetime(self._options.now())
        if self._is_new(entry_for(self._ledger(), version, observed, now)):
            await self._look_again()
            if self._view.alias_version != version:
                return None
        entry = entry_for(self._ledger(), version, observed, now)
        if self._is_new(entry):
            self._observed.append(entry)
        return entry

    def _ledger(self) -> list[Deployment]:
        """Return the registry's ledger and what was observed beyond it."""
        ledger = self._view.ledger
        last = ledger[-1].number if ledger else 0
        return [*ledger, *(entry for entry in self._observed if entry.number > last)]

    def _is_new(self, entry: Deployment) -> bool:
        ledger = self._ledger()
        return not ledger or ledger[-1].number != entry.number

    async def _look_again(self) -> None:
        """Read the ledger once more: whoever moved the alias may have written it while the version was loaded."""
        with contextlib.suppress(RegistryUnavailableError):
            self._view = await self._options.repository.look(self.model)

    async def close(self) -> None:
        """Write into the ledger what is still missing there: afterwards nobody here knows of it."""
        if self._observed:
            await self._look_again()
            await self._record_observed(self._options.now())

    async def _record_observed(self, until: float) -> None:
        """Write into the ledger what was observed until then (Unix seconds) and is still missing there."""
        last = self._view.ledger[-1].number if self._view.ledger else 0
        self._observed = [entry for entry in self._observed if entry.number > last]
        while self._observed and self._observed[0].time.ToNanoseconds() / 1e9 <= until:
            entry = self._observed[0]
            try:
                await self._options.repository.record(self.model, entry)
            except RegistryUnavailableError as error:
                logger.warning("deployment %d of %s is not in the ledger: %s", entry.number, self.model, error)
                return
            self._observed.pop(0)
            self._view = replace(self._view, ledger=[*self._view.ledger, entry])

    async def serve_last(self) -> None:
        """If nothing serves, serve what served last, from the cache."""
        last = await self._in_executor(self._options.repository.cache.read_last_served, self.model)
        if self.serving is not None or last is None:
            return
        try:
            fresh = await self._loader.load(last.version)
        except (VersionRefusedError, RegistryUnavailableError) as error:
            logger.warning("version %s of %s served last and cannot go on: %s", last.version, self.model, error)
            return
        logger.warning("version %s of %s served last and goes on", last.version, self.model)
        self._is_verified = fresh.is_verified
        await self._swap(LoadedVersion(last.version, last.deployment, fresh.hypermodel), fresh.origin)

    async def _swap(self, loaded: LoadedVersion, origin: str) -> None:
        now, before = self._options.now(), self.serving
        held = self._held.setdefault(loaded.version, _Held(loaded, origin, now))
        held.loaded, held.origin, held.since, held.deadline = loaded, origin, now, None
        self.serving = loaded
        if before is not None and before.version != loaded.version:
            draining = self._held[before.version]
            draining.since, draining.deadline = now, now + self._options.drain_deadline_seconds
        logger.info("version %s of %s serves, deployment %d", loaded.version, self.model, loaded.deployment)
        self._options.metrics.set_serving(self.model, loaded.version, loaded.deployment)
        self._options.notify()
        await self._in_executor(self._remember, LastServed(loaded.version, loaded.deployment), set(self._held))

    def _remember(self, served: LastServed, keep: set[str]) -> None:
        """Write down what serves and forget old downloads; blocks. Neither may stop serving."""
        cache = self._options.repository.cache
        unused_since = time.time() - max(cache_keep_seconds, 2 * self._options.drain_deadline_seconds)
        try:
            cache.write_last_served(self.model, served)
            cache.prune(self.model, keep, unused_since)
        except OSError as error:
            logger.warning("the version cache of %s cannot be written: %s", self.model, error)

    def _refuse(self, version: str, error: VersionRefusedError) -> None:
        self._refused[version] = _Refusal(error.reason, str(error), self._options.now())
        serving = f"version {self.serving.version} goes on" if self.serving else "nothing serves"
        logger.error("version %s of %s is refused, %s: %s: %s", version, self.model, serving, error.reason, error)
        self._options.metrics.count_refused(self.model, error.reason)
        self._options.notify()

    def _note_registry(self, problem: str, *, is_up: bool) -> None:
        """Note what is wrong with the registry; a problem is logged when it appears."""
        if is_up:
            self._registry_time = self._options.now()
        self._options.metrics.set_registry_up(self.model, is_up)
        if problem != self._registry_problem:
            if problem:
                logger.warning("registry of %s: %s", self.model, problem)
            self._registry_problem = problem
            self._options.notify()

    # Draining.

    async def sweep(self) -> None:
        """Unload drained versions that nobody needs any more."""
        now = self._options.now()
        drained = [version for version, held in self._held.items() if held.is_drained(now)]
        for version in drained:
            holder = [self._held.pop(version)]
            logger.info("version %s of %s is unloaded", version, self.model)
            await self._in_executor(holder.clear)
        if drained:
            self._options.notify()

    # Telling.

    def status(self) -> ModelStatus:
        """Return what there is to know."""
        status = ModelStatus(
            model=self.model, alias=self._options.repository.alias, registry_problem=self._registry_problem
        )
        if self._registry_time:
            status.registry_time.CopyFrom(_to_timestamp(self._registry_time))
        status.versions.extend(sorted(self._version_statuses(), key=_rank))
        if self.serving is not None:
            status.spec.CopyFrom(self.serving.hypermodel.manifest.spec)
            status.deployment.CopyFrom(self._deployment_of(self.serving))
        return status

    def _version_statuses(self) -> list[VersionStatus]:
        held = [self._held_status(version, held) for version, held in self._held.items()]
        loading = [
            VersionStatus(version=version, state=VersionState.VERSION_STATE_LOADING, since=_to_timestamp(since))
            for version, since in self._loader.loading_since.items()
        ]
        refused = [
            VersionStatus(
                version=version,
                state=VersionState.VERSION_STATE_REFUSED,
                since=_to_timestamp(refusal.since),
                problem=f"{refusal.reason}: {refusal.message}",
            )
            for version, refusal in self._refused.items()
        ]
        return held + loading + refused

    def _held_status(self, version: str, held: _Held) -> VersionStatus:
        is_draining = held.deadline is not None
        return VersionStatus(
            version=version,
            state=VersionState.VERSION_STATE_DRAINING if is_draining else VersionState.VERSION_STATE_SERVING,
            deployment=held.loaded.deployment,
            num_pinned_episodes=held.num_pins,
            num_steps=held.num_steps,
            since=_to_timestamp(held.since),
            drain_deadline=None if held.deadline is None else _to_timestamp(held.deadline),
        )

    def _deployment_of(self, loaded: LoadedVersion) -> Deployment:
        """Return the ledger's entry, or what is known of a deployment that could not be recorded."""
        for entry in reversed(self._ledger()):
            if entry.number == loaded.deployment:
                return entry
        return Deployment(number=loaded.deployment, to_version=loaded.version, actor=observed)

    async def _in_executor(self, function: Callable[..., _Result], *args: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._options.executor, function, *args)


_order = (
    VersionState.VERSION_STATE_SERVING,
    VersionState.VERSION_STATE_LOADING,
    VersionState.VERSION_STATE_DRAINING,
    VersionState.VERSION_STATE_REFUSED,
)


def _rank(status: VersionStatus) -> int:
    return _order.index(status.state)


def _to_datetime(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _to_timestamp(seconds: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromNanoseconds(round(seconds * 1e9))
    return timestamp
