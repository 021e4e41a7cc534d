"""Agents that ask as fast as they are answered, each on a connection of its own, and how long the answers took."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import uvloop
from benchmarks.peers.connection import Connect, Listener

WARM_UP_SHARE = 0.25


class AskError(Exception):
    """A question had no answer."""


class Agent(Protocol):
    """Somebody who asks."""

    def request(self) -> bytes:
        """Return the next question."""

    def take(self, answer: bytes) -> None:
        """Take in the answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of some load.

    Attributes:
        messages_per_second: questions answered.
        p50_ms, p99_ms: how long an answer took.
        generator_share: the share of its core that the load generator used; near 1 it was the limit, not the server.
    """

    messages_per_second: float
    p50_ms: float
    p99_ms: float
    generator_share: float


class _Asker:
    """One agent and its connection."""

    def __init__(self, agent: Agent, connect: Connect, latencies: list[float], end: "asyncio.Future[None]") -> None:
        self._agent, self._latencies, self._end = agent, latencies, end
        self._connection = connect(Listener(self._ask, self._take, self._fail))
        self._asked = 0.0

    def as_protocol(self) -> asyncio.Protocol:
        """Return what the event loop wants to be given."""
        return self._connection

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._connection.ask(self._agent.request())

    def _take(self, answer: bytes) -> None:
        self._latencies.append(time.perf_counter() - self._asked)
        try:
            self._agent.take(answer)
        except Exception as error:  # noqa: BLE001  # an answer may be anything
            self._fail(f"{type(error).__name__}: {error}")
        if not self._end.done():
            self._ask()

    def _fail(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_exception(AskError(reason))


def ask_once(port: int, agent: Agent, connect: Connect, timeout_seconds: float) -> None:
    """Let an agent ask one question and take the answer.

    Raises:
        AskError: there was none in time, or the agent did not like it.
    """
    uvloop.run(_ask_once(port, agent, connect, timeout_seconds))


async def _ask_once(port: int, agent: Agent, connect: Connect, timeout_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()

    def take(answer: bytes) -> None:
        if not answered.done():
            answered.set_result(answer)

    def fail(reason: str) -> None:
        if not answered.done():
            answered.set_exception(AskError(reason))

    try:
        protocol = connect(Listener(lambda: protocol.ask(agent.request()), take, fail))
        transport, _ = await loop.create_connection(lambda: protocol, "127.0.0.1", port)
    except OSError as error:
        raise AskError(f"cannot connect: {error}") from None
    try:
        answer = await asyncio.wait_for(answered, timeout_seconds)
    except TimeoutError:
        raise AskError(f"no answer in {timeout_seconds:g} s") from None
    finally:
        transport.abort()
    agent.take(answer)


def measure(port: int, agents: Sequence[Agent], connect: Connect, seconds: float) -> Found:
    """Let every agent ask for some seconds, after a quarter of them to warm up.

    Raises:
        AskError: a question had no answer.
    """
    return uvloop.run(_measure(port, agents, connect, seconds))


async def _measure(port: int, agents: Sequence[Agent], connect: Connect, seconds: float) -> Found:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    latencies: list[float] = []
    askers = [_Asker(agent, connect, latencies, end) for agent in agents]
    made: list[asyncio.BaseTransport] = []
    try:
        made += [(await loop.create_connection(asker.as_protocol, "127.0.0.1", port))[0] for asker in askers]
        await asyncio.wait([end], timeout=WARM_UP_SHARE * seconds)
        latencies.clear()
        began, busy = time.perf_counter(), time.process_time()
        await asyncio.wait([end], timeout=seconds)
        took, busy = time.perf_counter() - began, time.process_time() - busy
        if end.done():
            end.result()
        found = latencies[:]
    finally:
        end.cancel()
        for transport in made:
            transport.close()
    if not found:
        raise AskError(f"no answer in {seconds:g} s")
    p50, p99 = np.percentile(found, [50, 99]) * 1e3
    return Found(len(found) / took, float(p50), float(p99), busy / took)
