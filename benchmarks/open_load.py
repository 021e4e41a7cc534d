"""An open load from a process of its own: steps sent at a rate, whatever becomes of them, one row a step.

Each call is due at a moment of a Poisson process, and its latency counts from there: a service that stalls is charged
for everybody who would have come meanwhile. A call carries the step of one session, by Act, or of several, by ActBatch.
It takes idle sessions; if there are none new ones come, up to a number. Beyond it calls wait, which counts as latency.
"""

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from numpy.typing import NDArray

from hyperact.clients.load.agents import random_observation
from hyperact.v1.decision_pb2 import ActBatchRequest, ActError, ActRequest, ActResponse, ActResult, GetSpecRequest
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.model_pb2 import ModelSpec

CALL = np.dtype(
    [
        ("due", "f8"),  # Unix seconds
        ("latency", "f8"),  # seconds, from when it was due
        ("sent", "f8"),  # seconds from when it was due until it was sent: the load's own lateness
        ("code", "i4"),  # of gRPC; 0: answered
        ("phase", "i4"),
        ("session", "i8"),
        ("episode", "i8"),
        ("number", "i8"),
        ("version", "i8"),
    ]
)
MEAN_EPISODE = 20
START_SECONDS = 60.0


@dataclass(frozen=True)
class Phase:
    """So many seconds at so many calls a second, of so many steps each."""

    seconds: float
    rate: float
    num_steps: int = 1


@dataclass(frozen=True)
class Gates:
    """What the sender tells, and is told."""

    started: Event
    stop: Event


class Player:
    """One session that carries its token, in episodes of random length."""

    def __init__(self, number: int, prefix: str, spec: ModelSpec) -> None:
        self.number = number
        self._random = np.random.default_rng(number)
        self.request = ActRequest(session=f"{prefix}-{number}", observation=random_observation(spec, number % 64))

    def take(self, answer: ActResponse) -> None:
        """Take in an answer: its token and an outcome go into the next request."""
        self.request.token = answer.token
        self.request.outcome.reward = 0.0
        self.request.outcome.terminated = bool(self._random.random() < 1 / MEAN_EPISODE)


class OpenLoad:
    """Sends by a schedule and keeps a row of every call."""

    def __init__(self, stub: Any, spec: ModelSpec, prefix: str, timeout_seconds: float, max_sessions: int) -> None:
        self._stub = stub
        self._spec = spec
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds
        self._max_sessions = max_sessions
        self._idle: asyncio.Queue[Player] = asyncio.Queue()
        self._num_players = 0
        self._calls: set[asyncio.Task[None]] = set()
        self.rows: list[tuple[float | int, ...]] = []
        self.messages: Counter[str] = Counter()

    async def run(self, phases: Sequence[Phase], gates: "Gates", seed: int = 0) -> None:
        """Send through all phases, or until told to stop, and wait for the last answers."""
        loop = asyncio.get_running_loop()
        random = np.random.default_rng(seed)
        to_unix = time.time() - loop.time()
        gates.started.set()
        end = due = loop.time()
        for place, phase in enumerate(phases):
            end += phase.seconds
            while due < end and not gates.stop.is_set():
                await asyncio.sleep(max(0.0, due - loop.time()))
                self._send(place, phase.num_steps, due, to_unix)
                due += random.exponential(1 / phase.rate)
        await asyncio.gather(*self._calls)

    def _send(self, phase: int, num_steps: int, due: float, to_unix: float) -> None:
        task = asyncio.ensure_future(self._call(num_steps, phase, due, to_unix))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _next_player(self) -> Player:
        if not self._idle.empty() or self._num_players >= self._max_sessions:
            return await self._idle.get()
        self._num_players += 1
        return Player(self._num_players, self._prefix, self._spec)

    async def _call(self, num_steps: int, phase: int, due: float, to_unix: float) -> None:
        loop = asyncio.get_running_loop()
        sent = loop.time() - due
        players = [await self._next_player() for _ in range(num_steps)]
        try:
            results = await self._ask([player.request for player in players])
        except grpc.aio.AioRpcError as error:
            self.messages[f"{error.code().name}: {error.details()}"] += 1
            results = [ActResult(error=ActError(code=int(error.code().value[0])))] * len(players)
        latency = loop.time() - due
        for player, result in zip(players, results, strict=True):
            place = (-1, -1, -1)
            if not result.HasField("error"):
                answer = result.response
                place = answer.step_id.episode, answer.step_id.number, int(answer.version or 0)
                player.take(answer)
            self.rows.append((due + to_unix, latency, sent, result.error.code, phase, player.number, *place))
            self._idle.put_nowait(player)

    async def _ask(self, requests: Sequence[ActRequest]) -> Sequence[ActResult]:
        if len(requests) > 1:
            answer = await self._stub.ActBatch(ActBatchRequest(requests=requests), timeout=self._timeout_seconds)
            results: Sequence[ActResult] = answer.results
            return results
        return [ActResult(response=await self._stub.Act(requests[0], timeout=self._timeout_seconds))]


async def _run(
    address: str, phases: Sequence[Phase], gates: Gates, timeout_seconds: float, max_sessions: int
) -> NDArray[Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = DecisionServiceStub(channel)
        spec = (await stub.GetSpec(GetSpecRequest())).spec
        load = OpenLoad(stub, spec, f"open-{os.getpid()}", timeout_seconds, max_sessions)
        await load.run(phases, gates)
    for message, number in load.messages.most_common(5):
        print(f"{number} calls failed: {message}", flush=True)
    return np.array(load.rows, CALL)


def send_load(
    address: str,
    phases: Sequence[Phase],
    gates: Gates,
    path: Path,
    timeout_seconds: float,
    max_sessions: int,
    core: int | None,
) -> None:
    """Be the process that sends; the rows go to a file of NumPy's."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    np.save(path, uvloop.run(_run(address, phases, gates, timeout_seconds, max_sessions)))


@contextmanager
def loading(
    address: str,
    phases: Sequence[Phase],
    path: Path,
    *,
    timeout_seconds: float = 20.0,
    max_sessions: int = 100_000,
    core: int | None = None,
) -> Iterator[multiprocessing.process.BaseProcess]:
    """Send until the block ends or the phases do; afterwards the rows are in the file. The load is on in the block."""
    context = multiprocessing.get_context("spawn")
    gates = Gates(context.Event(), context.Event())
    sender = context.Process(target=send_load, args=(address, phases, gates, path, timeout_seconds, max_sessions, core))
    sender.start()
    try:
        gates.started.wait(START_SECONDS)
        yield sender
    finally:
        gates.stop.set()
        sender.join()
    if sender.exitcode:
        raise SystemExit("the load ended with an error")
