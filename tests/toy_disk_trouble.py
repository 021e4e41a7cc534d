"""Makes the disk under a step log refuse for real, and checks what the log does about it.

    toy_disk_trouble.py file_limit|full|read_only DIRECTORY

file_limit: the kernel's limit on a file's size. full: a file system of 2 MiB, made larger afterwards. read_only: a file
system that is mounted so at the start, and not at the next one. The last two need a mount namespace of their own.
"""

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hyperact.service.errors import DecisionError
from hyperact.service.log_reader import LogReader
from hyperact.service.step_log import Durability, StepLog
from toy_steps import toy_step

_, trouble, directory_name = sys.argv
disk = Path(directory_name) / "disk"
noise = np.random.default_rng(0)


def mount(*options: str) -> None:
    subprocess.run(["mount", *options, str(disk)], check=True)


def begin() -> None:
    if trouble == "file_limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))


def end() -> None:
    if trouble == "file_limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        mount("-o", "remount,size=64m")


def open_log() -> StepLog:
    return StepLog.open(disk / "log", 0, Durability.DISK, min_free_bytes=0, max_queued_records=1000)


async def append_until_refused(log: StepLog, first: int) -> tuple[set[int], str]:
    """Return what was acknowledged and why it ended."""
    acknowledged: set[int] = set()
    for number in range(first, first + 500):
        observation = noise.integers(0, 256, 16384, dtype=np.uint8)
        try:
            await log.append([toy_step(number, observation=observation)])
        except DecisionError as error:
            return acknowledged, str(error)
        acknowledged.add(number)
    return acknowledged, ""


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 the log's problem is a value, not an event
            await asyncio.sleep(0.02)


async def fill_and_recover() -> set[int]:
    """Write until it is refused, end the trouble, write on; return what was acknowledged."""
    log = open_log()
    assert await log.append([toy_step(0)]) == [None]
    begin()
    before, reason = await append_until_refused(log, 1)
    assert before, reason
    assert ("disk is full" if trouble == "full" else "cannot be written") in reason, reason
    assert log.problem()
    end()
    await wait_until(lambda: not log.problem())
    after, reason = await append_until_refused(log, 1000)
    assert len(after) == 500, reason
    await log.close()
    return {0} | before | after


async def start_read_only_and_again() -> set[int]:
    """Start on a read-only file system: refused with the reason until it can be written, then all is well."""
    log = open_log()
    assert await log.append([toy_step(0)]) == [None]
    await log.close()
    mount("-o", "remount,ro")
    log = open_log()
    _, reason = await append_until_refused(log, 1)
    assert "cannot open the step log" in reason, reason
    assert log.problem()
    mount("-o", "remount,rw")
    await wait_until(lambda: not log.problem())
    assert await log.append([toy_step(1)]) == [None]
    await log.close()
    return {0, 1}


async def main() -> None:
    disk.mkdir()
    if trouble != "file_limit":
        mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
    acknowledged = await (start_read_only_and_again() if trouble == "read_only" else fill_and_recover())
    reader = LogReader(disk / "log")
    numbers = {
        entry.step.step_id.number
        async for message in reader.read("", {}, is_following=False)
        for entry in message.entries
    }
    assert acknowledged <= numbers, acknowledged - numbers
    sys.stdout.write("survived\n")
    sys.stdout.flush()
    os._exit(0)


asyncio.run(main())
