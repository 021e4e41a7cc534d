"""Reads the step log: every partition under the directory, also those that other workers write, read-only.

Rules:

1. Entries of one partition come in order. Partitions are merged by the time of their entries, message by message, so
   that a reader who settles late rewards by the log's time does not run ahead in one partition.
2. A message holds one pass over what is committed: the next positions stand after the last entry sent, or, where the
   pass reached a partition's end, at that end (and so beyond other models' entries).
3. Nothing that touches a disk runs on the event loop, and the number of streams is bounded.
"""

import asyncio
import contextlib
import functools
import heapq
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from hyperact.service.errors import ExhaustedError, OutOfRangeError, UnavailableError, UnknownNameError
from hyperact.service.log_damage import DamageError, find_set_aside, partition_of
from hyperact.service.partition_reader import Extent, PartitionReader, Row
from hyperact.service.registered_readers import RegisteredReaders
from hyperact.service.step_log import StepLog
from hyperact.v1.log_pb2 import GetRangeResponse, LogEntry, LogPosition, ReadResponse
from hyperact.v1.model_pb2 import LogRange
from hyperact.v1.steps import StepKey, step_digest

max_message_bytes = 1 << 20
"""Well under gRPC's default limit of 4 MiB, and little enough that sending it does not hold up decisions."""
max_message_entries = 1024
min_pass_seconds = 0.02
_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


class _Cursor:
    """One stream's place in the log.

    Its methods block, and wait for one another: a cancelled stream is closed while its last read may still run.
    """

    def __init__(self, directory: Path, model: str, positions: Mapping[str, int]) -> None:
        self._directory = directory
        self._model = model
        self._positions = dict(positions)
        self._readers: dict[Path, PartitionReader] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()

    def check_positions(self) -> None:
        """Raise UnknownNameError or OutOfRangeError for the first position that is not in the log."""
        with self._lock:
            self._check_positions()

    def read(self, max_entries: int) -> ReadResponse:
        """Return what comes next, at most `max_entries`; without entries if there is nothing."""
        with self._lock:
            return self._read(max_entries)

    def _check_positions(self) -> None:
        self._find_partitions()
        readers = {reader.id: reader for reader in self._readers.values()}
        for partition, offset in self._positions.items():
            if partition not in readers:
                raise UnknownNameError(f"no partition {partition!r} here", field="positions.partition")
            extent = readers[partition].extent()
            if not extent.begin <= offset <= extent.end:
                raise OutOfRangeError(
                    f"partition {partition} begins at offset {extent.begin} and ends before {extent.end}, got {offset}",
                    field="positions.offset",
                )

    def _find_partitions(self) -> None:
        for path, known in list(self._readers.items()):
            if not known.is_current():
                self._readers.pop(path).close()
        for path in sorted(self._directory.glob("steps-*.sqlite")):
            if path not in self._readers:
                reader = PartitionReader.open(path)
                if reader is not None:
                    self._readers[path] = reader

    def _read(self, max_entries: int) -> ReadResponse:
        self._find_partitions()
        response = ReadResponse()
        with contextlib.ExitStack() as snapshots:
            streams, ends = [], {}
            for reader in self._readers.values():
                snapshots.enter_context(reader.snapshot())
                extent = reader.extent()
                begin = self._positions.setdefault(reader.id, extent.begin)
                _check_kept(reader.id, begin, extent)
                ends[reader.id] = max(extent.end, begin)
                streams.append(_tag(reader.id, reader.rows(begin, self._model)))
            self._fill(response, streams, ends, min(max_entries, max_message_entries))
        for partition, offset in self._positions.items():
            response.next_positions.add(partition=partition, offset=offset)
        return response

    def _fill(
        self, response: ReadResponse, streams: list[Iterator[tuple[str, Row]]], ends: dict[str, int], max_entries: int
    ) -> None:
        """Take entries in order of time until the message is full; move the positions."""
        num_bytes = 0
        for partition, row in heapq.merge(*streams, key=_time_of):
            if len(response.entries) >= max_entries or num_bytes >= max_message_bytes:
                return
            entry = response.entries.add(partition=partition, offset=row.offset)
            try:
                num_bytes += row.parse_into(entry)
            except DamageError as error:
                raise UnavailableError(
                    f"the step log is damaged: partition {partition}, offset {row.offset}: {error}; "
                    "`hyperact log verify` tells all that is wrong with it",
                    reason="LOG_DAMAGED",
                ) from error
            self._positions[partition] = row.offset + 1
        self._positions |= ends


def _check_kept(partition: str, begin: int, extent: Extent) -> None:
    """Raise OutOfRangeError if retention has taken what comes next."""
    if begin < extent.begin:
        raise OutOfRangeError(
            f"partition {partition} begins at offset {extent.begin} by now, {begin} was to be read next",
            field="positions.offset",
        )


def _time_of(tagged: tuple[str, Row]) -> int:
    return tagged[1].time_ms


def _tag(partition: str, rows: Iterator[Row]) -> Iterator[tuple[str, Row]]:
    for row in rows:
        yield partition, row


def read_entries(directory: Path, model: str = "") -> Iterator[Sequence[LogEntry]]:
    """Yield what a log holds of one model or of all, message by message, in the order of `LogReader.read`; blocks.

    Raises UnavailableError if a database cannot be read.
    """
    with contextlib.closing(_Cursor(directory, model, {})) as cursor:
        while entries := cursor.read(max_message_entries).entries:
            yield entries


class LogReader:
    """Reads all partitions under a directory.

    Args:
        directory: where the partitions are.
        local: this worker's log; its commits wake followers at once.
        poll_seconds: how often followers look for what other workers wrote.
        max_streams: how many `read` streams may be open.
    """

    def __init__(
        self, directory: Path, local: StepLog | None = None, *, poll_seconds: float = 0.2, max_streams: int = 32
    ) -> None:
        self._directory = directory
        self._registered = RegisteredReaders(directory)
        self._local = local
        self._poll_seconds = poll_seconds
        self._max_streams = max_streams
        self._num_streams = 0
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="log-reader")

    def close(self) -> None:
        """Let the threads go, once they have closed what ended streams left open."""
        self._executor.shutdown(wait=False)

    async def read(
        self, model: str, positions: Mapping[str, int], *, is_following: bool, max_entries: int = 0
    ) -> AsyncGenerator[ReadResponse, None]:
        """Yield entries from the positions (partition id to offset) on; partitions not named from their beginning.

        Ends at the newest entry unless following, and after `max_entries` if that is not 0. At least one message comes,
        for its next positions.

        Raises:
            ExhaustedError: too many streams are open.
            UnknownNameError: no such partition.
            OutOfRangeError: a position before the oldest entry kept or beyond the newest.
            UnavailableError: a database cannot be read.
        """
        if self._num_streams >= self._max_streams:
            raise ExhaustedError(
                f"{self._num_streams} readers are open, as many as are allowed",
                reason="TOO_MANY_READERS",
                retry_delay_seconds=1,
            )
        self._num_streams += 1
        cursor = _Cursor(self._directory, model, positions)
        try:
            await self._call(cursor.check_positions)
            async for response in self._pass(cursor, is_following, max_entries or 1 << 63):
                yield response
        finally:
            self._num_streams -= 1
            self._let_go(cursor)

    def _let_go(self, cursor: _Cursor) -> None:
        try:
            self._executor.submit(cursor.close)
        except RuntimeError:  # the service ends, and its threads went before this stream did
            cursor.close()

    async def _pass(self, cursor: _Cursor, is_following: bool, num_left: int) -> AsyncGenerator[ReadResponse, None]:
        positions_sent: list[LogPosition] = []
        while num_left > 0:
            num_commits = self._local.num_commits if self._local else 0
            response = await self._call(cursor.read, num_left)
            num_left -= len(response.entries)
            positions = list(response.next_positions)
            if response.entries or not positions_sent or (positions != positions_sent and not is_following):
                positions_sent = positions
                yield response
            if not response.entries:
                if not is_following:
                    return
                await self._wait(num_commits)

    async def _wait(self, num_commits: int) -> None:
        """Wait for a commit of this worker or the time to look at the others, never so little that it only reads."""
        await asyncio.sleep(min_pass_seconds)
        if self._local is None:
            await asyncio.sleep(self._poll_seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._local.wait_for_commit(num_commits), self._poll_seconds)

    async def get_range(self, model: str) -> GetRangeResponse:
        """Return where each partition begins and ends, and how much of a model (or all) there is, and who reads.

        Raises UnavailableError if a database cannot be read.
        """
        return await self._call(_read_range, self._directory, model, self._local)

    async def acknowledge(self, name: str, positions: Mapping[str, int]) -> None:
        """Register a reader or note until where it has read; raises as RegisteredReaders.register."""
        await self._call(self._registered.register, name, positions, time.time())

    async def forget(self, name: str) -> None:
        """Keep nothing for a reader any more. Raises UnknownNameError if it is not registered."""
        if not await self._call(self._registered.forget, name):
            raise UnknownNameError(f"no reader {name!r} is registered", field="reader")

    async def find(self, step: StepKey) -> list[LogEntry]:
        """Return the records of a step: none, or one for each partition that has it. Raises UnavailableError."""
        return await self._call(_find, self._directory, step)

    async def _call(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> _Result:
        call = functools.partial(function, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except OSError as error:
            raise UnavailableError(f"the step log cannot be read: {error}", reason="LOG_NOT_READABLE") from error


def _find(directory: Path, step: StepKey) -> list[LogEntry]:
    found = []
    for path in sorted(directory.glob("steps-*.sqlite")):
        reader = PartitionReader.open(path)
        if reader is None:
            continue
        with contextlib.closing(reader):
            row = reader.find(step_digest(step))
        if row is not None:
            entry = LogEntry(partition=reader.id, offset=row.offset)
            row.parse_into(entry)
            found.append(entry)
    return found


def _read_range(directory: Path, model: str, local: StepLog | None) -> GetRangeResponse:
    response = GetRangeResponse(num_dropped=local.num_dropped if local else 0)
    for path in sorted(directory.glob("steps-*.sqlite")):
        reader = PartitionReader.open(path)
        if reader is None:
            continue
        with contextlib.closing(reader), reader.snapshot():
            extent = reader.extent()
            written, removed = reader.written(model), reader.removed(model)
            response.num_dropped += 0 if local and local.partition == reader.id else reader.num_dropped()
        response.ranges.append(LogRange(partition=reader.id, begin_offset=extent.begin, end_offset=extent.end))
        response.num_steps += written.num_steps
        response.num_training_steps += written.num_training_steps
        response.num_reports += written.num_reports
        response.num_removed_steps += removed.num_steps
        response.num_removed_reports += removed.num_reports
    response.set_aside.extend(partition_of(aside) for aside in find_set_aside(directory))
    for registered in RegisteredReaders(directory).list():
        reader_message = response.readers.add(name=registered.name)
        reader_message.time.FromNanoseconds(round(registered.time_seconds * 1e9))
        for partition, offset in registered.positions.items():
            reader_message.positions.add(partition=partition, offset=offset)
    return response
