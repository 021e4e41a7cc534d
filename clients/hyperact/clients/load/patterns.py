"""How calls follow each other. All latencies are in seconds.

A *closed* load keeps a number of calls in flight: each is sent when the one before was answered, so that it finds out
how much a service can do. An *open* load sends at a rate, whatever the answers do, and counts each latency from the
moment at which its call was due: a service that stalls is charged for everybody who would have come meanwhile.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from hyperact.clients.load.agents import LoadAgent
from hyperact.v1.decision_pb2 import ActBatchRequest, ActResult, ActStreamRequest

Send = Callable[[Sequence[LoadAgent]], Coroutine[Any, Any, None]]


class RowError(Exception):
    """A request of a batch that was refused."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Tally:
    """What came of some load.

    Attributes:
        num_decisions: steps that were decided.
        latencies: of each call that was answered, in seconds.
        errors: failed calls by status code.
        message: what the last of them said.
    """

    num_decisions: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    message: str = ""


async def closed(groups: Sequence[Sequence[LoadAgent]], make_send: Callable[[], Send], seconds: float) -> Tally:
    """Keep one call of each group of agents in flight for some seconds."""
    tally, end = Tally(), time.perf_counter() + seconds

    async def play(group: Sequence[LoadAgent]) -> None:
        send = make_send()
        while (due := time.perf_counter()) < end:
            await _call(send, group, due, tally)

    await asyncio.gather(*map(play, groups))
    return tally


async def opened(
    groups: Sequence[Sequence[LoadAgent]], make_send: Callable[[], Send], seconds: float, rate: float, seed: int
) -> Tally:
    """Send `rate` calls a second for some seconds, at exponential distances; the groups take turns.

    A group whose call is under way when its turn comes sends the next one right after: one session's steps come one
    after the other, and what that costs counts.
    """
    tally, random = Tally(), np.random.default_rng(seed)
    locks = [(asyncio.Lock(), group, make_send()) for group in groups]
    calls: set[asyncio.Task[None]] = set()

    async def play(lock: asyncio.Lock, group: Sequence[LoadAgent], send: Send, due: float) -> None:
        async with lock:
            await _call(send, group, due, tally)

    due = begin = time.perf_counter()
    place = 0
    while due < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.ensure_future(play(*locks[place % len(locks)], due))
        calls.add(task)
        task.add_done_callback(calls.discard)
        place, due = place + 1, due + random.exponential(1 / rate)
    await asyncio.gather(*calls)
    return tally


async def _call(send: Send, group: Sequence[LoadAgent], due: float, tally: Tally) -> None:
    try:
        await send(group)
    except grpc.aio.AioRpcError as error:
        tally.errors[error.code().name] += 1
        tally.message = error.details() or ""
        await asyncio.sleep(0.01)
    except RowError as error:
        tally.errors[_names.get(error.code, str(error.code))] += 1
        tally.message = str(error)
        await asyncio.sleep(0.01)
    else:
        tally.latencies.append(time.perf_counter() - due)
        tally.num_decisions += len(group)


def by_act(stub: Any) -> Send:
    """Return what sends a single agent's step by Act."""

    async def send(group: Sequence[LoadAgent]) -> None:
        (agent,) = group
        agent.take(await stub.Act(agent.request()))

    return send


def by_batch(stub: Any) -> Send:
    """Return what sends a step of several agents by ActBatch."""

    async def send(group: Sequence[LoadAgent]) -> None:
        answer = await stub.ActBatch(ActBatchRequest(requests=[agent.request() for agent in group]))
        _take(group, answer.results)

    return send


def by_stream(stub: Any) -> Send:
    """Return what sends a step of several agents on a stream of its own, opened by the first call."""
    call: Any = None

    async def send(group: Sequence[LoadAgent]) -> None:
        nonlocal call
        if call is None or call.done():
            call = stub.ActStream()
        await call.write(ActStreamRequest(requests=[agent.request() for agent in group]))
        answer = await call.read()
        if answer is grpc.aio.EOF:
            raise RowError(grpc.StatusCode.UNAVAILABLE.value[0], "the service ended the stream")
        _take(group, answer.results)

    return send


_names = {code.value[0]: code.name for code in grpc.StatusCode}


def _take(group: Sequence[LoadAgent], results: Sequence[ActResult]) -> None:
    for agent, result in zip(group, results, strict=True):
        if result.HasField("error"):
            raise RowError(result.error.code, result.error.message)
        agent.take(result.response)
