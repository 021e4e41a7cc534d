"""Rows of many requests gather into batches, one model call and one log append each.

The rules:

1. A batch closes at once when it is full.
2. A batch that holds as many rows as are *expected* closes when nothing else is waiting: the event loop turned and
   brought no row. One row is expected of a lone client, so it never waits. Once rows had to wait for a batch that was
   under way, everybody is expected who was there: those of that batch, who are answered now and come again, and those
   who gathered meanwhile. So the batches grow until all that are in flight share one.
3. A batch closes `wait_seconds` after its first row, whatever was expected, unless too many run.
4. While as many batches run as may, the next one gathers.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

RowT = TypeVar("RowT")
num_idle_turns = 2
num_alternating = 2
"""So few take turns: one is decided and logged while the other is on its way, and neither waits."""


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
        self._crowd = Crowd(wait_seconds)

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
        self._rows.append(row)
        if len(self._rows) >= self._max_rows:
            self._close()
        elif not self._is_turning and self._num_running < self._max_running:
            self._gather()

    def finished(self, num_rows: int) -> None:
        """Note that a batch of so many rows is over."""
        self._num_running -= 1
        self._crowd.count(num_rows, len(self._rows), asyncio.get_running_loop().time())
        if len(self._rows) >= self._max_rows:
            self._close()
        elif self._rows and not self._is_turning:
            self._gather()

    def _gather(self) -> None:
        """See whether the open batch holds all who are expected; else close it when the time is up."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._deadline = now + self._wait_seconds
        if len(self._rows) >= self._crowd.expected(now):
            self._is_turning = True
            loop.call_soon(self._turn, loop, len(self._rows), 0)
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_seconds, self._close)

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


class Crowd:
    """How many rows may be expected, by those who were there when a batch was over. Pure."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._num = 1
        self._until = 0.0

    def count(self, num_answered: int, num_gathered: int, now: float) -> None:
        """Note that a batch was over while others had gathered."""
        num = num_answered + num_gathered
        self._num = num if num > num_alternating else 1
        self._until = now + self._keep_seconds

    def expected(self, now: float) -> int:
        """Return how many rows an open batch may wait for: those there were a moment ago; at least 1."""
        return self._num if now < self._until else 1
