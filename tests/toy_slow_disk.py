"""Appends faster than a slow disk syncs, and says what became of every step.

    SLOW_DISK_MS=200 LD_PRELOAD=slow_disk.so toy_slow_disk.py DIRECTORY

On standard output, a line each: "acknowledged NUMBER", "refused REASON" or, at the end, "slowest MILLISECONDS".
"""

import asyncio
import sys
import time
from pathlib import Path

from hyperact.service.errors import DecisionError
from hyperact.service.step_log import Durability, StepLog
from toy_steps import toy_step

num_callers, num_rounds = 40, 5


async def main(directory: Path) -> None:
    log = StepLog.open(directory, 0, Durability.DISK, min_free_bytes=0, max_queued_records=30)
    slowest_seconds = 0.0

    async def call(caller: int) -> None:
        nonlocal slowest_seconds
        for number in range(caller * num_rounds, (caller + 1) * num_rounds):
            begun = time.monotonic()
            try:
                await log.append([toy_step(number, session=str(number))])
                told = f"acknowledged {number}"
                slowest_seconds = max(slowest_seconds, time.monotonic() - begun)
            except DecisionError as error:
                told = f"refused {error.reason} {type(error).__name__}"
            sys.stdout.write(f"{told}\n")
            sys.stdout.flush()

    await asyncio.gather(*(call(caller) for caller in range(num_callers)))
    sys.stdout.write(f"slowest {round(1000 * slowest_seconds)}\n")
    await log.close()


asyncio.run(main(Path(sys.argv[1])))
