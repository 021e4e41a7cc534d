"""Blocking calls that may hang, each in a thread of its own, with a deadline.

A call that is over its deadline, or that nobody waits for any more, is left behind: its thread ends when the call does,
or with the process. So many may be left behind at a time; then further calls fail at once.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class TooManyHangError(Exception):
    """Earlier calls still wait for their answers."""


class PatientCalls:
    """Runs blocking functions.

    Args:
        name: of the threads.
        max_hanging: how many calls that nobody waits for may be under way.

    Attributes:
        num_hanging: how many are.
    """

    def __init__(self, name: str, max_hanging: int) -> None:
        self.num_hanging = 0
        self._name = name
        self._max_hanging = max_hanging
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], _Result], seconds: float) -> _Result:
        """Return what a function returns, or raise what it raises.

        Raises TooManyHangError, or TimeoutError when the time is over.
        """
        if self.num_hanging >= self._max_hanging:
            raise TooManyHangError(f"{self.num_hanging} earlier calls still wait for an answer")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()
        ended = threading.Event()
        work = (function, loop, future, ended)
        threading.Thread(target=self._run, args=work, name=self._name, daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                return await future
        finally:
            with self._lock:
                self.num_hanging += not ended.is_set()
                ended.set()

    def _run(
        self,
        function: Callable[[], _Result],
        loop: asyncio.AbstractEventLoop,
        future: "asyncio.Future[_Result]",
        ended: threading.Event,
    ) -> None:
        """Call, and hand the result over. `ended` is set by whoever ends first: the call, or the waiting for it."""
        result: _Result | None = None
        error: Exception | None = None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001 it is raised where the call is waited for
            error = raised
        with self._lock:
            self.num_hanging -= ended.is_set()
            ended.set()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
