"""Reading the log: order, positions, filters, following, and several workers' partitions as one log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from hyperact.service import log_reader
from hyperact.service.errors import ExhaustedError, OutOfRangeError, UnavailableError, UnknownNameError
from hyperact.service.log_reader import LogReader
from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.log_pb2 import ReadResponse
from hyperact.v1.steps import to_key
from toy_steps import toy_report, toy_step


def open_log(directory: Path, worker: int = 0) -> StepLog:
    return StepLog.open(directory, worker, Durability.PROCESS, min_free_bytes=0, max_queued_records=16384)


async def read(reader: LogReader, model: str = "", positions: dict[str, int] | None = None) -> list[ReadResponse]:
    return [message async for message in reader.read(model, positions or {}, is_following=False)]


def numbers_of(messages: list[ReadResponse]) -> list[int]:
    return [entry.step.step_id.number for message in messages for entry in message.entries]


def positions_of(message: ReadResponse) -> dict[str, int]:
    return {position.partition: position.offset for position in message.next_positions}


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[StepLog]:
    log = open_log(tmp_path)
    yield log
    await log.close()


@pytest.fixture
async def reader(tmp_path: Path, log: StepLog) -> AsyncIterator[LogReader]:
    reader = LogReader(tmp_path, log)
    yield reader
    reader.close()


class TestRead:
    async def test_an_empty_log_says_where_it_will_begin(self, reader: LogReader, log: StepLog) -> None:
        """A reader that comes first gets a position to go on from."""
        (message,) = await read(reader)

        assert {log.partition: 1} == positions_of(message)

    async def test_a_directory_that_is_not_there_is_an_empty_log(self, tmp_path: Path) -> None:
        """Nothing was logged yet: no entries, no error."""
        (message,) = await read(LogReader(tmp_path / "none"))

        assert not message.entries

    async def test_reading_goes_on_from_the_positions_it_gave(self, reader: LogReader, log: StepLog) -> None:
        """Every entry comes once, in order, over two reads."""
        await log.append([toy_step(number) for number in range(5)])
        first = await read(reader)
        await log.append([toy_step(number) for number in range(5, 9)])

        second = await read(reader, positions=positions_of(first[-1]))

        assert [0, 1, 2, 3, 4] == numbers_of(first)
        assert [5, 6, 7, 8] == numbers_of(second)

    async def test_messages_stay_small(self, reader: LogReader, log: StepLog) -> None:
        """Large observations are spread over messages below gRPC's limit; each message's positions are right."""
        image = np.random.default_rng(0).integers(0, 256, 1 << 18, dtype=np.uint8)
        await log.append([toy_step(number, observation=image) for number in range(12)])

        messages = await read(reader)
        resumed = await read(reader, positions=positions_of(messages[0]))

        assert len(messages) >= 3
        assert max(message.ByteSize() for message in messages) < 2 << 20
        assert list(range(12)) == numbers_of(messages)
        assert numbers_of(messages[1:]) == numbers_of(resumed)

    async def test_a_limit_ends_the_stream(self, reader: LogReader, log: StepLog) -> None:
        """`max_entries` is kept to the entry, and the positions stand after the last one."""
        await log.append([toy_step(number) for number in range(2000)])

        messages = [message async for message in reader.read("", {}, is_following=False, max_entries=1500)]

        assert list(range(1500)) == numbers_of(messages)
        assert {log.partition: 1501} == positions_of(messages[-1])

    async def test_only_one_model_comes_and_the_positions_pass_the_others(
        self, reader: LogReader, log: StepLog
    ) -> None:
        """A trainer of one model does not read the others' entries again and again."""
        await log.append([toy_step(number, model="ab"[number % 2]) for number in range(100)])
        await log.append([toy_step(number, model="b") for number in range(100, 150)])

        messages = await read(reader, "a")

        assert list(range(0, 100, 2)) == numbers_of(messages)
        assert {log.partition: 151} == positions_of(messages[-1])

    async def test_a_model_that_was_never_logged_has_no_entries(self, reader: LogReader, log: StepLog) -> None:
        """An unknown model is no error: its first step may come yet."""
        await log.append([toy_step(0)])

        assert [] == numbers_of(await read(reader, "other"))

    async def test_an_unknown_partition_is_named(self, reader: LogReader) -> None:
        """Positions of another log are refused, not taken for the beginning."""
        with pytest.raises(UnknownNameError, match="no partition 'feed'"):
            await read(reader, positions={"feed": 1})

    @pytest.mark.parametrize("offset", [0, 5])
    async def test_a_position_outside_of_the_log_is_refused(self, reader: LogReader, log: StepLog, offset: int) -> None:
        """Before the first entry or beyond the newest: the message tells what there is."""
        await log.append([toy_step(number) for number in range(3)])

        with pytest.raises(OutOfRangeError, match="begins at offset 1 and ends before 4"):
            await read(reader, positions={log.partition: offset})

    async def test_a_damaged_database_is_told(self, tmp_path: Path) -> None:
        """A file that is no database gives an error with its reason, not an empty log."""
        (tmp_path / "steps-0.sqlite").write_bytes(b"not a database" * 1000)

        with pytest.raises(UnavailableError, match="not a database"):
            await read(LogReader(tmp_path))


class TestSeveralWorkers:
    async def test_partitions_are_merged_by_time(self, tmp_path: Path) -> None:
        """Two workers' entries come as one log in the order of time, each partition in its own order."""
        logs = [open_log(tmp_path, worker) for worker in range(2)]
        for worker, log in enumerate(logs):
            await log.append([toy_step(number) for number in range(worker, 3000, 2)])

        messages = await read(LogReader(tmp_path))

        assert list(range(3000)) == numbers_of(messages)
        assert {log.partition: 1501 for log in logs} == positions_of(messages[-1])
        await asyncio.gather(*(log.close() for log in logs))

    async def test_reading_resumes_in_every_partition(self, tmp_path: Path) -> None:
        """Positions from the middle of a merged read lose and repeat nothing."""
        logs = [open_log(tmp_path, worker) for worker in range(2)]
        for worker, log in enumerate(logs):
            await log.append([toy_step(number, session=str(worker), seconds=number // 7) for number in range(1500)])
        messages = await read(LogReader(tmp_path))

        resumed = await read(LogReader(tmp_path), positions=positions_of(messages[0]))

        entries = [(e.partition, e.offset) for message in (messages[0], *resumed) for e in message.entries]
        assert 3000 == len(entries) == len(set(entries))
        await asyncio.gather(*(log.close() for log in logs))

    async def test_a_closed_worker_is_still_read(self, tmp_path: Path) -> None:
        """A worker that left properly leaves its entries."""
        log = open_log(tmp_path, 3)
        await log.append([toy_step(0)])
        await log.close()

        assert [0] == numbers_of(await read(LogReader(tmp_path)))


class TestFind:
    async def test_a_step_is_found_in_every_partition_that_has_it(self, tmp_path: Path) -> None:
        """By its name alone, whichever worker decided it; an observation of any size comes back whole."""
        for worker, numbers in enumerate(((0, 1), (1, 2))):
            log = open_log(tmp_path, worker)
            await log.append([toy_step(number, observation=np.zeros((64, 64), np.float32)) for number in numbers])
            await log.append([toy_report(toy_step(numbers[0]))])
            await log.close()
        reader = LogReader(tmp_path)
        steps = {number: toy_step(number, observation=np.zeros((64, 64), np.float32)) for number in range(4)}

        found = {number: await reader.find(to_key(step.step_id)) for number, step in steps.items()}
        reader.close()

        assert [1, 2, 1, 0] == [len(entries) for entries in found.values()]
        assert [(2, steps[1]), (1, steps[1])] == [(entry.offset, entry.step) for entry in found[1]]


class TestFollow:
    async def test_new_entries_come_as_they_are_committed(self, reader: LogReader, log: StepLog) -> None:
        """A follower gets what is there, then what comes, without asking again."""
        await log.append([toy_step(0)])
        numbers: list[int] = []
        async with asyncio.timeout(30), contextlib.aclosing(reader.read("", {}, is_following=True)) as messages:
            async for message in messages:
                numbers += numbers_of([message])
                if len(numbers) == 4:
                    break
                await log.append([toy_step(numbers[-1] + 1)])

        assert [0, 1, 2, 3] == numbers

    async def test_another_worker_s_entries_come_too(self, reader: LogReader, log: StepLog, tmp_path: Path) -> None:
        """A partition that appears while a stream follows is found."""
        other = open_log(tmp_path, 1)
        async with asyncio.timeout(30), contextlib.aclosing(reader.read("", {}, is_following=True)) as messages:
            await anext(messages)
            await other.append([toy_step(7)])
            message = await anext(messages)

        assert [7] == numbers_of([message])
        await other.close()

    async def test_a_stream_may_end_after_its_reader(self, tmp_path: Path, log: StepLog) -> None:
        """A service that ends under its followers says nothing of errors."""
        reader = LogReader(tmp_path, log)
        stream = reader.read("", {}, is_following=True)
        await anext(stream)
        reader.close()

        await stream.aclose()

        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def test_too_many_readers_are_refused_until_one_leaves(self, tmp_path: Path, log: StepLog) -> None:
        """Readers cannot take the service down by their number."""
        reader = LogReader(tmp_path, log, max_streams=1)
        first = reader.read("", {}, is_following=True)
        await anext(first)

        with pytest.raises(ExhaustedError, match="1 readers"):
            await read(reader)

        await first.aclose()
        assert 1 == len(await read(reader))
        reader.close()


class TestRange:
    async def test_counts_are_those_of_the_log(self, reader: LogReader, log: StepLog, tmp_path: Path) -> None:
        """Steps, training steps and reports are counted once each, over all partitions, for one model or all."""
        other = open_log(tmp_path, 1)
        steps = [toy_step(number, evaluation=number < 3) for number in range(10)]
        await log.append([*steps, steps[0], toy_report(steps[0]), toy_report(steps[0])])
        await other.append([toy_step(0, model="other")])

        everything, one = await reader.get_range(""), await reader.get_range("default")

        assert (11, 8, 1) == (everything.num_steps, everything.num_training_steps, everything.num_reports)
        assert (10, 7, 1) == (one.num_steps, one.num_training_steps, one.num_reports)
        extents = {found.partition: (found.begin_offset, found.end_offset) for found in everything.ranges}
        assert {other.partition: (1, 2)}.items() <= extents.items()
        assert 1 == extents[log.partition][0]
        assert extents[log.partition][1] >= 12
        await other.close()

    async def test_the_end_of_the_range_is_where_reading_ends(self, reader: LogReader, log: StepLog) -> None:
        """A reader can tell from the range how far behind it is."""
        await log.append([toy_step(number) for number in range(3)])

        messages = await read(reader)

        (found,) = (await reader.get_range("")).ranges
        assert {log.partition: found.end_offset} == positions_of(messages[-1])


def test_a_message_s_bounds_leave_room() -> None:
    """A message with its last entry stays below gRPC's default limit for ordinary observations."""
    assert log_reader.max_message_bytes <= 2 << 20
