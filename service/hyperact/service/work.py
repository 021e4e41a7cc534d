"""How much is in work, how much may be, and whether new work is taken in.

Two limits, for two kinds of too much. A number of requests bounds memory. A waiting time bounds latency, whatever a
request costs: when a batch begins whose first row has waited longer, more comes than can be decided, and nothing more
is taken in until half of what is in work is answered; and so on, until batches begin in time or nothing is in work.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

from hyperact.service.errors import ExhaustedError, UnavailableError

busy_retry_seconds = 0.05
draining_retry_seconds = 1.0


class Work:
    """Counts requests between their admission and their answer.

    Args:
        limit: how many may be in work.
        wait_limit_seconds: how long a row may have waited when its batch begins.

    Attributes:
        num: requests in work.
    """

    def __init__(self, limit: int, wait_limit_seconds: float = math.inf) -> None:
        self.num = 0
        self._limit = limit
        self._wait_limit_seconds = wait_limit_seconds
        self._resume_at: int | None = None
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """Raise UnavailableError while draining, ExhaustedError when the number or the wait is at its limit."""
        if self._is_draining:
            raise UnavailableError(
                "the service is shutting down", reason="DRAINING", retry_delay_seconds=draining_retry_seconds
            )
        if self.num >= self._limit:
            message = f"{self.num} requests are in work, the limit"
            raise ExhaustedError(message, reason="QUEUE_FULL", retry_delay_seconds=busy_retry_seconds)
        if self._resume_at is not None and self.num > self._resume_at:
            message = f"requests wait longer than {self._wait_limit_seconds:g} s, the limit"
            raise ExhaustedError(message, reason="QUEUE_SLOW", retry_delay_seconds=busy_retry_seconds)

    def note_wait(self, seconds: float) -> None:
        """Note how long the first row of a batch that begins now has waited."""
        if seconds <= self._wait_limit_seconds:
            self._resume_at = None
        elif self._resume_at is None or self.num <= self._resume_at:
            self._resume_at = self.num // 2

    def begin(self) -> None:
        """Count one in."""
        self.num += 1
        self._idle.clear()

    def end(self) -> None:
        """Count one out."""
        self.num -= 1
        if not self.num:
            self._resume_at = None
            self._idle.set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one in and out."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def refuse_new(self) -> None:
        """Refuse what comes from now on."""
        self._is_draining = True

    async def drained(self) -> None:
        """Return when nothing is in work."""
        await self._idle.wait()
