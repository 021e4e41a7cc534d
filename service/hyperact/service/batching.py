"""Rows of many requests gather into batches, one model call and one log append each.

A batch closes when it is full, when nothing else is waiting (the event loop turned without bringing a row), or when its
first row has waited for the deadline; but while as many batches run as may, the next one gathers. So a lone request
never waits, one batch is decided while another is being logged, and under load batches grow by themselves.

Rows never mix: a batch is a list, and what becomes of one row is the business of who runs the batch.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

RowT = TypeVar("RowT")
num_idle_turns = 2


class Batcher(Generic[RowT]):
    """Gathers the rows of one version.

    Args:
        run: takes a closed batch; it must not raise, and must tell by `finished` when the batch is over.
        max_rows: how many rows close a batch at once.
        wait_seconds: the longest that a batch stays open while rows keep coming.
        max_running: how many batches may be running.
    """

    def __init__(
        self, run: Callable[[list[RowT]], None], *, max_rows: int, wait_seconds: float, max_running: int
    ) -> None:
        self._run = run
        self._max_rows = max_rows
        self._wait_seconds = wait_seconds
        self._max_running = max_running
        self._rows: list[RowT] = []
        self._num_running = 0
        self._is_turning = False
        self._deadline = 0.0

    @property
    def num_waiting(self) -> int:
        """Rows in the open batch."""
        return len(self._rows)

    @property
    def is_idle(self) -> bool:
        """Whether no row waits and no batch runs."""
        return not self._rows and not self._num_running

    def add(self, row: RowT) -> None:
        """Put a row into the open batch. To be called on the event loop."""
        self._rows.append(row)
        if len(self._rows) >= self._max_rows:
            self._close()
        elif not self._is_turning:
            loop = asyncio.get_running_loop()
            self._is_turning = True
            self._deadline = loop.time() + self._wait_seconds
            loop.call_soon(self._turn, loop, len(self._rows), 0)

    def finished(self) -> None:
        """Note that a batch is over."""
        self._num_running -= 1
        if self._rows and not self._is_turning:
            self._close()

    def _turn(self, loop: asyncio.AbstractEventLoop, num_rows: int, num_idle: int) -> None:
        num_idle = num_idle + 1 if len(self._rows) <= num_rows else 0
        if self._rows and num_idle < num_idle_turns and loop.time() < self._deadline:
            loop.call_soon(self._turn, loop, len(self._rows), num_idle)
            return
        self._is_turning = False
        if self._rows:
            self._close()

    def _close(self) -> None:
        if self._num_running >= self._max_running:
            return
        batch, self._rows = self._rows[: self._max_rows], self._rows[self._max_rows :]
        self._num_running += 1
        self._run(batch)
