"""One measurement: a way of calling, how much of it, for how long; and what it found."""

import asyncio
import multiprocessing
import secrets
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from hyperact.clients.addresses import to_target
from hyperact.clients.connection import channel_options
from hyperact.clients.load import patterns
from hyperact.clients.load.agents import LoadAgent
from hyperact.v1.channels import ConnectionSettings, open_aio_channel
from hyperact.v1.decision_pb2 import GetSpecRequest
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub

warm_up_share = 0.2
_senders = {"act": patterns.by_act, "batch": patterns.by_batch, "stream": patterns.by_stream}


class Way(StrEnum):
    """How steps are sent."""

    ACT = "act"
    BATCH = "batch"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Attributes:
        way: how steps are sent.
        num_rows: steps in a message; 1 for Act.
        in_flight: messages under way at a time; for an open load, how many groups of sessions take turns.
        rate: messages a second; 0: as many as are answered.
    """

    way: Way
    num_rows: int
    in_flight: int
    rate: float = 0.0

    def __str__(self) -> str:
        """Return how a person says it."""
        name = {Way.ACT: "Act", Way.BATCH: "ActBatch", Way.STREAM: "ActStream"}[self.way]
        rows = f"({self.num_rows})" if self.num_rows > 1 else ""
        load = f"{self.rate:,.0f}/s offered" if self.rate else f"{self.in_flight} in flight"
        return f"{name}{rows}, {load}"


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a case.

    Attributes:
        decisions_per_second: steps decided.
        p50_ms, p99_ms: latencies of messages; NaN if none was answered.
        num_errors: messages that failed, by status code.
        message: what the last of these said.
    """

    decisions_per_second: float
    p50_ms: float
    p99_ms: float
    num_errors: dict[str, int]
    message: str


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask for what."""

    address: str
    model: str = ""
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)


def measure(target: Target, case: Case, seconds: float, num_processes: int) -> Found:
    """Put a load on a service, split over processes, and return what came of it.

    One process can send about as much as one worker can answer; so for several workers several are needed.
    """
    num_processes = min(num_processes, case.in_flight)
    shares = [
        Case(case.way, case.num_rows, len(range(part, case.in_flight, num_processes)), case.rate / num_processes)
        for part in range(num_processes)
    ]
    if num_processes == 1:
        tallies = [run_share(target, shares[0], seconds, 0)]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
            calls = [pool.submit(run_share, target, share, seconds, n) for n, share in enumerate(shares)]
            tallies = [call.result() for call in calls]
    return _sum_up(tallies, seconds)


def run_share(target: Target, case: Case, seconds: float, seed: int) -> patterns.Tally:
    """Put one process's share of a load on a service."""
    runner = asyncio.Runner(loop_factory=_loop_factory())
    with runner:
        return runner.run(_run_share(target, case, seconds, seed))


async def _run_share(target: Target, case: Case, seconds: float, seed: int) -> patterns.Tally:
    async with open_aio_channel(to_target(target.address), target.connection, channel_options) as channel:
        stub: Any = DecisionServiceStub(channel)
        spec = (await stub.GetSpec(GetSpecRequest(model=target.model))).spec
        prefix = f"load-{secrets.token_hex(4)}"
        groups = [
            [
                LoadAgent(f"{prefix}-{group}-{row}", target.model, spec, seed=group * case.num_rows + row)
                for row in range(case.num_rows)
            ]
            for group in range(case.in_flight)
        ]
        make_send = lambda: _senders[case.way](stub)  # noqa: E731
        await patterns.closed(groups, make_send, warm_up_share * seconds)
        if case.rate:
            return await patterns.opened(groups, make_send, seconds, case.rate, seed)
        return await patterns.closed(groups, make_send, seconds)


def _sum_up(tallies: Sequence[patterns.Tally], seconds: float) -> Found:
    latencies = np.array([latency for tally in tallies for latency in tally.latencies])
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3 if latencies.size else (np.nan, np.nan)
    errors = sum((tally.errors for tally in tallies), Counter[str]())
    return Found(
        decisions_per_second=sum(tally.num_decisions for tally in tallies) / seconds,
        p50_ms=float(p50),
        p99_ms=float(p99),
        num_errors=dict(errors),
        message=next((tally.message for tally in tallies if tally.message), ""),
    )


def to_row(case: Case, repeat: int, found: Found) -> dict[str, Any]:
    """Return a result as a row of a table."""
    row = {**asdict(case), "repeat": repeat, **asdict(found), "num_errors": sum(found.num_errors.values())}
    row["errors"] = " ".join(f"{code}:{number}" for code, number in sorted(found.num_errors.items()))
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}


def _loop_factory() -> Any:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
