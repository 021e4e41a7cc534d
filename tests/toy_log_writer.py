"""Appends steps until it is killed, and says on standard output which ones were acknowledged."""

import asyncio
import sys
from pathlib import Path

from hyperact.service.step_log import Durability, StepLog
from toy_steps import toy_step


async def write(directory: Path, durability: Durability, first: int) -> None:
    """Eight callers at once, each with three steps at a time."""
    log = StepLog.open(directory, 0, durability, min_free_bytes=0, max_queued_records=1000)

    async def call(caller: int) -> None:
        for number in range(first + caller * 100_000, first + (caller + 1) * 100_000, 3):
            await log.append([toy_step(number + place) for place in range(3)])
            sys.stdout.write("".join(f"{number + place}\n" for place in range(3)))
            sys.stdout.flush()

    await asyncio.gather(*(call(caller) for caller in range(8)))


asyncio.run(write(Path(sys.argv[1]), Durability(sys.argv[2]), int(sys.argv[3])))
