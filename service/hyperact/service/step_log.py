"""The durable log of one worker: records of many callers, one writer thread, group commit.

Rules:

1. The writer takes all that is queued (up to a bound), commits it in one transaction and wakes all callers at once.
   While it syncs the disk the next group gathers: syncs per second stay what the disk can do, and the group grows.
2. `append` returns when its records are as durable as the level says; it raises, and then none of them is promised.
3. What cannot be written makes the log unwritable at once, with the reason in `problem()`. Callers are then refused
   without waiting, and the writer probes with a write of its own until one succeeds: nobody has to restart anything.
4. A database that shows damage is set aside, and the writer goes on with a new partition (log_damage.py).
5. At level `memory` a caller does not wait, so a record can be lost after it was promised: those are counted.
"""

import asyncio
import errno
import logging
import queue
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from hyperact.service.errors import DecisionError, ExhaustedError, UnavailableError
from hyperact.service.log_damage import find_set_aside, is_damage
from hyperact.service.log_partition import Partition
from hyperact.service.log_records import Kind, Record, to_record
from hyperact.service.retention import Retention, RetentionLimits
from hyperact.v1.decision_pb2 import Report, Step

logger = logging.getLogger(__name__)
max_group_records = 4096
max_group_bytes = 16 << 20
probe_seconds = 0.5
keep_everything = RetentionLimits()


class Durability(StrEnum):
    """When a record is acknowledged."""

    MEMORY = "memory"
    """When it is queued. A kill of the process loses what was not committed yet; the rest that is lost is counted."""
    PROCESS = "process"
    """When it is committed. Survives a kill of the process; a power failure may take back the last seconds."""
    DISK = "disk"
    """When it is synced. Survives a power failure."""


@dataclass(frozen=True, slots=True)
class _Group:
    """What one call handed over; `acknowledged` is None if the caller does not wait."""

    records: list[Record]
    loop: asyncio.AbstractEventLoop
    acknowledged: "asyncio.Future[list[Step | None]] | None"


_Outcome = tuple[_Group, "list[Step | None] | DecisionError"]


class StepLog:
    """The log of one worker. Made by `open`; used from one event loop.

    Attributes:
        partition: the partition's id, 32 hexadecimal digits; empty until its database could be opened.
        num_steps: steps written since the log was opened.
        num_dropped: records (steps and reports) that were acknowledged at level `memory` and then lost, since then.
        num_commits: transactions since then.
        num_queued: records handed over and not settled yet.
    """

    def __init__(
        self,
        directory: Path,
        worker: int,
        durability: Durability,
        *,
        min_free_bytes: int,
        max_queued_records: int,
        retention: RetentionLimits = keep_everything,
    ) -> None:
        self._directory = directory
        self._worker = worker
        self._durability = durability
        self._min_free_bytes = min_free_bytes
        self._max_queued_records = max_queued_records
        self._retention = Retention(directory, retention)
        self._storage: Partition | None = None
        self.partition = ""
        self.num_steps = 0
        self.num_dropped = 0
        self.num_commits = 0
        self.num_queued = 0
        self._problem: DecisionError | None = None
        self._is_closing = False
        self._commit_waiters: set[asyncio.Future[None]] = set()
        self._queue: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._begin()
        self._thread = threading.Thread(target=self._run, name=f"step-log-{worker}", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        directory: Path,
        worker: int,
        durability: Durability,
        *,
        min_free_bytes: int,
        max_queued_records: int,
        retention: RetentionLimits = keep_everything,
    ) -> Self:
        """Open or make the worker's partition under `directory` and start its writer.

        What cannot be opened now is a problem that the writer probes for, like what cannot be written.

        Raises:
            PreconditionError: another process has it, or a later release made it.
        """
        return cls(
            directory,
            worker,
            durability,
            min_free_bytes=min_free_bytes,
            max_queued_records=max_queued_records,
            retention=retention,
        )

    def problem(self) -> str:
        """Return why nothing can be written now; empty if it can."""
        return str(self._problem) if self._problem else ""

    @property
    def num_removed(self) -> int:
        """Entries that retention removed since the log was opened."""
        return self._retention.num_removed

    def find_set_aside(self) -> list[str]:
        """Return the names of the damaged databases in the log's directory, whoever set them aside."""
        return [path.name for path in find_set_aside(self._directory)]

    async def append(self, records: Sequence[Step | Report | Record]) -> list[Step | None]:
        """Log records together: all of them or none.

        Returns, when they are as durable as the level says, for each: None if it was written or is a report that was
        there before, or the Step that was logged earlier under the same name. At level `memory` always None: the
        record that came first stands.

        Raises:
            ExhaustedError: the queue or the disk is full.
            UnavailableError: the log cannot be written, or is closing.
        """
        self._check_writable(len(records))
        loop = asyncio.get_running_loop()
        is_waiting = self._durability is not Durability.MEMORY
        group = _Group(
            [record if isinstance(record, Record) else to_record(record) for record in records],
            loop,
            loop.create_future() if is_waiting else None,
        )
        self.num_queued += len(records)
        self._queue.put(group)
        return [None] * len(records) if group.acknowledged is None else await group.acknowledged

    async def wait_for_commit(self, num_commits: int) -> None:
        """Return when there were other than `num_commits` commits."""
        if self.num_commits == num_commits:
            waiter = asyncio.get_running_loop().create_future()
            self._commit_waiters.add(waiter)
            try:
                await waiter
            finally:
                self._commit_waiters.discard(waiter)

    async def close(self) -> None:
        """Commit what is queued and let the partition go."""
        if not self._is_closing:
            self._is_closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _check_writable(self, num_records: int) -> None:
        if self._is_closing:
            raise UnavailableError("the step log is closing", reason="LOG_CLOSING")
        if self._problem is not None:
            raise _copy(self._problem)
        if self.num_queued + num_records > self._max_queued_records and self.num_queued:
            raise ExhaustedError(
                f"the step log's queue is full: {self.num_queued} records wait for the disk",
                reason="LOG_QUEUE_FULL",
                retry_delay_seconds=0.1,
            )

    def _begin(self) -> None:
        try:
            self._open_partition()
            self._note_problem(self._find_problem())
        except UnavailableError as error:
            self._note_problem(error)

    # Below: the writer's thread, except _settle.

    def _open_partition(self) -> None:
        is_synced = self._durability is Durability.DISK
        self._storage = Partition(self._directory, self._worker, syncs_each_commit=is_synced)
        self.partition = self._storage.id

    def _run(self) -> None:
        is_open = True
        while is_open:
            groups, is_open = self._take()
            if groups:
                outcomes = self._commit(groups) if self._problem is None else self._refuse(groups, self._problem)
                self._hand_back(outcomes)
                self._checkpoint()
            elif is_open and self._problem is not None:
                self._probe()
            self._retain()
        if self._storage is not None:
            self._storage.close()

    def _take(self) -> tuple[list[_Group], bool]:
        """Return what is queued and whether the log stays open. Nothing is queued if it closes or other work is due."""
        try:
            group = self._queue.get(timeout=probe_seconds if self._problem else self._retention.wait_seconds())
        except queue.Empty:
            return [], True
        groups: list[_Group] = []
        num_records = num_bytes = 0
        while group is not None:
            groups.append(group)
            num_records += len(group.records)
            num_bytes += sum(len(record.payload) for record in group.records)
            if num_records >= max_group_records or num_bytes >= max_group_bytes:
                return groups, True
            try:
                group = self._queue.get_nowait()
            except queue.Empty:
                return groups, True
        return groups, False

    def _commit(self, groups: list[_Group]) -> list[_Outcome]:
        records = [record for group in groups for record in group.records]
        try:
            problem = self._find_problem()
            if problem is not None:
                return self._refuse(groups, problem)
            assert self._storage is not None
            stored = self._storage.write(records, self.num_dropped)
            self.num_commits += 1
            found = [None if payload is None else Step.FromString(payload) for payload in stored]
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live and nobody may wait in vain
            return self._refuse(groups, self._set_aside(error) if is_damage(error) else _explain(error))
        num_found = len(found) - found.count(None)
        self.num_steps += sum(record.kind is Kind.STEP for record in records) - num_found
        outcomes: list[_Outcome] = []
        begin = 0
        for group in groups:
            outcomes.append((group, found[begin : begin + len(group.records)]))
            begin += len(group.records)
        return outcomes

    def _refuse(self, groups: list[_Group], problem: DecisionError) -> list[_Outcome]:
        self._note_problem(problem)
        self.num_dropped += sum(len(group.records) for group in groups if group.acknowledged is None)
        return [(group, problem) for group in groups]

    def _set_aside(self, damage: Exception) -> DecisionError:
        """Give the database up; the next probe begins a new one. Return what that means for a caller."""
        storage, self._storage = self._storage, None
        assert storage is not None
        try:
            storage.set_aside(str(damage))
        except OSError as error:
            return _explain(error)
        return UnavailableError(
            f"the step log was damaged ({damage}) and is set aside; a new one begins",
            reason="LOG_DAMAGED",
            retry_delay_seconds=2 * probe_seconds,
        )

    def _find_problem(self) -> DecisionError | None:
        """Return what can be seen to be wrong without writing."""
        if self._storage is None:
            return UnavailableError("the step log is not open", reason="LOG_NOT_WRITABLE")
        try:
            self._storage.check_is_there()
            free_bytes = self._storage.free_bytes()
        except OSError as error:
            return _explain(error)
        if free_bytes >= self._min_free_bytes:
            return None
        return _disk_full(f"{free_bytes} bytes are free where {self._min_free_bytes} must stay free")

    def _note_problem(self, problem: DecisionError | None) -> None:
        if problem is not None and self._problem is None:
            logger.error("the step log cannot be written, requests are refused until it can: %s", problem)
        if problem is None and self._problem is not None:
            logger.warning("the step log can be written again (%d records were dropped)", self.num_dropped)
        self._problem = problem

    def _probe(self) -> None:
        """Try to write; the database is opened anew each time, for its files may not be those that failed."""
        try:
            if self._storage is not None:
                self._storage.close()
                self._storage = None
            self._open_partition()
            assert self._storage is not None
            problem = self._find_problem()
            if problem is None:
                self._storage.probe()
            self._note_problem(problem)
        except DecisionError as error:
            self._note_problem(error)
        except (sqlite3.Error, OSError) as error:
            self._note_problem(_explain(error))

    def _retain(self) -> None:
        try:
            if self._problem is None and self._storage is not None:
                self._retention.look(self._storage)
        except (sqlite3.Error, OSError) as error:
            self._note_problem(self._set_aside(error) if is_damage(error) else _explain(error))

    def _checkpoint(self) -> None:
        try:
            if self._problem is None and self._storage is not None:
                self._storage.checkpoint_if_due()
        except (sqlite3.Error, OSError) as error:
            self._note_problem(self._set_aside(error) if is_damage(error) else _explain(error))

    def _hand_back(self, outcomes: list[_Outcome]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome[0].loop, []).append(outcome)
        for loop, settled in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._settle, settled)
            except RuntimeError:
                logger.warning("the event loop closed before %d appends were acknowledged", len(settled))

    def _settle(self, outcomes: list[_Outcome]) -> None:
        """Wake the callers; runs on their loop."""
        for group, result in outcomes:
            self.num_queued -= len(group.records)
            if group.acknowledged is None or group.acknowledged.done():
                continue
            if isinstance(result, DecisionError):
                group.acknowledged.set_exception(_copy(result))
            else:
                group.acknowledged.set_result(result)
        for waiter in self._commit_waiters:
            if not waiter.done():
                waiter.set_result(None)


def _copy(error: DecisionError) -> DecisionError:
    """Return an equal error: one that is raised in several places would gather their tracebacks."""
    return type(error)(
        str(error), reason=error.reason, field=error.field, retry_delay_seconds=error.retry_delay_seconds
    )


def _disk_full(detail: str) -> ExhaustedError:
    return ExhaustedError(
        f"the step log's disk is full: {detail}", reason="LOG_DISK_FULL", retry_delay_seconds=2 * probe_seconds
    )


def _explain(error: Exception) -> DecisionError:
    """Return what a failed write means for a caller."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return _disk_full(str(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(str(error))
    return UnavailableError(
        f"the step log cannot be written: {error}",
        reason="LOG_NOT_WRITABLE",
        retry_delay_seconds=2 * probe_seconds,
    )
