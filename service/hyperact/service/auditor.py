"""Reads logged steps, loads the versions that decided them, and has each graded.

Rules:

1. What a step says of its version counts, not the number alone: with a digest in the record, a version of that number
   with another digest is another version, and if the registry has the recorded one under another number, the record's
   number is wrong.
2. A version is loaded once. One that is gone or refused makes its steps not reproducible; a registry that is away ends
   the audit, unless the version is in the cache.
3. Steps are graded in pages as they are read, grouped by version, so that memory does not grow with the log.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from hyperact.service.audit import (
    Case,
    FallbackJudge,
    Finding,
    VersionJudge,
    default_tolerance,
    find_obstacle,
    mismatch,
    not_reproducible,
)
from hyperact.service.audit_settings import Bound
from hyperact.service.errors import VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.repository import Repository
from hyperact.service.step_sources import StepSource
from hyperact.service.version_loader import VersionLoader
from hyperact.v1 import manifests
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.steps import to_key

max_runs_remembered = 1 << 20


@dataclass(frozen=True, slots=True)
class Graded:
    """One logged step and what was found."""

    entry: LogEntry
    finding: Finding


class _Place(NamedTuple):
    """Where a run stood when its last step was read."""

    episode: int
    number: int
    segment: int


class Auditor:
    """Grades the steps of one model.

    Args:
        key: the index key.
        tolerance: how far a coefficient may be off by rounding, as a share of the step's largest one.
    """

    def __init__(
        self,
        model: str,
        source: StepSource,
        repository: Repository,
        key: bytes,
        *,
        tolerance: float = default_tolerance,
        max_version_bytes: int = 1 << 30,
    ) -> None:
        self._model = model
        self._source = source
        self._repository = repository
        self._key = key
        self._tolerance = tolerance
        self._executor = ThreadPoolExecutor(1, "version-loader")
        self._loader = VersionLoader(
            model,
            repository,
            partial(Hypermodel.load, max_onnx_bytes=max_version_bytes),
            warm_up_batch_sizes=(1,),
            executor=self._executor,
            now=time.time,
            notify=lambda: None,
        )
        self._fallback = FallbackJudge(key)
        self._judges: dict[str, VersionJudge | Finding] = {}
        self._versions_by_digest: dict[bytes, str] = {}
        self._is_registry_read = False
        self._last_places: OrderedDict[tuple[str, str], _Place] = OrderedDict()

    def close(self) -> None:
        """Let the loader's thread go."""
        self._executor.shutdown(wait=False)

    async def audit(self, begin: Bound, end: Bound) -> AsyncIterator[list[Graded]]:
        """Yield the findings on the steps between two bounds, page by page, an empty one for a page of none.

        Raises UnavailableError if the log, and RegistryUnavailableError if the registry cannot be read.
        """
        positions: dict[str, int] = {}
        if begin.offset is not None:
            found = await self._source.get_range(self._model)
            positions = {
                extent.partition: min(max(begin.offset, extent.begin_offset), extent.end_offset)
                for extent in found.ranges
            }
        async for page in self._source.pages(self._model, positions):
            cases: list[tuple[LogEntry, Case]] = []
            for entry in page:
                if entry.HasField("step"):
                    before = self._segment_before(entry.step)
                    if _is_within(entry, begin, end):
                        cases.append((entry, await self._case(entry.step, before)))
            yield await self._grade(cases)

    async def examine(self, entry: LogEntry) -> Graded:
        """Return the finding on one step. Raises as `audit`."""
        return (await self._grade([(entry, await self._case(entry.step, None))]))[0]

    async def find_judge(self, version: str) -> VersionJudge | Finding:
        """Return what grades a version's steps, or why nothing can. Raises RegistryUnavailableError."""
        if version not in self._judges:
            try:
                hypermodel = (await self._loader.load(version)).hypermodel
            except VersionRefusedError as error:
                self._judges[version] = not_reproducible(f"version {version}: {error.reason}: {error}")
            else:
                self._judges[version] = VersionJudge(self._key, hypermodel, self._tolerance)
                self._versions_by_digest[hypermodel.digest] = version
        return self._judges[version]

    # Below: from a step to its finding.

    def _segment_before(self, step: Step) -> int | None:
        """Return the segment of the step before, if that was the last one read of its run; and remember this one."""
        step_id = step.step_id
        run = step_id.session, step_id.run
        last = self._last_places.pop(run, None)
        self._last_places[run] = _Place(step_id.episode, step_id.number, step.segment)
        if len(self._last_places) > max_runs_remembered:
            self._last_places.popitem(last=False)
        is_next = last is not None and last[:2] == (step_id.episode, step_id.number - 1)
        return last.segment if last is not None and is_next else None

    async def _case(self, step: Step, segment_before: int | None) -> Case:
        """Return a step with the segment of the one before it, looked up only if its own hangs on that."""
        if segment_before is not None:
            return Case(step, segment_before)
        judge = await self.find_judge(step.version) if step.version and step.step_id.number else None
        key = to_key(step.step_id)
        if isinstance(judge, VersionJudge) and judge.rhythm.segment_of(key, None) != step.segment:
            for entry in await self._source.find(key._replace(number=key.number - 1)):
                return Case(step, entry.step.segment)
        return Case(step)

    async def _grade(self, cases: list[tuple[LogEntry, Case]]) -> list[Graded]:
        """Return the findings in the order of the cases; the model of each version is called once."""
        findings: dict[int, Finding] = {}
        groups: dict[str, list[int]] = {}
        for place, (_, case) in enumerate(cases):
            obstacle = find_obstacle(case.step, self._key) or await self._check_version(case.step)
            if obstacle is not None:
                findings[place] = obstacle
            else:
                groups.setdefault(case.step.version, []).append(place)
        for version, places in groups.items():
            judge = self._judges[version] if version else self._fallback
            assert not isinstance(judge, Finding), "the check of the version has found it loaded"
            findings |= zip(places, judge.grade([cases[place][1] for place in places]), strict=True)
        return [Graded(entry, findings[place]) for place, (entry, _) in enumerate(cases)]

    async def _check_version(self, step: Step) -> Finding | None:
        """Return why the version that a step names cannot be the one that decided it, or None."""
        if not step.version:
            return None
        judge = await self.find_judge(step.version)
        recorded = step.version_digest
        if isinstance(judge, VersionJudge) and recorded in (b"", judge.hypermodel.digest):
            return None
        other = await self._find_version(recorded) if recorded else ""
        if other:
            return mismatch(f"version: logged {step.version}, but digest {recorded.hex()} is that of version {other}")
        if isinstance(judge, Finding):
            return judge
        found = judge.hypermodel.digest.hex()
        return not_reproducible(f"version {step.version} is another one now: digest {found}, logged {recorded.hex()}")

    async def _find_version(self, digest: bytes) -> str:
        """Return the version that has a digest; empty if the registry has none."""
        if digest not in self._versions_by_digest and not self._is_registry_read:
            for version in await self._repository.list_versions(self._model):
                await self._read_digest(version)
            self._is_registry_read = True
        return self._versions_by_digest.get(digest, "")

    async def _read_digest(self, version: str) -> None:
        try:
            cached = await self._repository.fetch(self._model, version)
            content = (cached.directory / manifests.file_name).read_bytes()
        except (VersionRefusedError, OSError):
            return
        self._versions_by_digest.setdefault(manifests.version_digest(content), version)


def _is_within(entry: LogEntry, begin: Bound, end: Bound) -> bool:
    """Tell whether an entry lies between two bounds, the first included."""
    if begin.offset is not None and entry.offset < begin.offset:
        return False
    if end.offset is not None and entry.offset >= end.offset:
        return False
    nanoseconds = entry.step.time.ToNanoseconds()
    if begin.nanoseconds is not None and nanoseconds < begin.nanoseconds:
        return False
    return end.nanoseconds is None or nanoseconds < end.nanoseconds
