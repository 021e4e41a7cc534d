"""Ships what is committed in the log's directory to a stream, and remembers until where.

The rules:

1. The local commit is what acknowledges a step. Shipping follows it, never holds it up, and never makes a service
   unready: what the stream cannot take now stays in the log, and is shipped when it can.
2. One worker of a directory ships all its partitions, also those whose workers are gone. It is a registered reader of
   the log, so that retention removes nothing that was not shipped, and its positions are those of its registration: who
   takes over the directory goes on there.
3. Positions are noted after the stream has acknowledged, at most `note_seconds` later. What was shipped and not noted
   is shipped again: every record at least once, and the stream or its readers collapse it by id.
4. Positions belong to one stream. A stream that was made anew, under whatever name, gets the whole log, as far as
   retention has left it.
5. One message of the log's reader (a megabyte) is in flight at a time, so little is held in memory however far behind.
"""

import asyncio
import contextlib
import time

import structlog

from hyperact.service.errors import DecisionError, OutOfRangeError
from hyperact.service.jet_stream import BrokerError, JetStream
from hyperact.service.log_reader import LogReader
from hyperact.v1.log_pb2 import GetRangeResponse, LogEntry, ReadResponse

logger = structlog.stdlib.get_logger("hyperact.service")
note_seconds = 1.0
retry_seconds = 1.0
close_seconds = 5.0
poll_seconds = 0.02
reader_prefix = "shipping"


class Shipper:
    """Ships one directory's log. Made on the event loop that it runs on.

    Attributes:
        num_shipped: records that the stream has acknowledged since the start.
    """

    def __init__(self, log: LogReader, stream: JetStream) -> None:
        self._log = log
        self._stream = stream
        self.num_shipped = 0
        self._name = ""
        self._positions: dict[str, int] = {}
        self._noted: dict[str, int] | None = None
        self._problem = ""
        self._waiting_since: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to ship."""
        self._tasks = [asyncio.create_task(self._ship_for_ever()), asyncio.create_task(self._note_for_ever())]

    def is_up(self) -> bool:
        """Tell whether the stream takes records."""
        return bool(self._tasks) and not self._problem and self._stream.is_connected

    def lag_seconds(self) -> float:
        """Return for how long the oldest record that is known not to be shipped has waited; 0 if all are."""
        return 0.0 if self._waiting_since is None else max(0.0, time.time() - self._waiting_since)

    async def close(self) -> None:
        """Ship what is left, for a while, note until where, and let the connection go."""
        with contextlib.suppress(TimeoutError, DecisionError):
            await asyncio.wait_for(self._ship_the_rest(), close_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(DecisionError):
            await self._note()
        await self._stream.close()

    async def _ship_the_rest(self) -> None:
        """Return when the stream has everything, or takes nothing."""
        while not self._problem and self._tasks:
            if await self._is_all_shipped():
                return
            await asyncio.sleep(poll_seconds)

    async def _is_all_shipped(self) -> bool:
        ranges = (await self._log.get_range("")).ranges
        return all(self._positions.get(each.partition, each.begin_offset) >= each.end_offset for each in ranges)

    async def _ship_for_ever(self) -> None:
        while True:
            try:
                await self._begin()
                await self._follow()
            except (BrokerError, DecisionError) as error:
                self._note_problem(error)
                await self._stream.close()
            except Exception:
                logger.exception("shipping failed; trying again")
            await asyncio.sleep(retry_seconds)

    async def _begin(self) -> None:
        """Register as a reader, connect, and find out until where this stream has the log."""
        log_range = await self._log.get_range("")
        registered = {reader.name for reader in log_range.readers if reader.name.startswith(reader_prefix)}
        if not registered:
            await self._log.acknowledge(reader_prefix, {})
            registered = {reader_prefix}
        name = f"{reader_prefix} to {await self._stream.open()}"
        if name != self._name:
            self._name, self._positions = name, _positions_of(log_range, name)
            self._noted = None
            await self._note()
            logger.info("shipping the log", stream=name.rpartition(" ")[2], positions=self._positions)
        for other in registered - {name}:
            await self._log.forget(other)
        self._positions = _within(self._positions, log_range)

    async def _follow(self) -> None:
        """Ship what comes, as long as nothing fails."""
        async with contextlib.aclosing(self._log.read("", self._positions, is_following=True)) as responses:
            try:
                async for response in responses:
                    await self._ship(response)
            except OutOfRangeError as error:
                logger.error("entries were removed before they were shipped", problem=str(error))  # noqa: TRY400

    async def _ship(self, response: ReadResponse) -> None:
        if response.entries:
            self._waiting_since = _time_of(response.entries[0])
            await self._stream.publish(response.entries)
            self.num_shipped += len(response.entries)
        self._waiting_since = None
        self._positions = {position.partition: position.offset for position in response.next_positions}
        self._note_problem(None)

    def _note_problem(self, error: Exception | None) -> None:
        problem = str(error or "")
        if error is not None and not self._problem:
            logger.warning("steps are not shipped, and wait in the log: trying again", problem=problem)
        if error is None and self._problem:
            logger.info("steps are shipped again")
        if error is not None and self._waiting_since is None:
            self._waiting_since = time.time()
        self._problem = problem

    async def _note_for_ever(self) -> None:
        while True:
            await asyncio.sleep(note_seconds)
            try:
                await self._note()
            except DecisionError as error:
                logger.warning("until where the log was shipped could not be noted", problem=str(error))

    async def _note(self) -> None:
        positions = dict(self._positions)
        if self._name and positions != self._noted:
            await self._log.acknowledge(self._name, positions)
            self._noted = positions


def _positions_of(log_range: GetRangeResponse, name: str) -> dict[str, int]:
    """Return until where a registered reader has read; empty if it is not registered."""
    for reader in log_range.readers:
        if reader.name == name:
            return {position.partition: position.offset for position in reader.positions}
    return {}


def _within(positions: dict[str, int], log_range: GetRangeResponse) -> dict[str, int]:
    """Return the positions of the partitions that are here, each moved to where there is something to read."""
    extents = {each.partition: (each.begin_offset, each.end_offset) for each in log_range.ranges}
    return {
        partition: min(max(offset, extents[partition][0]), extents[partition][1])
        for partition, offset in positions.items()
        if partition in extents
    }


def _time_of(entry: LogEntry) -> float:
    record_time = entry.step.time if entry.HasField("step") else entry.report.time
    return record_time.ToNanoseconds() / 1e9
