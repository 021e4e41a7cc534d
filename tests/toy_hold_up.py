"""A worker whose model calls are held up, so that rows gather: for a worker with `inference_threads=1`."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from toy_worker import RunningWorker, make_request

num_running = 2
"""Batches that are under way at a time with one inference thread; the rows of later calls gather."""


async def until(condition: Callable[[], bool]) -> None:
    """Return once something holds that the event loop brings about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 it is the event loop's own doing that is waited for
            await asyncio.sleep(0.005)


def gathering(service: RunningWorker) -> list[Any]:
    """Return the rows that wait for a batch of their own."""
    lanes = service.worker._data_plane._pipeline.lanes._lanes.values()
    return [row for open_lane in lanes for row in open_lane.batcher._rows]


@asynccontextmanager
async def held_up(service: RunningWorker) -> AsyncIterator[threading.Event]:
    """Keep the one inference thread busy until the event is set, with as many batches behind it as may run."""
    release = threading.Event()
    threads = service.worker._data_plane._pipeline._threads
    assert threads is not None
    threads.submit(release.wait)
    firsts = []
    try:
        for number in range(num_running):
            firsts.append(asyncio.ensure_future(service.decision.Act(make_request(f"first-{number}"))))
            await until(lambda: service.worker._data_plane.num_in_work == len(firsts) and not gathering(service))
        yield release
    finally:
        release.set()
        await asyncio.gather(*firsts)
