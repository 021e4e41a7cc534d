"""Retention: the oldest entries go, what a registered reader has not read stays, and counts stay right."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from hyperact.service.errors import InvalidRequestError, OutOfRangeError, UnknownNameError
from hyperact.service.log_check import LogCheck
from hyperact.service.log_partition import partition_path
from hyperact.service.log_reader import LogReader
from hyperact.service.registered_readers import RegisteredReaders
from hyperact.service.retention import RetentionLimits
from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.decision_pb2 import Step
from toy_steps import toy_report, toy_step

noise = np.random.default_rng(0)
day_seconds = 86400.0


def open_log(directory: Path, worker: int = 0, *, seconds: float = 0.0, num_bytes: int = 0) -> StepLog:
    limits = RetentionLimits(seconds, num_bytes, period_seconds=0.02)
    return StepLog.open(
        directory, worker, Durability.PROCESS, min_free_bytes=0, max_queued_records=16384, retention=limits
    )


def old_steps(count: int, first: int = 0) -> list[Step]:
    """Return steps of long ago."""
    return [toy_step(number) for number in range(first, first + count)]


def new_step(number: int) -> Step:
    step = toy_step(number)
    step.time.GetCurrentTime()
    return step


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 a count is a value, not an event
            await asyncio.sleep(0.02)


async def passes(log: StepLog) -> None:
    """Let retention look some more times."""
    looks = 0
    look = log._retention.look

    def counted(partition: object) -> None:
        nonlocal looks
        looks += 1
        look(partition)  # type: ignore[arg-type]

    log._retention.look = counted  # type: ignore[method-assign]
    await wait_until(lambda: looks > 3)


async def numbers(directory: Path, positions: dict[str, int] | None = None) -> list[int]:
    reader = LogReader(directory)
    messages = [message async for message in reader.read("", positions or {}, is_following=False)]
    reader.close()
    return [entry.step.step_id.number for message in messages for entry in message.entries]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[StepLog]:
    """A log that keeps a day."""
    log = open_log(tmp_path, seconds=day_seconds)
    yield log
    await log.close()


class TestAge:
    async def test_old_entries_go_and_new_ones_stay(self, log: StepLog, tmp_path: Path) -> None:
        """By the time of the entries; more than one pass if there are many."""
        await log.append([*old_steps(3000), new_step(3000), new_step(3001)])

        await wait_until(lambda: log.num_removed == 3000)

        assert [3000, 3001] == await numbers(tmp_path)

    async def test_an_old_entry_behind_a_new_one_waits(self, log: StepLog, tmp_path: Path) -> None:
        """Only a beginning is removed: positions and the order of what is left stay as they were."""
        await log.append([new_step(0), *old_steps(5, first=1)])

        await passes(log)

        assert 0 == log.num_removed
        assert list(range(6)) == sorted(await numbers(tmp_path))

    async def test_nothing_goes_by_default(self, tmp_path: Path) -> None:
        """A log is kept for ever unless somebody says otherwise."""
        log = StepLog.open(tmp_path, 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=100)
        await log.append(old_steps(5))
        await log.close()

        assert 5 == len(await numbers(tmp_path))


class TestSize:
    async def test_the_oldest_go_while_the_log_is_too_large(self, tmp_path: Path) -> None:
        """The database stops growing, and what is left is the newest."""
        log = open_log(tmp_path, num_bytes=1 << 20)
        for first in range(0, 1000, 50):
            images = [noise.integers(0, 256, 4096, dtype=np.uint8) for _ in range(50)]
            await log.append([toy_step(first + place, observation=image) for place, image in enumerate(images)])
            await passes(log)
        await log.close()

        left = await numbers(tmp_path)

        assert 100 < len(left) < 300
        assert list(range(1000 - len(left), 1000)) == left
        assert partition_path(tmp_path, 0).stat().st_size < 3 << 20


class TestReaders:
    async def test_what_a_reader_has_not_read_stays(self, log: StepLog, tmp_path: Path) -> None:
        """Whatever its age; when the reader goes on, it goes."""
        reader = LogReader(tmp_path, log)
        await reader.acknowledge("trainer", {log.partition: 11})
        await log.append(old_steps(30))
        await wait_until(lambda: log.num_removed == 10)
        await passes(log)

        assert list(range(10, 30)) == await numbers(tmp_path, {log.partition: 11})

        await reader.acknowledge("trainer", {log.partition: 21})
        await wait_until(lambda: log.num_removed == 20)
        reader.close()

    async def test_the_slowest_reader_counts(self, log: StepLog, tmp_path: Path) -> None:
        """One that has not read a partition at all keeps all of it."""
        reader = LogReader(tmp_path, log)
        await reader.acknowledge("fast", {log.partition: 31})
        await reader.acknowledge("new", {})
        await log.append(old_steps(30))
        await passes(log)
        assert 0 == log.num_removed

        await reader.forget("new")

        await wait_until(lambda: log.num_removed == 30)
        with pytest.raises(UnknownNameError, match="'new'"):
            await reader.forget("new")
        reader.close()

    async def test_a_reader_that_cannot_be_read_keeps_everything(self, log: StepLog, tmp_path: Path) -> None:
        """It may have been the slowest."""
        RegisteredReaders(tmp_path).register("trainer", {log.partition: 31}, 0.0)
        next((tmp_path / "readers").iterdir()).write_text("{")
        await log.append(old_steps(30))

        await passes(log)

        assert 0 == log.num_removed
        assert "" == log.problem()

    async def test_readers_are_listed(self, log: StepLog, tmp_path: Path) -> None:
        """Who keeps the log, and from where on."""
        reader = LogReader(tmp_path, log)
        await reader.acknowledge("a/b of Zürich", {log.partition: 1})

        (found,) = (await reader.get_range("")).readers

        assert ("a/b of Zürich", 1) == (found.name, found.positions[0].offset)
        reader.close()

    @pytest.mark.parametrize("name", ["", "x" * 65, "line\nbreak"])
    async def test_a_name_must_be_one(self, tmp_path: Path, name: str) -> None:
        """Names become files and stand on people's screens."""
        with pytest.raises(InvalidRequestError, match="reader"):
            RegisteredReaders(tmp_path).register(name, {}, 0.0)


class TestWhatIsLeft:
    async def test_a_position_before_the_oldest_entry_is_refused(self, log: StepLog, tmp_path: Path) -> None:
        """A reader that was not registered is told that it missed something."""
        await log.append([*old_steps(10), new_step(10)])
        await wait_until(lambda: log.num_removed == 10)

        with pytest.raises(OutOfRangeError, match="begins at offset 11"):
            await numbers(tmp_path, {log.partition: 5})

    async def test_a_stream_that_retention_overtakes_is_ended(self, log: StepLog, tmp_path: Path) -> None:
        """It does not pass over in silence what it has not sent."""
        reader = LogReader(tmp_path, log)
        await reader.acknowledge("holder", {})
        await log.append([*old_steps(3000), new_step(3000)])
        stream = reader.read("", {}, is_following=True)
        await anext(stream)
        await reader.forget("holder")
        await wait_until(lambda: log.num_removed == 3000)

        with pytest.raises(OutOfRangeError, match="begins at offset 3001 by now"):
            await anext(stream)
        reader.close()

    async def test_counts_go_on_and_the_log_is_whole(self, log: StepLog, tmp_path: Path) -> None:
        """Steps are counted as written, with what was removed beside it; verify takes it for no gap."""
        steps = old_steps(10)
        await log.append([*steps, toy_report(steps[0]), *(new_step(number) for number in range(10, 15))])
        await wait_until(lambda: log.num_removed == 11)

        found = await LogReader(tmp_path, log).get_range("")

        assert (15, 15, 1) == (found.num_steps, found.num_training_steps, found.num_reports)
        assert (10, 1) == (found.num_removed_steps, found.num_removed_reports)
        assert [] == [str(fault) for fault in LogCheck([tmp_path]).run()]

    async def test_offsets_go_on_after_everything_was_removed(self, tmp_path: Path) -> None:
        """An empty log does not begin at 1 again."""
        log = open_log(tmp_path, seconds=day_seconds)
        await log.append(old_steps(10))
        await wait_until(lambda: log.num_removed == 10)
        await log.close()
        log = open_log(tmp_path)

        await log.append([new_step(10)])
        await log.close()

        reader = LogReader(tmp_path)
        (message,) = [message async for message in reader.read("", {}, is_following=False)]
        assert message.entries[0].offset > 10
