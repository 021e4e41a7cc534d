"""The versions of one model: which one serves, which drain, which were refused.

Rules:

1. The registry decides. A look at it reads alias and ledger in one call; nothing else changes what serves.
2. A version serves when it was downloaded, checked, loaded and warmed, and its deployment has a number; then it is
   swapped in by one assignment. What fails before that leaves the last good version serving, with the reason in the
   status.
3. A version that is at fault is refused: not tried again until the alias moves or somebody asks for a reload. A
   registry that is away is looked at again at the next poll. One that takes long, by its download or by its size, is
   not waited for when the alias moves on.
4. The version that served before drains: it stays loaded until its last pinned episode ends, but at least
   `min_drain_seconds`, for tokens that other replicas handed out, and at most until the drain deadline.
5. A token may name a version that is not loaded here. If the ledger says that it served and its drain deadline has not
   passed, it is loaded again.
6. An alias that was moved without an entry in the ledger is a deployment with a number at once, and is written there as
   "observed" `observe_seconds` later (or at the end), if it is still missing: whoever moved the alias may be about to
   write it, and the later of the two would take the other's words away.
7. At a start without the registry, or with an alias that cannot be served, the version that served last goes on, from
   the cache. It also says of what spec the alias's version must be.
8. A challenger and a shadow may stand beside the champion (companions.py). An episode begins with the champion, or, in
   the challenger's share of sessions, with the challenger. What loses its role drains.
9. The kill switch is a deployment of the champion, but an immediate one: no episode may go on with anything else than
   what it names, a version or the uniform fallback. It stands until another champion serves; meanwhile there is no
   challenger and no shadow.
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

from hyperact.service.companions import Companions, Role, Wanted
from hyperact.service.errors import RegistryUnavailableError, VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.metrics import Metrics
from hyperact.service.repository import RegistryView, Repository
from hyperact.service.superseding import unless
from hyperact.service.version_cache import LastServed
from hyperact.service.version_loader import Fresh, Loader, VersionLoader
from hyperact.v1.deployment_pb2 import Deployment, DeploymentRole, ModelStatus, VersionState, VersionStatus
from hyperact.v1.deployments import (
    CHALLENGER,
    CHAMPION,
    SHADOW,
    entry_for,
    last_of,
    observed,
    role_of,
    standing_kill,
    standing_share,
)
from hyperact.v1.manifests import spec_differences
from hyperact.v1.model_pb2 import ModelSpec

logger = logging.getLogger(__name__)
min_drain_seconds = 5.0
obtain_look_period_seconds = 1.0
observe_seconds = 3.0
superseded_look_period_seconds = 1.0
cache_keep_seconds = 3600.0
_max_looks = 3
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version that can decide, and the deployment that put it into service."""

    version: str
    deployment: int
    hypermodel: Hypermodel


@dataclass(slots=True)
class ShadowScores:
    """What came of a shadow's scoring on this worker since it became one.

    Attributes:
        num_agreed: scored steps for which it would have chosen what was served.
        num_failed: steps that it could not score.
        num_dropped: steps that were not offered to it in time, or whose scores could not be logged.
    """

    num_scored: int = 0
    num_agreed: int = 0
    num_failed: int = 0
    num_dropped: int = 0


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
    num_errors: int = 0

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
        serving: the champion; None while there is none. While the kill switch put the uniform fallback in its place,
            it still tells the spec.
        kill: the kill switch's deployment, while it is in force.
        shadow_scores: kept by whoever scores.
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
        self._roles: dict[str, Role] = {}
        self._challenger: tuple[LoadedVersion, float] | None = None
        self._shadow: LoadedVersion | None = None
        self._refused: dict[str, _Refusal] = {}
        self.kill: Deployment | None = None
        self.shadow_scores = ShadowScores()
        self._companions = Companions(self._bring_up_companion, self._refuse, self._settle_roles)
        self._look_lock = asyncio.Lock()
        self._view = RegistryView()
        self._observed: list[Deployment] = []
        self._last_spec: ModelSpec | None = None
        self._has_read_last = False
        self._is_verified = True
        self._registry_problem = "the registry was not read yet"
        self._registry_time = 0.0
        self._obtain_look_time = 0.0

    # For the hot path.

    @property
    def is_uniform(self) -> bool:
        """Whether the kill switch put the uniform fallback in the champion's place."""
        return self.kill is not None and not self.kill.to_version

    @property
    def challenger(self) -> tuple[LoadedVersion, float] | None:
        """The challenger and its share of sessions, or None."""
        return self._challenger

    @property
    def shadow(self) -> LoadedVersion | None:
        """What scores beside what decides, or None."""
        return self._shadow

    def must_leave(self, version: str) -> bool:
        """Tell whether the kill switch takes an episode away from a version (or from the fallback, "")."""
        return self.kill is not None and version != self.kill.to_version

    def role_of(self, version: str) -> Role:
        """Return a version's role; unspecified if it only drains, or is none."""
        return self._roles.get(version, DeploymentRole.DEPLOYMENT_ROLE_UNSPECIFIED)

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

    def count_errors(self, version: str, number: int) -> None:
        """Note that a version failed to decide some steps."""
        if held := self._held.get(version):
            held.num_errors += number

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
            entry = ledger[place]
            if entry.to_version == version and role_of(entry) != SHADOW:
                return entry, self._deadline_of(entry, ledger[place + 1 :])
        return None, 0.0

    def _deadline_of(self, entry: Deployment, later: Sequence[Deployment]) -> float:
        """Return when the episodes of a deployment must have moved on, by the entries after it (Unix seconds)."""
        ends = [other.time.ToNanoseconds() / 1e9 for other in later if role_of(other) == role_of(entry)]
        kills = [
            other.time.ToNanoseconds() / 1e9
            for other in later
            if other.is_immediate and other.to_version != entry.to_version
        ]
        left = ends[0] if ends else self._options.now()
        return min([left + self._options.drain_deadline_seconds, *kills])

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
        if is_forced:
            await self._look_for_kill()
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
                    break
        if is_forced:
            await self._companions.settle()

    async def _look_for_kill(self) -> None:
        """Heed the kill switch at once, whatever version an earlier look is still busy with."""
        with contextlib.suppress(RegistryUnavailableError):
            view = await self._options.repository.look(self.model)
            if view.identity == self._view.identity:
                self._view = view
                self._heed_kill()

    async def _apply(self, view: RegistryView) -> bool:
        """Bring up what the registry names; False if the alias moved on meanwhile and another look is due."""
        if self._view.identity and view.identity != self._view.identity:
            self._is_verified = False
            self._observed.clear()
        self._view = view
        await self._record_observed(self._options.now() - observe_seconds)
        self._heed_kill()
        version = view.alias_version
        named = (version, view.challenger_version, view.shadow_version)
        self._refused = {name: refusal for name, refusal in self._refused.items() if name in named}
        self._note_registry(self._alias_problem(), is_up=True)
        if self.is_uniform:
            await self._learn_spec()
        is_settled = not version or version in self._refused or await self._bring_up_and_deploy(version)
        self._heed_kill()
        self._companions.follow(self._wanted_companions())
        return is_settled

    async def _bring_up_and_deploy(self, version: str) -> bool:
        """Put the alias's version into service; False if the alias moved on meanwhile."""
        try:
            fresh = await unless(self._until_superseded(version), self._bring_up(version))
        except VersionRefusedError as error:
            self._refuse(version, error)
            return True
        if fresh is None:
            logger.info("version %s of %s is not waited for: the alias moved on", version, self.model)
            return False
        return await self._deploy(version, fresh)

    async def _until_superseded(self, version: str) -> None:
        """Return once the alias names another version: one that takes long must not hold up the next."""
        while True:
            await asyncio.sleep(superseded_look_period_seconds)
            with contextlib.suppress(RegistryUnavailableError):
                if (await self._options.repository.look(self.model)).alias_version != version:
                    return

    def _wanted_companions(self) -> dict[Role, Wanted]:
        """Return what the registry wants beside the champion: nothing without one, and while the kill switch stands."""
        if self.serving is None or self.kill is not None:
            return {}
        wanted = {}
        for role, version in ((CHALLENGER, self._view.challenger_version), (SHADOW, self._view.shadow_version)):
            last = last_of(self._view.ledger, role)
            share = standing_share(self._view.ledger, version) if role == CHALLENGER else 0.0
            is_wanted = version and version != self.serving.version and version not in self._refused
            if is_wanted and (share or role == SHADOW):
                number = last.number if last is not None and last.to_version == version else 0
                wanted[role] = Wanted(version, number, share)
        return wanted

    def _heed_kill(self) -> None:
        """Put the kill switch in force, or lift it.

        One that names a version waits until that one serves, and is lifted when what was promoted since does.
        """
        kill = standing_kill(self._view.ledger)
        if kill is not None and kill.to_version != self._view.alias_version:
            kill = None  # the alias was moved since
        if kill is not None and kill.to_version and (self.serving is None or self.serving.version != kill.to_version):
            kill = None
        is_lifted = self.serving is not None and self.serving.version == self._view.alias_version
        if (kill.number if kill else 0) == (self.kill.number if self.kill else 0) or (kill is None and not is_lifted):
            return
        self.kill = kill
        if kill is not None:
            baseline = f"version {kill.to_version}" if kill.to_version else "the uniform fallback"
            logger.warning("the kill switch of %s: %s, by %s: %s", self.model, baseline, kill.actor, kill.reason)
            self._companions.follow({})
        else:
            logger.warning("the kill switch of %s is lifted", self.model)
        self._options.metrics.set_killed(self.model, is_killed=kill is not None)
        self._settle_roles()

    async def _learn_spec(self) -> None:
        """Load what the kill switch took out of service, if nothing is known of the spec: the fallback acts by it."""
        if self.serving is not None or self.kill is None or not self.kill.from_version:
            return
        try:
            fresh = await self._loader.load(self.kill.from_version)
        except (VersionRefusedError, RegistryUnavailableError) as error:
            logger.warning("the spec of %s is not known: %s", self.model, error)
            return
        self.serving = LoadedVersion(self.kill.from_version, 0, fresh.hypermodel)
        self._options.notify()

    def _settle_roles(self) -> None:
        """Give every loaded version its role, and drain those that have lost theirs."""
        now = self._options.now()
        self._roles = {} if self.serving is None or self.is_uniform else {self.serving.version: CHAMPION}
        challenger, found = self._take_companion(CHALLENGER), self._take_companion(SHADOW)
        shadow = found[0] if found else None
        if (shadow.version if shadow else "") != (self._shadow.version if self._shadow else ""):
            self.shadow_scores = ShadowScores()
        self._shadow = shadow
        self._challenger = (challenger[0], challenger[1].share) if challenger else None
        drain_seconds = 0.0 if self.kill is not None else self._options.drain_deadline_seconds
        for version, held in self._held.items():
            if version in self._roles:
                held.since = now if held.deadline is not None else held.since
                held.deadline = None
            elif held.deadline is None:
                held.since, held.deadline = now, now + drain_seconds
            elif self.kill is not None:
                held.deadline = min(held.deadline, now)
        self._options.metrics.set_share(self.model, self._challenger[1] if self._challenger else 0.0)
        self._options.notify()

    def _take_companion(self, role: Role) -> tuple[LoadedVersion, Wanted] | None:
        companion = self._companions.get(role)
        if companion is None:
            return None
        wanted, fresh = companion.wanted, companion.fresh
        loaded = LoadedVersion(wanted.version, wanted.deployment, fresh.hypermodel)
        held = self._held.setdefault(wanted.version, _Held(loaded, fresh.origin, self._options.now()))
        self._roles.setdefault(wanted.version, role)
        if self._roles[wanted.version] == role:
            held.loaded = loaded
        return loaded, wanted

    async def _bring_up_companion(self, version: str) -> Fresh:
        """Return a version loaded, warm and of the champion's spec."""
        held = self._held.get(version)
        if held is not None:
            return Fresh(held.loaded.hypermodel, held.origin, is_verified=True)
        fresh = await self._loader.load(version)
        self._check_spec(fresh)
        return fresh

    def _check_spec(self, fresh: Fresh) -> None:
        """Refuse a version of another spec than what serves; if nothing does, than what served last here."""
        manifest = self.serving.hypermodel.manifest if self.serving is not None else None
        spec = manifest.spec if manifest is not None else self._last_spec
        differences = spec_differences(spec, fresh.hypermodel.manifest.spec) if spec is not None else []
        if differences:
            raise VersionRefusedError("WRONG_SPEC", "; ".join(differences))

    def _alias_problem(self) -> str:
        share_problem = self._share_problem()
        if self._view.alias_version or self.serving is None or standing_kill(self._view.ledger) is not None:
            return share_problem
        alias = self._options.repository.alias
        return f"the alias {alias!r} is gone from the registry; version {self.serving.version} goes on serving"

    def _share_problem(self) -> str:
        version = self._view.challenger_version
        if not version or standing_share(self._view.ledger, version) or self.serving is None:
            return ""
        return f"the alias 'challenger' stands at version {version} without a share: hyperact canary {version} --share"

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
        await self._read_last_spec()
        fresh = await self._loader.load(version)
        self._check_spec(fresh)
        return fresh

    async def _read_last_spec(self) -> None:
        """At a start, find out of what spec the version was that served last here, from this registry."""
        if self.serving is not None or self._has_read_last:
            return
        self._has_read_last = True
        last = await self._in_executor(self._options.repository.cache.read_last_served, self.model)
        if last is not None and last.spec is not None and last.identity == self._view.identity:
            self._last_spec = last.spec

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
        return all(known.number != entry.number for known in self._ledger())

    async def _look_again(self) -> None:
        """Read the ledger once more: whoever moved the alias may have written it while the version was loaded."""
        with contextlib.suppress(RegistryUnavailableError):
            self._view = await self._options.repository.look(self.model)

    async def close(self) -> None:
        """Write into the ledger what is still missing there: afterwards nobody here knows of it."""
        await self._companions.close()
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
        held = self._held.setdefault(loaded.version, _Held(loaded, origin, self._options.now()))
        if self.serving is None or self.serving.version != loaded.version:
            held.since = self._options.now()
        held.loaded, held.origin = loaded, origin
        self.serving = loaded
        self._heed_kill()
        self._companions.follow(self._wanted_companions())
        self._settle_roles()
        logger.info("version %s of %s serves, deployment %d", loaded.version, self.model, loaded.deployment)
        self._options.metrics.set_serving(self.model, loaded.version, loaded.deployment)
        served = LastServed(loaded.version, loaded.deployment, self._view.identity, loaded.hypermodel.manifest.spec)
        await self._in_executor(self._remember, served, set(self._held))

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
        if self.kill is not None:
            status.kill.CopyFrom(self.kill)
        if self.serving is not None:
            status.spec.CopyFrom(self.serving.hypermodel.manifest.spec)
            status.deployment.CopyFrom(self.kill or self._deployment_of(self.serving))
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
        role = self.role_of(version)
        is_shadow = role == SHADOW
        state = VersionState.VERSION_STATE_SHADOWING if is_shadow else VersionState.VERSION_STATE_SERVING
        scores = self.shadow_scores if is_shadow else ShadowScores()
        return VersionStatus(
            version=version,
            state=VersionState.VERSION_STATE_DRAINING if held.deadline is not None else state,
            deployment=held.loaded.deployment,
            num_pinned_episodes=held.num_pins,
            num_steps=scores.num_scored if is_shadow else held.num_steps,
            num_errors=scores.num_failed if is_shadow else held.num_errors,
            num_agreed=scores.num_agreed,
            num_dropped=scores.num_dropped,
            role=role,
            share=self._challenger[1] if self._challenger and role == CHALLENGER else 0.0,
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
    VersionState.VERSION_STATE_SHADOWING,
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
