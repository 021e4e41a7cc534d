"""Proving a log whole: what is wrong is found and named, and nothing else."""

import asyncio
import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from hyperact.service.log_check import LogCheck, Numbers
from hyperact.service.log_partition import partition_path
from hyperact.service.operation_settings import LogAction, LogSettings
from hyperact.service.operations import log
from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.decision_pb2 import Report, Step
from toy_steps import toy_report, toy_step


def write(directory: Path, records: list[Step | Report], worker: int = 0) -> str:
    """Write records into a worker's partition and close it; return the partition's id."""

    async def append() -> str:
        step_log = StepLog.open(directory, worker, Durability.PROCESS, min_free_bytes=0, max_queued_records=16384)
        await step_log.append(records)
        await step_log.close()
        return step_log.partition

    return asyncio.run(append())


def change(directory: Path, *statements: str) -> None:
    """Do to a database what nobody should."""
    with contextlib.closing(sqlite3.connect(partition_path(directory, 0))) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def faults(*directories: Path) -> list[str]:
    return [str(fault) for fault in LogCheck(directories).run()]


def whole_log(directory: Path) -> str:
    steps = [toy_step(number, evaluation=number == 3) for number in range(20)]
    return write(directory, [*steps, toy_report(steps[-1])])


class TestLogCheck:
    def test_a_whole_log_has_no_faults(self, tmp_path: Path) -> None:
        """Everything is looked at and counted."""
        whole_log(tmp_path)
        check = LogCheck([tmp_path])

        assert [] == list(check.run())
        assert (1, 1, 20, 1) == (
            check.tally.num_partitions,
            check.tally.num_episodes,
            check.tally.num_steps,
            check.tally.num_reports,
        )

    def test_a_log_is_checked_while_it_is_written(self, tmp_path: Path) -> None:
        """The service need not stop for it."""

        async def check_open() -> list[str]:
            step_log = StepLog.open(tmp_path, 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=16384)
            await step_log.append([toy_step(number) for number in range(5000)])
            found = await asyncio.to_thread(faults, tmp_path)
            await step_log.close()
            return found

        assert [] == asyncio.run(check_open())

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("DELETE FROM entries WHERE offset = 8", "offset 9 default/s/r/0/8: step 7 is missing before it"),
            ("DELETE FROM entries WHERE offset <= 3", "offset 4 default/s/r/0/3: steps 0 to 2 are missing before it"),
            ("DELETE FROM entries WHERE offset = 21", "20 steps (19 to learn from) and 1 reports were counted, 20"),
            ("UPDATE entries SET payload = zeroblob(9) WHERE offset = 5", "offset 5: its bytes are not those"),
            ("UPDATE entries SET time_ms = 7 WHERE offset = 5", "offset 5 default/s/r/0/4: what stands beside it"),
            ("UPDATE entries SET is_evaluation = 1 WHERE offset = 5", "offset 5 default/s/r/0/4: what stands beside"),
            ("UPDATE entries SET offset = 99 WHERE offset = 6", "offset 99 default/s/r/0/5: it stands after step 19"),
            ("UPDATE partition SET first_offset = 4", "offset 3 default/s/r/0/2: it stands before the partition's"),
            ("UPDATE models SET num_steps = 21", "21 steps (19 to learn from) and 1 reports were counted, 20 (19)"),
        ],
    )
    def test_each_kind_of_fault_is_named(self, tmp_path: Path, statement: str, expected: str) -> None:
        """With the partition, the offset and the step at which it stands."""
        partition = whole_log(tmp_path)
        change(tmp_path, statement)

        found = faults(tmp_path)

        assert [] != [line for line in found if expected in line], found
        assert all(line.startswith(f"steps-0.sqlite partition {partition}") for line in found)

    def test_a_step_that_is_there_twice_is_named(self, tmp_path: Path) -> None:
        """Also where the index that should forbid it is gone."""
        whole_log(tmp_path)
        columns = "record_key, model, time_ms, kind, form, payload, is_evaluation, checksum"
        change(
            tmp_path,
            "DROP INDEX entries_by_key",
            f"INSERT INTO entries (offset, {columns}) SELECT 99, {columns} FROM entries WHERE offset = 20",
        )

        assert "offset 99 default/s/r/0/19: it is there twice" in "\n".join(faults(tmp_path))

    def test_a_missing_episode_is_named(self, tmp_path: Path) -> None:
        """Episodes of a run count on by one, as steps of an episode do."""
        steps = [toy_step(0) for _ in range(4)]
        for episode, step in enumerate(steps):
            step.step_id.episode = episode + 2 * (episode == 3)
        write(tmp_path, list(steps))

        (fault,) = faults(tmp_path)

        assert fault.endswith("offset 4 default/s/r/5/0: episodes 3 to 4 are missing before it")

    def test_broken_pages_are_told(self, tmp_path: Path) -> None:
        """What SQLite finds wrong with its own structure stands among the faults."""
        whole_log(tmp_path)
        path = partition_path(tmp_path, 0)
        content = bytearray(path.read_bytes())
        content[4096 : 8 * 4096] = b"\xff" * (7 * 4096)
        path.write_bytes(content)

        assert [] != faults(tmp_path)

    def test_what_was_set_aside_is_a_fault(self, tmp_path: Path) -> None:
        """A log from which a database had to be taken is not whole, until a person has seen to it."""
        whole_log(tmp_path)
        partition_path(tmp_path, 0).write_bytes(b"")
        write(tmp_path, [toy_step(0)])

        (fault,) = faults(tmp_path)

        assert "set aside" in fault


class TestPartitions:
    def test_a_step_that_two_partitions_hold_alike_is_counted(self, tmp_path: Path) -> None:
        """A retry that reached another worker is collapsed by readers: no fault."""
        write(tmp_path, [toy_step(number) for number in range(5)])
        write(tmp_path, [toy_step(number) for number in range(4, 9)], worker=1)
        check = LogCheck([tmp_path])

        assert [] == list(check.run())
        assert 1 == check.tally.num_repeated

    def test_a_step_that_was_decided_twice_is_a_fault(self, tmp_path: Path) -> None:
        """One step, two actions: readers would not know which one was taken."""
        write(tmp_path, [toy_step(0, action=0)])
        write(tmp_path, [toy_step(0, action=1)], worker=1)

        (fault,) = faults(tmp_path)

        assert "default/s/r/0/0: it was decided otherwise at steps-0.sqlite" in fault

    def test_an_episode_may_lie_in_several_logs(self, tmp_path: Path) -> None:
        """Sessions move between replicas: their logs together are whole, each alone is not."""
        write(tmp_path / "a", [toy_step(number) for number in (0, 1, 4)])
        write(tmp_path / "b", [toy_step(number) for number in (2, 3, 5)])

        assert [] == faults(tmp_path / "a", tmp_path / "b")
        assert 1 == len(faults(tmp_path / "a"))


class TestVerifyCommand:
    def test_a_whole_log_exits_with_0(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """One line says what was looked at."""
        whole_log(tmp_path / "log")

        assert 0 == log(LogSettings(action=LogAction.VERIFY, data_dir=tmp_path))
        assert capsys.readouterr().out.startswith("1 partitions, 1 episodes, 20 steps, 1 reports; ")

    def test_a_fault_exits_with_1(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """One line a fault, and the number of them at the end."""
        whole_log(tmp_path / "log")
        change(tmp_path / "log", "UPDATE entries SET payload = zeroblob(9) WHERE offset = 20")

        assert 1 == log(LogSettings(action=LogAction.VERIFY, data_dir=tmp_path))
        *lines, last = capsys.readouterr().out.splitlines()
        assert 2 == len(lines)
        assert last.endswith(": 2 faults")

    def test_no_log_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong directory is not a whole log."""
        assert 1 == log(LogSettings(action=LogAction.VERIFY, data_dir=tmp_path / "wrong"))
        assert "there is no log at" in capsys.readouterr().err

    def test_a_copy_that_nobody_may_write_is_checked(self, tmp_path: Path) -> None:
        """Backups are read-only."""
        whole_log(tmp_path / "log")
        shutil.copytree(tmp_path / "log", tmp_path / "copy" / "log")
        for path in (partition_path(tmp_path / "copy" / "log", 0), tmp_path / "copy" / "log"):
            path.chmod(0o555 if path.is_dir() else 0o444)

        assert 0 == log(LogSettings(action=LogAction.VERIFY, data_dir=tmp_path / "copy"))


class TestNumbers:
    @pytest.mark.parametrize("order", [(0, 1, 2, 5, 6), (6, 5, 2, 0, 1), (2, 6, 0, 5, 1), (5, 1, 0, 6, 2)])
    def test_gaps_do_not_depend_on_the_order(self, order: tuple[int, ...]) -> None:
        """Numbers may come as they like."""
        numbers = Numbers()

        assert all(numbers.add(number) for number in order)
        assert [(3, 4)] == list(numbers.gaps())
        assert not any(numbers.add(number) for number in order)
