"""From the log of a running service to transitions, over gRPC.

The rules:

1. The log is taken in by rounds. A round is a stretch of every partition; its partitions are read one after the other,
   by their ids, so that the same rounds give the same transitions in the same order whenever they are read.
2. Within a round reading goes on after the last entry that came, however often the service went away.
3. Reward windows are closed at the round's own time, which is recorded with it.
4. A transition that does not fit the model's spec (a fallback takes any observation) is counted and not learned from.
5. What waits for its outcome is bounded: beyond a memory budget the oldest waiting step is given up and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.log_source import Extent, LogLostError, LogSource, LogUnavailableError, Positions, nowhere
from hyperact.v1.log_pb2 import AcknowledgeRequest, GetRangeRequest, LogEntry, LogPosition, ReadRequest, ReadResponse
from hyperact.v1.log_pb2_grpc import LogServiceStub
from hyperact.v1.model_pb2 import LogRange, ModelSpec
from hyperact.v1.tensors import TensorChecker
from hyperact.v1.transitions import Assembled, EpisodeSummary, Transition, TransitionAssembler

_range_timeout_seconds = 10.0
# A call that lasts longer is broken off and taken up where it stopped.
_read_timeout_seconds = 300.0
_budget_bytes = 1 << 30

_transient = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    # Credentials change while a trainer runs, on either side: it waits, and says why.
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
}


class StepSource(LogSource):
    """One model's log, behind LogService."""

    def __init__(self, channel: grpc.Channel, model: str) -> None:
        self._stub = LogServiceStub(channel)
        self._model = model

    def extent(self, positions: Mapping[str, int] = nowhere, num_training_steps: int = 0) -> Extent:  # noqa: ARG002 - it counts itself
        """Ask how far the log goes. Raises LogUnavailableError."""
        try:
            response = self._stub.GetRange(GetRangeRequest(model=self._model), timeout=_range_timeout_seconds)
        except grpc.RpcError as error:
            raise _translated(error) from error
        ends = {log_range.partition: log_range.end_offset for log_range in response.ranges}
        begins = {log_range.partition: log_range.begin_offset for log_range in response.ranges}
        return Extent(ends, response.num_training_steps, begins, frozenset(response.set_aside))

    def acknowledge(self, reader: str, positions: Mapping[str, int]) -> None:
        """Have the log keep everything from the positions on for a reader. Raises LogUnavailableError."""
        told = [LogPosition(partition=partition, offset=offset) for partition, offset in positions.items()]
        try:
            self._stub.Acknowledge(AcknowledgeRequest(reader=reader, positions=told), timeout=_range_timeout_seconds)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return  # an older service, which removes nothing
            raise _translated(error) from error

    def _read_partition(self, partition: str, begin: int, end: int, extent: Extent) -> Iterator[Sequence[LogEntry]]:
        """Yield what one partition holds from an offset to before another."""
        request = ReadRequest(model=self._model, positions=_positions(partition, begin, extent.ends))
        call = self._stub.Read(request, timeout=_read_timeout_seconds)
        try:
            for response in call:
                entries = _entries(response, partition, end)
                if entries:
                    yield entries
                if _is_past(response, partition, end):
                    break
        except grpc.RpcError as error:
            raise _translated(error) from error
        finally:
            call.cancel()


@dataclass(slots=True)
class IngestCounts:
    """What was read and what became of it, since the log's beginning."""

    num_entries: int = 0
    num_transitions: int = 0
    num_repeated_entries: int = 0  # an offset that does not grow: sent twice
    num_misfits: int = 0  # transitions that do not fit the spec


@dataclass(slots=True)
class Taken:
    """What came of some entries."""

    transitions: list[Transition] = field(default_factory=list)
    episodes: list[EpisodeSummary] = field(default_factory=list)


class Ingest:
    """Turns one model's log entries into transitions that fit its spec."""

    def __init__(self, spec: ModelSpec) -> None:
        checker = TensorChecker(spec.observation)
        max_pending = max(4096, _budget_bytes // (checker.num_bytes + 1024))
        self._assembler = TransitionAssembler(spec, max_pending=max_pending)
        self._shape, self._dtype = checker.shape, checker.dtype
        self._num_actions = spec.action.discrete.num_actions
        self._window_seconds = spec.reward_window.ToTimedelta().total_seconds()
        self._positions: Positions = {}
        self._last_time_seconds = 0.0
        self.counts = IngestCounts()

    @property
    def num_duplicates(self) -> int:
        """How many steps the log held more than once."""
        return self._assembler.num_duplicates

    @property
    def num_unusable(self) -> int:
        """How many steps had no reward or no true end, or were given up."""
        return self._assembler.num_unusable + self._assembler.num_abandoned

    def num_due(self, now_seconds: float) -> int:
        """How many steps may have settled since the last round because their reward window has closed."""
        if self._window_seconds and now_seconds > self._last_time_seconds + self._window_seconds:
            return self._assembler.num_pending
        return 0

    def push(self, entries: Sequence[LogEntry]) -> Taken:
        """Take in entries of one partition, in order."""
        fresh = [entry for entry in entries if self._is_fresh(entry)]
        return self._usable(self._assembler.push(fresh))

    def close_windows(self, time_seconds: float) -> Taken:
        """Close the reward windows that ended before a time (Unix seconds)."""
        self._last_time_seconds = time_seconds
        return self._usable(self._assembler.advance(time_seconds))

    def _is_fresh(self, entry: LogEntry) -> bool:
        if entry.offset < self._positions.get(entry.partition, 0):
            self.counts.num_repeated_entries += 1
            return False
        self._positions[entry.partition] = entry.offset + 1
        self.counts.num_entries += 1
        return True

    def _usable(self, assembled: Assembled) -> Taken:
        transitions = [transition for transition in assembled.transitions if self._fits(transition)]
        self.counts.num_misfits += len(assembled.transitions) - len(transitions)
        self.counts.num_transitions += len(transitions)
        return Taken(transitions, assembled.episodes)

    def _fits(self, transition: Transition) -> bool:
        mask = transition.next_action_mask
        return (
            self._is_observation(transition.observation)
            and self._is_observation(transition.next_observation)
            and transition.action < self._num_actions
            and np.isfinite(transition.reward)
            and (not mask or (len(mask) == self._num_actions and any(mask)))
        )

    def _is_observation(self, array: NDArray[Any]) -> bool:
        return (
            array.shape == self._shape
            and array.dtype == self._dtype
            and (array.dtype.kind != "f" or bool(np.isfinite(array).all()))
        )


def dataset(ends: Mapping[str, int]) -> list[LogRange]:
    """Return the log ranges that end there, as a manifest names them."""
    return [
        LogRange(partition=partition, begin_offset=1, end_offset=end)
        for partition, end in sorted(ends.items())
        if end > 1
    ]


def _positions(partition: str, begin: int, ends: Mapping[str, int]) -> list[LogPosition]:
    """Return positions that read one partition and pass over what the others are known to hold.

    Offset 0 stands for the partition's first entry, which is what a partition without a position begins at.
    """
    others = [LogPosition(partition=other, offset=end) for other, end in ends.items() if other != partition and end > 1]
    return others + ([LogPosition(partition=partition, offset=begin)] if begin else [])


def _entries(response: ReadResponse, partition: str, end: int) -> list[LogEntry]:
    return [entry for entry in response.entries if entry.partition == partition and entry.offset < end]


def _is_past(response: ReadResponse, partition: str, end: int) -> bool:
    return any(position.partition == partition and position.offset >= end for position in response.next_positions)


def _translated(error: grpc.RpcError) -> Exception:
    code, details = error.code(), error.details() or ""
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE):
        return LogLostError(details)
    if code in _transient or code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return LogUnavailableError(f"{code.name}: {details}")
    return error
