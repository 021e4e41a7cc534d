"""Rows of many requests gather into batches, one model call and one log append each.

The rules:

1. A batch closes at once when it is full.
2. A batch that holds as many rows as are *expected* closes when nothing else is waiting: the event loop turned and
   brought no row. One row is expected of a lone client, so it never waits; under load as many as came within the last
   `wait_seconds` before the batch was opened.
3. A batch closes `wait_seconds` after its first row, whatever was expected.
4. While as many batches run as may, the next one gathers. So one batch is decided while another is being logged.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

RowT = TypeVar("RowT")
num_idle_turns = 2


class Batcher(Generic[RowT]):
    """Gathers the rows of one version. Used from the event loop only.

    Args:
        run: takes a closed batch; it must not raise, and must tell by `finished` when the batch is over.
        max_rows: how many rows close a batch at once.
        wait_seconds: the longest that a batch stays open while not too many run.
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
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._arrivals = Arrivals(wait_seconds)

    @property
    def num_waiting(self) -> int:
        """Rows in the open batch."""
        return len(self._rows)

    @property
    def is_idle(self) -> bool:
        """Whether no row waits and no batch runs."""
        return not self._rows and not self._num_running

    def add(self, row: RowT) -> None:
        """Put a row into the open batch."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._arrivals.count(now)
        if not self._rows:
            self._deadline = now + self._wait_seconds
        self._rows.append(row)
        if len(self._rows) >= self._max_rows:
            self._close()
        elif self._is_turning:
            pass
        elif len(self._rows) >= self._arrivals.expected:
            self._is_turning = True
            loop.call_soon(self._turn, loop, len(self._rows), 0)
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_seconds, self._close)

    def finished(self) -> None:
        """Note that a batch is over."""
        self._num_running -= 1
        if self._rows and self._timer is None and not self._is_turning:
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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._num_running >= self._max_running:
            return
        batch, self._rows = self._rows[: self._max_rows], self._rows[self._max_rows :]
        self._num_running += 1
        self._run(batch)


class Arrivals:
    """How many rows came within the last full window of time.

    Attributes:
        expected: that number; at least 1.
    """

    def __init__(self, window_seconds: float) -> None:
        self.expected = 1
        self._window_seconds = window_seconds
        self._begin = 0.0
        self._num = 0

    def count(self, now: float) -> None:
        """Note that a row came."""
        elapsed = now - self._begin
        if elapsed >= self._window_seconds:
            self.expected = max(1, self._num) if elapsed < 2 * self._window_seconds else 1
            self._begin, self._num = now, 0
        self._num += 1
