"""The step log: what is acknowledged is there, once, whatever happens to the process or the disk."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hyperact.service.errors import ExhaustedError, PreconditionError, UnavailableError
from hyperact.service.log_partition import partition_path
from hyperact.service.log_reader import LogReader
from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.log_pb2 import LogEntry
from toy_steps import toy_report, toy_step

tests_directory = Path(__file__).parents[1]


def open_log(
    directory: Path,
    durability: Durability = Durability.PROCESS,
    *,
    worker: int = 0,
    min_free_bytes: int = 0,
    max_queued_records: int = 16384,
) -> StepLog:
    return StepLog.open(
        directory, worker, durability, min_free_bytes=min_free_bytes, max_queued_records=max_queued_records
    )


async def read_all(directory: Path) -> list[LogEntry]:
    reader = LogReader(directory)
    entries = [entry async for message in reader.read("", {}, is_following=False) for entry in message.entries]
    reader.close()
    return entries


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[StepLog]:
    log = open_log(tmp_path)
    yield log
    await log.close()


class TestStepLog:
    @pytest.mark.parametrize("durability", list(Durability))
    async def test_what_is_appended_is_read_back(self, tmp_path: Path, durability: Durability) -> None:
        """At every level steps and reports come back as they were, in order, after the log was closed."""
        log = open_log(tmp_path, durability)
        steps = [toy_step(number) for number in range(700)]
        report = toy_report(steps[0])

        results = await log.append([*steps, report])
        await log.close()

        entries = await read_all(tmp_path)
        assert [None] * 701 == results
        assert steps == [entry.step for entry in entries if entry.WhichOneof("entry") == "step"]
        assert [report] == [entry.report for entry in entries if entry.WhichOneof("entry") == "report"]
        assert list(range(1, 702)) == sorted(entry.offset for entry in entries)
        assert 700 == log.num_steps

    async def test_a_large_observation_is_stored_small_and_comes_back_whole(self, tmp_path: Path) -> None:
        """Images take a fraction of their size on the disk."""
        log = open_log(tmp_path)
        image = np.tile(np.arange(84, dtype=np.uint8), (4, 84, 1))
        steps = [toy_step(number, observation=image) for number in range(100)]

        await log.append(steps)
        await log.close()

        assert steps == [entry.step for entry in await read_all(tmp_path)]
        assert partition_path(tmp_path, 0).stat().st_size < 100 * image.nbytes / 10

    async def test_a_repeated_step_is_answered_with_the_stored_one(self, log: StepLog) -> None:
        """A retry that reaches the log again gets what was decided first, and the log keeps one record."""
        first, second = toy_step(0, action=1), toy_step(1)
        await log.append([first])

        results = await log.append([toy_step(0, action=0), second, toy_step(1, action=7)])

        assert [first, None, second] == results
        assert 2 == log.num_steps

    async def test_a_repeated_step_is_known_after_a_restart(self, tmp_path: Path) -> None:
        """Idempotency does not end with the process."""
        log = open_log(tmp_path)
        await log.append([toy_step(0, action=1)])
        await log.close()
        log = open_log(tmp_path)

        results = await log.append([toy_step(0, action=0)])

        assert [toy_step(0, action=1)] == results
        await log.close()

    async def test_a_stored_step_that_is_damaged_is_told_and_survived(self, tmp_path: Path) -> None:
        """A disk that erred: the retry of that step fails, and all others are logged as before."""
        first = open_log(tmp_path)
        await first.append([toy_step(0)])
        await first.close()
        with contextlib.closing(sqlite3.connect(partition_path(tmp_path, 0))) as connection:
            connection.execute("UPDATE entries SET form = 0, payload = x'ffff'")
            connection.commit()
        log = open_log(tmp_path)

        async with asyncio.timeout(30):
            with pytest.raises(UnavailableError):
                await log.append([toy_step(0)])
        await wait_until(lambda: not log.problem())

        assert [None] == await log.append([toy_step(1)])
        await log.close()

    async def test_reports_with_one_id_count_once(self, log: StepLog, tmp_path: Path) -> None:
        """A report is known by its step and its id; another id is another report."""
        step = toy_step(0)
        await log.append([step])

        results = await log.append([toy_report(step, "a"), toy_report(step, "a"), toy_report(step, "b")])

        reports = [entry.report for entry in await read_all(tmp_path) if entry.WhichOneof("entry") == "report"]
        assert [None, None, None] == results
        assert ["a", "b"] == [report.report_id for report in reports]

    async def test_appends_that_meet_share_a_commit(self, log: StepLog) -> None:
        """Many callers at once cost few transactions."""
        await asyncio.gather(*(log.append([toy_step(number)]) for number in range(500)))

        assert 500 == log.num_steps
        assert log.num_commits < 250

    async def test_close_commits_what_is_queued(self, tmp_path: Path) -> None:
        """A shutdown loses nothing, not even what nobody waits for; later appends are refused."""
        log = open_log(tmp_path, Durability.MEMORY)
        for number in range(300):
            await log.append([toy_step(number)])

        await log.close()

        assert 300 == len(await read_all(tmp_path))
        with pytest.raises(UnavailableError, match="closing"):
            await log.append([toy_step(300)])

    async def test_a_full_queue_refuses_at_once(self, tmp_path: Path) -> None:
        """More than the queue takes is refused with a delay after which to retry; what was taken is written."""
        log = open_log(tmp_path, max_queued_records=10)
        accepted = [asyncio.create_task(log.append([toy_step(number)])) for number in range(10)]
        await asyncio.sleep(0)

        with pytest.raises(ExhaustedError, match="queue is full") as caught:
            await log.append([toy_step(10)])

        assert caught.value.retry_delay_seconds is not None
        await asyncio.gather(*accepted)
        assert 10 == log.num_steps
        await log.close()

    async def test_a_second_writer_is_refused(self, log: StepLog, tmp_path: Path) -> None:
        """Two processes on one database would lose each other's offsets: the message names the one that has it."""
        with pytest.raises(PreconditionError, match=f"in use by process {os.getpid()}"):
            open_log(tmp_path)

    async def test_a_partition_keeps_its_id(self, tmp_path: Path) -> None:
        """Positions that a reader keeps stay valid across restarts."""
        partitions = []
        for _ in range(2):
            log = open_log(tmp_path)
            partitions.append(log.partition)
            await log.close()

        assert partitions[0] == partitions[1]
        assert 32 == len(bytes.fromhex(partitions[0]).hex())

    async def test_a_later_schema_is_refused(self, tmp_path: Path) -> None:
        """An older release does not write into what it does not understand."""
        await open_log(tmp_path).close()
        with contextlib.closing(sqlite3.connect(partition_path(tmp_path, 0))) as connection:
            connection.execute("PRAGMA user_version = 99")

        with pytest.raises(PreconditionError, match="schema 99"):
            open_log(tmp_path)


class TestKill:
    """A writer of its own process is killed; what it had acknowledged on its standard output must be there."""

    @pytest.mark.parametrize("durability", [Durability.DISK, Durability.PROCESS])
    async def test_no_acknowledged_record_is_lost(self, tmp_path: Path, durability: Durability) -> None:
        """Kill -9 at any moment: every acknowledged step is in the log once, and the log opens again."""
        acknowledged: list[int] = []
        for life in range(3):
            acknowledged += self.write_until_killed(tmp_path, durability, life, num_lines=30 * (life + 1))

        numbers = [entry.step.step_id.number for entry in await read_all(tmp_path)]

        assert len(acknowledged) >= 180
        assert set(acknowledged) <= set(numbers)
        assert len(numbers) == len(set(numbers))

    @staticmethod
    def write_until_killed(directory: Path, durability: Durability, life: int, num_lines: int) -> list[int]:
        """Kill the writer after so many acknowledgements; return all that came through."""
        command = [
            sys.executable,
            str(tests_directory / "toy_log_writer.py"),
            str(directory),
            durability,
            str(life * 10**6),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(num_lines)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        return [int(line) for line in lines if line.endswith("\n")]

    async def test_offsets_are_not_used_twice(self, tmp_path: Path) -> None:
        """After an unclean end at a level that a power failure may take records back from, new offsets leap ahead."""
        self.write_until_killed(tmp_path, Durability.PROCESS, 0, num_lines=10)
        last = max(entry.offset for entry in await read_all(tmp_path))
        log = open_log(tmp_path)

        await log.append([toy_step(0, session="later")])

        assert max(entry.offset for entry in await read_all(tmp_path)) > last + 1_000_000
        await log.close()


class TestTornTail:
    async def test_what_was_cut_off_is_gone_and_the_rest_is_there(self, tmp_path: Path) -> None:
        """A write-ahead log that ends in the middle of a transaction opens with all whole transactions."""
        source, torn = tmp_path / "source", tmp_path / "torn"
        log = open_log(source, Durability.DISK)
        for number in range(20):
            await log.append([toy_step(number)])
        shutil.copytree(source, torn)
        await log.close()
        tail = partition_path(torn, 0).with_name("steps-0.sqlite-wal")
        os.truncate(tail, tail.stat().st_size - 100)

        log = open_log(torn, Durability.DISK)
        results = await log.append([toy_step(0), toy_step(19)])

        assert [toy_step(0), None] == results
        assert list(range(20)) == [entry.step.step_id.number for entry in await read_all(torn)]
        await log.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 a log's problem is a value, not an event
            await asyncio.sleep(0.02)


class TestTrouble:
    async def test_little_free_space_refuses_and_recovers_by_itself(self, tmp_path: Path) -> None:
        """Below the free space that must stay, steps are refused with the reason; with space again, they are taken."""
        free_bytes = shutil.disk_usage(tmp_path).free
        log = open_log(tmp_path, min_free_bytes=free_bytes + (1 << 40))

        with pytest.raises(ExhaustedError, match="disk is full") as caught:
            await log.append([toy_step(0)])
        assert "must stay free" in log.problem()
        assert "LOG_DISK_FULL" == caught.value.reason

        log._min_free_bytes = 0
        await wait_until(lambda: not log.problem())
        assert [None] == await log.append([toy_step(0)])
        await log.close()

    async def test_a_removed_database_is_noticed(self, tmp_path: Path) -> None:
        """Writes into a deleted file succeed and are lost: they are refused instead, and a new partition is made."""
        log = open_log(tmp_path / "log")
        before = log.partition
        await log.append([toy_step(0)])
        shutil.rmtree(tmp_path / "log")

        with pytest.raises(UnavailableError, match="No such file"):
            await log.append([toy_step(1)])

        await wait_until(lambda: not log.problem())
        assert [None] == await log.append([toy_step(1)])
        assert before != log.partition
        await log.close()

    async def test_what_memory_loses_is_counted(self, tmp_path: Path) -> None:
        """At level memory an acknowledged record that could not be written shows in the count."""
        log = open_log(tmp_path / "log", Durability.MEMORY)
        shutil.rmtree(tmp_path / "log")

        await log.append([toy_step(0), toy_step(1)])

        await wait_until(lambda: 2 == log.num_dropped)
        await wait_until(lambda: not log.problem())
        await log.append([toy_step(2)])
        await log.close()
        assert 2 == (await LogReader(tmp_path / "log").get_range("")).num_dropped

    @pytest.mark.parametrize("trouble", ["file_limit", "full", "read_only"])
    def test_a_disk_that_refuses_is_told_and_survived(self, tmp_path: Path, trouble: str) -> None:
        """A full or read-only file system: refused with the reason, nothing acknowledged is lost, back by itself."""
        command: Sequence[str] = [sys.executable, str(tests_directory / "toy_disk_trouble.py"), trouble, str(tmp_path)]
        if trouble != "file_limit":
            command = ["unshare", "--mount", "--map-root-user", *command]
            if subprocess.run([*command[:3], "true"], capture_output=True, check=False).returncode:
                pytest.skip("this user may not mount file systems in a namespace of its own")

        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

        assert 0 == finished.returncode, finished.stderr
        assert "survived" in finished.stdout


class TestSlowDisk:
    """A writer of its own process, whose every sync takes 200 ms longer."""

    slow_ms = 200

    @pytest.fixture
    def library(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Build the library that makes syncs slow."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler to build a slow disk with")
        library = tmp_path_factory.mktemp("slow") / "slow_disk.so"
        command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tests_directory / "slow_disk.c"), "-ldl"]
        subprocess.run(command, check=True)
        return library

    @contextlib.contextmanager
    def writer(self, library: Path, directory: Path) -> Iterator["subprocess.Popen[str]"]:
        """Run the writer on a directory."""
        environment = {**os.environ, "LD_PRELOAD": str(library), "SLOW_DISK_MS": str(self.slow_ms)}
        command = [sys.executable, str(tests_directory / "toy_slow_disk.py"), str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            yield process
            process.kill()

    async def test_what_is_acknowledged_is_there_and_the_rest_was_refused(self, library: Path, tmp_path: Path) -> None:
        """Callers wait for the sync, the queue's bound sheds the surplus, and every step is one or the other."""
        with self.writer(library, tmp_path) as process:
            output, _ = process.communicate(timeout=60)
        lines = [line.split() for line in output.splitlines()]
        acknowledged = [int(line[1]) for line in lines if line[0] == "acknowledged"]
        refused = [line[1:] for line in lines if line[0] == "refused"]

        assert 0 == process.returncode
        assert 200 == len(acknowledged) + len(refused)
        assert acknowledged
        assert ["LOG_QUEUE_FULL", "ExhaustedError"] in refused
        assert sorted(acknowledged) == sorted([entry.step.step_id.number for entry in await read_all(tmp_path)])
        assert int(lines[-1][1]) >= self.slow_ms

    async def test_a_kill_in_the_middle_of_a_sync_loses_nothing(self, library: Path, tmp_path: Path) -> None:
        """No acknowledgement ran ahead of the disk."""
        with self.writer(library, tmp_path) as process:
            assert process.stdout is not None
            lines: list[str] = []
            while sum(line.startswith("acknowledged") for line in lines) < 10:
                lines.append(process.stdout.readline())
            process.kill()
            lines += process.stdout.readlines()
        acknowledged = {int(line.split()[1]) for line in lines if line.startswith("acknowledged") and line[-1] == "\n"}

        assert acknowledged
        assert acknowledged <= {entry.step.step_id.number for entry in await read_all(tmp_path)}
