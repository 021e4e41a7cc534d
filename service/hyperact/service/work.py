"""How much is in work, how much may be, and whether new work is taken in."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from hyperact.service.errors import ExhaustedError, UnavailableError

busy_retry_seconds = 0.05
draining_retry_seconds = 1.0


class Work:
    """Counts requests between their admission and their answer.

    Attributes:
        num: requests in work.
    """

    def __init__(self, limit: int) -> None:
        self.num = 0
        self._limit = limit
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self) -> None:
        """Raise UnavailableError while draining, ExhaustedError when the limit is reached."""
        if self._is_draining:
            raise UnavailableError(
                "the service is shutting down", reason="DRAINING", retry_delay_seconds=draining_retry_seconds
            )
        if self.num >= self._limit:
            message = f"{self.num} requests are in work, the limit"
            raise ExhaustedError(message, reason="QUEUE_FULL", retry_delay_seconds=busy_retry_seconds)

    def begin(self) -> None:
        """Count one in."""
        self.num += 1
        self._idle.clear()

    def end(self) -> None:
        """Count one out."""
        self.num -= 1
        if not self.num:
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
