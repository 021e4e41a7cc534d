"""What the client's pure core asks of the world, and the two ways to run it.

The core is written as generators. Each yields a `Call` or a `Sleep` and is sent the answer, or has the call's
ClientError thrown in; what it returns is the result. So sync and asyncio clients share every rule, and a test plays
the world by hand.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from hyperact.clients.errors import ClientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of DecisionService. `method` is the rpc's name; `timeout_seconds` how long to wait for it."""

    method: str
    request: Any
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause before the next attempt."""

    seconds: float


Effects = Generator[Call | Sleep, Any, T]


def run(effects: Effects[T], call: Callable[[Call], Any]) -> T:
    """Run the core, blocking. `call` sends one request; it raises ClientError."""
    try:
        effect = next(effects)
        while True:
            try:
                answer = _answer(effect, call)
            except ClientError as error:
                effect = effects.throw(error)
            else:
                effect = effects.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def run_async(effects: Effects[T], call: Callable[[Call], Awaitable[Any]]) -> T:
    """Run the core on the event loop. `call` sends one request; it raises ClientError."""
    try:
        effect = next(effects)
        while True:
            try:
                answer = await (call(effect) if isinstance(effect, Call) else asyncio.sleep(effect.seconds))
            except ClientError as error:
                effect = effects.throw(error)
            else:
                effect = effects.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _answer(effect: Call | Sleep, call: Callable[[Call], Any]) -> Any:
    if isinstance(effect, Call):
        return call(effect)
    time.sleep(effect.seconds)
    return None
