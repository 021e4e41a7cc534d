"""What carries one agent's questions to a server."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told when a question may be asked, was answered, or cannot be."""

    on_ready: Callable[[], None]
    on_answer: Callable[[bytes], None]
    on_failure: Callable[[str], None]


class Connection(asyncio.Protocol, ABC):
    """Carries one question at a time."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None

    @abstractmethod
    def ask(self, question: bytes) -> None:
        """Send a question. The one before must have been answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no common class
        self._write(self._greeting())
        self._listener.on_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that nothing can be asked any more."""
        self._listener.on_failure(f"the connection was lost: {exc}")

    def _greeting(self) -> bytes:
        return b""

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data:
            self._transport.write(data)


Connect = Callable[[Listener], Connection]
