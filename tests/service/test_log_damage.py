"""Damaged databases: known as such, set aside and told, and serving goes on."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperact.service.errors import DecisionError, UnavailableError
from hyperact.service.log_damage import find_set_aside, partition_of
from hyperact.service.log_partition import partition_path
from hyperact.service.log_reader import LogReader
from hyperact.service.step_log import Durability, StepLog
from toy_steps import toy_step


def open_log(directory: Path) -> StepLog:
    return StepLog.open(directory, 0, Durability.DISK, min_free_bytes=0, max_queued_records=16384)


async def write_and_close(directory: Path) -> str:
    log = open_log(directory)
    await log.append([toy_step(number) for number in range(200)])
    await log.close()
    return log.partition


async def read_numbers(directory: Path) -> list[int]:
    reader = LogReader(directory)
    messages = [message async for message in reader.read("", {}, is_following=False)]
    reader.close()
    return [entry.step.step_id.number for message in messages for entry in message.entries]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_first_page(path: Path) -> None:
    os.truncate(path, 100)


def overwrite_header(path: Path) -> None:
    path.write_bytes(b"not a database" + path.read_bytes()[14:])


def overwrite_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


def replace_by_another(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()


def drop_a_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE models")
    connection.commit()
    connection.close()


class TestStart:
    @pytest.mark.parametrize(
        "damage",
        [empty, cut, cut_first_page, overwrite_header, overwrite_pages, replace_by_another, drop_a_table],
    )
    async def test_a_damaged_database_is_set_aside(self, tmp_path: Path, damage: Callable[[Path], None]) -> None:
        """Steps are taken at once, in a new partition; the old file is kept as it was, under a name that tells."""
        before = await write_and_close(tmp_path)
        path = partition_path(tmp_path, 0)
        damage(path)
        content = path.read_bytes()

        log = open_log(tmp_path)

        assert "" == log.problem()
        assert [None] == await log.append([toy_step(0, session="after")])
        (aside,) = find_set_aside(tmp_path)
        assert content == aside.read_bytes()
        assert before == partition_of(aside) != log.partition
        assert [aside.name] == log.find_set_aside()
        assert [before] == list((await LogReader(tmp_path, log).get_range("")).set_aside)
        await log.close()

    async def test_it_is_set_aside_once(self, tmp_path: Path) -> None:
        """The next start finds the new partition as the last one left it."""
        await write_and_close(tmp_path)
        empty(partition_path(tmp_path, 0))
        after = await write_and_close(tmp_path)

        log = open_log(tmp_path)
        await log.close()

        assert after == log.partition
        assert 1 == len(find_set_aside(tmp_path))
        assert list(range(200)) == await read_numbers(tmp_path)

    async def test_a_write_ahead_log_without_its_database_is_kept(self, tmp_path: Path) -> None:
        """SQLite would delete it; there may be steps in it."""
        tail = tmp_path / "steps-0.sqlite-wal"
        tail.write_bytes(b"frames")

        await write_and_close(tmp_path)

        (aside,) = find_set_aside(tmp_path)
        assert b"frames" == aside.with_name(aside.name + "-wal").read_bytes()

    async def test_what_cannot_be_opened_now_is_waited_for(self, tmp_path: Path) -> None:
        """A directory in the database's place is no damage: nothing is renamed, and the log comes back by itself."""
        path = partition_path(tmp_path, 0)
        path.mkdir()
        log = open_log(tmp_path)

        with pytest.raises(UnavailableError, match="cannot open the step log"):
            await log.append([toy_step(0)])

        path.rmdir()
        await take_again(log, toy_step(0))
        assert [] == find_set_aside(tmp_path)
        await log.close()

    async def test_a_database_of_an_older_release_is_brought_up(self, tmp_path: Path) -> None:
        """Schema 1 had neither checksums nor counts of what was removed."""
        await write_and_close(tmp_path)
        connection = sqlite3.connect(partition_path(tmp_path, 0))
        for column in ("is_evaluation", "checksum"):
            connection.execute(f"ALTER TABLE entries DROP COLUMN {column}")
        for column in ("steps", "training_steps", "reports"):
            connection.execute(f"ALTER TABLE models DROP COLUMN num_removed_{column}")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
        connection.close()

        log = open_log(tmp_path)
        await log.close()

        assert list(range(200)) == await read_numbers(tmp_path)
        assert [] == find_set_aside(tmp_path)


class TestRunning:
    async def test_damage_that_shows_in_use_sets_aside(self, tmp_path: Path) -> None:
        """A repeated step whose record is damaged: refused with the reason, then decided anew in a new partition."""
        log = open_log(tmp_path)
        await log.append([toy_step(number) for number in range(10)])
        before = log.partition
        connection = sqlite3.connect(partition_path(tmp_path, 0))
        connection.execute("UPDATE entries SET payload = zeroblob(50) WHERE offset = 4")
        connection.commit()
        connection.close()

        with pytest.raises(UnavailableError, match="offset 4 is not what was written") as caught:
            await log.append([toy_step(3)])

        assert "LOG_DAMAGED" == caught.value.reason
        assert [None] == await take_again(log, toy_step(3))
        assert before == partition_of(find_set_aside(tmp_path)[0]) != log.partition
        await log.close()

    async def test_a_follower_goes_over_to_the_new_partition(self, tmp_path: Path) -> None:
        """A stream that was open does not wait for ever at a file that nobody writes any more."""
        log = open_log(tmp_path)
        await log.append([toy_step(0)])
        reader = LogReader(tmp_path, log)
        stream = reader.read("", {}, is_following=True)
        await anext(stream)
        log._storage.set_aside("a test says so")  # type: ignore[union-attr]
        log._open_partition()

        await log.append([toy_step(1)])

        async with asyncio.timeout(30):
            message = await anext(stream)
        assert [1] == [entry.step.step_id.number for entry in message.entries]
        await stream.aclose()
        reader.close()
        await log.close()

    async def test_a_damaged_entry_is_not_read_as_another(self, tmp_path: Path) -> None:
        """A reader is told which entry is damaged, and does not learn from it."""
        await write_and_close(tmp_path)
        connection = sqlite3.connect(partition_path(tmp_path, 0))
        connection.execute("UPDATE entries SET payload = CAST(replace(payload, 'r', 'x') AS BLOB) WHERE offset = 7")
        connection.commit()
        connection.close()

        with pytest.raises(UnavailableError, match="offset 7: its bytes are not those that were written"):
            await read_numbers(tmp_path)


async def take_again(log: StepLog, step: object) -> object:
    """Append as a client would: again, until it is taken."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await log.append([step])  # type: ignore[list-item]
            except DecisionError:
                await asyncio.sleep(0.05)
