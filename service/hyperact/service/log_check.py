"""Proves a step log whole, or names what is wrong with it. Reads, never writes; the service may run meanwhile.

What is checked:

1. every database by SQLite's own integrity check, its mark and its schema;
2. every entry: its bytes by their checksum, that they decode, and that what stands beside them (key, model, time, kind)
   is what they say;
3. the steps of every episode, over all partitions: no number is missing, none is there twice, and within a partition
   they stand in order; likewise the episodes of every run;
4. the counters of every partition against what is in it.

A step that two partitions hold alike is no fault: a client that heard no answer asked another worker, and readers
collapse the two. Nor is a gap that retention may have made. Both are counted. Sessions that moved between replicas have
their steps in several logs: those are checked together.

It keeps a few hundred bytes for every episode and holds no snapshot of a database for longer than one batch.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hyperact.service.errors import UnavailableError
from hyperact.service.log_damage import DamageError, find_set_aside
from hyperact.service.log_records import Kind, to_record
from hyperact.service.partition_reader import Counts, PartitionReader, Row
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.steps import StepKey, step_digest, to_key

batch_rows = 4096
max_page_faults = 100
Episode = tuple[str, str, str, int]  # model, session, run, episode
Run = tuple[str, str, str]


class Fault(NamedTuple):
    """One thing that is wrong: where, and what."""

    place: str
    what: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.place}: {self.what}"


@dataclass(slots=True)
class Tally:
    """What was looked at.

    Attributes:
        num_repeated: steps that two partitions hold alike.
        num_removed: steps and reports that retention took.
        num_dropped: records that writers at level `memory` lost.
    """

    num_partitions: int = 0
    num_steps: int = 0
    num_reports: int = 0
    num_episodes: int = 0
    num_repeated: int = 0
    num_removed: int = 0
    num_dropped: int = 0
    num_faults: int = 0


class Numbers:
    """A set of numbers that mostly come in order, as intervals."""

    __slots__ = ("_bounds",)

    def __init__(self) -> None:
        self._bounds: list[int] = []  # first, last, first, last, ...

    def add(self, number: int) -> bool:
        """Add a number; tell whether it was new."""
        bounds = self._bounds
        if bounds and number == bounds[-1] + 1:
            bounds[-1] = number
            return True
        if not bounds or number > bounds[-1]:
            bounds += (number, number)
            return True
        return self._insert(number)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the first and last of the numbers that are missing from 0 on, stretch by stretch."""
        begin = 0
        for first, last in zip(self._bounds[::2], self._bounds[1::2], strict=True):
            if first > begin:
                yield begin, first - 1
            begin = last + 1

    def _insert(self, number: int) -> bool:
        pairs = list(zip(self._bounds[::2], self._bounds[1::2], strict=True))
        if any(first <= number <= last for first, last in pairs):
            return False
        merged: list[int] = []
        for first, last in sorted([*pairs, (number, number)]):
            if merged and first == merged[-1] + 1:
                merged[-1] = last
            else:
                merged += (first, last)
        self._bounds = merged
        return True


@dataclass(slots=True)
class LogCheck:
    """The check of the logs under some directories, as one log. `tally` is complete when `run` has ended."""

    directories: Sequence[Path]
    tally: Tally = field(default_factory=Tally)
    _readers: list[PartitionReader] = field(default_factory=list)
    _episodes: dict[Episode, Numbers] = field(default_factory=dict)
    _runs: dict[Run, Numbers] = field(default_factory=dict)

    def run(self, advance: Callable[[int], None] = lambda _: None) -> Iterator[Fault]:
        """Yield what is wrong; `advance` hears how many entries were looked at since the last time."""
        for fault in self._run(advance):
            self.tally.num_faults += 1
            yield fault

    def _run(self, advance: Callable[[int], None]) -> Iterator[Fault]:
        with contextlib.ExitStack() as stack:
            for directory in self.directories:
                for aside in find_set_aside(directory):
                    yield Fault(aside.name, "this database was found damaged and set aside: its steps are in no log")
                yield from self._open(directory, stack)
            for reader in self._readers:
                yield from _PartitionCheck(reader, self).run(advance)
            yield from self._find_gaps()

    def _open(self, directory: Path, stack: contextlib.ExitStack) -> Iterator[Fault]:
        for path in sorted(directory.glob("steps-*.sqlite")):
            try:
                reader = PartitionReader.open(path)
            except UnavailableError as error:
                yield Fault(path.name, str(error))
                continue
            if reader is not None:
                stack.callback(reader.close)
                self._readers.append(reader)
                self.tally.num_partitions += 1
                self.tally.num_dropped += reader.num_dropped()

    def note(self, key: StepKey) -> bool:
        """Take note of a step; tell whether it was not there before."""
        self._runs.setdefault(key[:3], Numbers()).add(key.episode)
        numbers = self._episodes.get(key[:4])
        if numbers is None:
            numbers = self._episodes[key[:4]] = Numbers()
            self.tally.num_episodes += 1
        return numbers.add(key.number)

    def find_elsewhere(self, record_key: bytes, reader: PartitionReader) -> tuple[str, Step] | None:
        """Return the place and content of a step in another partition than that of `reader`."""
        for other in self._readers:
            row = other.find(record_key) if other is not reader else None
            entry = LogEntry()
            with contextlib.suppress(DamageError):
                if row is not None:
                    row.parse_into(entry)
                    return place_of(other, row.offset), entry.step
        return None

    def _find_gaps(self) -> Iterator[Fault]:
        is_partial = self.tally.num_removed > 0
        for (model, session, run), episodes in self._runs.items():
            for first, last in episodes.gaps():
                if not is_partial:
                    what = f"episode {first} is missing" if first == last else f"episodes {first} to {last} are missing"
                    yield self._gap(StepKey(model, session, run, last + 1, 0), what)
        for episode, numbers in self._episodes.items():
            for first, last in numbers.gaps():
                if not (is_partial and (first == 0 or len(self._readers) > 1)):
                    what = f"step {first} is missing" if first == last else f"steps {first} to {last} are missing"
                    yield self._gap(StepKey(*episode, last + 1), what)

    def _gap(self, after: StepKey, what: str) -> Fault:
        """Return the fault of something missing, placed where the first step after it stands."""
        digest = step_digest(after)
        for reader in self._readers:
            row = reader.find(digest)
            if row is not None:
                return Fault(f"{place_of(reader, row.offset)} {after}", f"{what} before it")
        return Fault(str(after), f"{what} before it")


def place_of(reader: PartitionReader, offset: int) -> str:
    """Return how a place in the log is named to people."""
    return f"{reader.path.name} partition {reader.id} offset {offset}"


class _PartitionCheck:
    """The check of one partition; tells the whole what it saw."""

    def __init__(self, reader: PartitionReader, whole: LogCheck) -> None:
        self._reader = reader
        self._whole = whole
        self._last_numbers: dict[Episode, int] = {}
        self._counts: dict[str, Counts] = {}

    def run(self, advance: Callable[[int], None]) -> Iterator[Fault]:
        name = f"{self._reader.path.name} partition {self._reader.id}"
        try:
            for found in self._reader.check_pages(max_page_faults):
                yield Fault(name, found)
            with self._reader.snapshot():
                extent, self._models = self._reader.extent(), self._reader.models()
                written = {model: self._reader.written(model) for model in self._models.values()}
                removed = {model: self._reader.removed(model) for model in self._models.values()}
            yield from self._check_rows(extent.begin, extent.end, advance)
            self._whole.tally.num_removed += sum(count.num_steps + count.num_reports for count in removed.values())
            if removed == {model: self._reader.removed(model) for model in removed}:
                yield from self._check_counts(name, written, removed)
        except (UnavailableError, sqlite3.Error) as error:
            yield Fault(name, f"the rest of it cannot be read: {error}")

    def _check_rows(self, begin: int, end: int, advance: Callable[[int], None]) -> Iterator[Fault]:
        """Check the entries between two offsets (and those before, which there should be none of)."""
        position, is_first = begin, True
        while position < end:
            rows: list[Row] = []
            for row in self._reader.rows(0 if is_first else position):
                if row.offset >= end or len(rows) == batch_rows:
                    break
                rows.append(row)
            for row in rows:
                yield from self._check_row(row, begin)
            advance(len(rows))
            if not rows:
                return
            position, is_first = rows[-1].offset + 1, False

    def _check_row(self, row: Row, begin: int) -> Iterator[Fault]:
        place = place_of(self._reader, row.offset)
        entry = LogEntry()
        try:
            row.parse_into(entry)
        except DamageError as error:
            yield Fault(place, str(error))
            return
        message = entry.step if row.kind == Kind.STEP else entry.report
        key = to_key(message.step_id)
        place = f"{place} {key}"
        if row.offset < begin:
            yield Fault(place, f"it stands before the partition's first offset, {begin}")
        record = to_record(message)
        if record.key != row.record_key:
            yield Fault(place, f"its key is {row.record_key.hex()}, its content's digest {record.key.hex()}")
        if (record.model, record.time_ms, record.is_evaluation) != (
            self._models.get(row.model, ""),
            row.time_ms,
            bool(row.is_evaluation),
        ):
            yield Fault(place, "what stands beside it (model, time or evaluation) is not what it says")
        self._count(key.model, row)
        if isinstance(message, Step):
            yield from self._check_step(place, key, row, message)

    def _count(self, model: str, row: Row) -> None:
        is_step = row.kind == Kind.STEP
        one = Counts(int(is_step), int(is_step and not row.is_evaluation), int(not is_step))
        self._counts[model] = self._counts.get(model, Counts(0, 0, 0)).plus(one)
        self._whole.tally.num_steps += one.num_steps
        self._whole.tally.num_reports += one.num_reports

    def _check_step(self, place: str, key: StepKey, row: Row, step: Step) -> Iterator[Fault]:
        episode = key[:4]
        last = self._last_numbers.get(episode, -1)
        if key.number < last:
            yield Fault(place, f"it stands after step {last} of its episode")
        if key.number == last:
            yield Fault(place, "it is there twice")
        self._last_numbers[episode] = max(key.number, last)
        if not self._whole.note(key) and key.number != last:
            yield from self._check_repeated(place, row, step)

    def _check_repeated(self, place: str, row: Row, step: Step) -> Iterator[Fault]:
        found = self._whole.find_elsewhere(row.record_key, self._reader)
        if found is None:
            yield Fault(place, "it is there twice")
        elif (found[1].action, found[1].observation) != (step.action, step.observation):
            yield Fault(place, f"it was decided otherwise at {found[0]}")
        else:
            self._whole.tally.num_repeated += 1

    def _check_counts(self, name: str, written: dict[str, Counts], removed: dict[str, Counts]) -> Iterator[Fault]:
        nothing = Counts(0, 0, 0)
        for model in sorted(written.keys() | self._counts.keys()):
            there = self._counts.get(model, nothing).plus(removed.get(model, nothing))
            if there != written.get(model, nothing):
                told = written.get(model, nothing)
                yield Fault(
                    name,
                    f"model {model!r}: {told.num_steps} steps ({told.num_training_steps} to learn from) and "
                    f"{told.num_reports} reports were counted, {there.num_steps} ({there.num_training_steps}) and "
                    f"{there.num_reports} are there or were removed",
                )
