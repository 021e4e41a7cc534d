"""Decisions per second of one worker on one core, everything on, beside a bare gRPC echo in the same run.

    python benchmarks/serving.py --output benchmarks/results

The service runs pinned to one core with durability `disk`, tokens, propensities and metrics; the load comes from a
process on another core that carries each session's token as a real client does. The echo server is grpc.aio under
uvloop and answers the same requests with bytes of the same size, without looking at them: it is the ceiling of this
transport. Each figure is the median of the repeats. Results go to serving.csv, one row a repeat.
"""

import argparse
import asyncio
import csv
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActBatchResponse,
    ActRequest,
    ActResponse,
    ActStreamRequest,
    ActStreamResponse,
)
from hyperact.v1.tensors import to_tensor

SERVICE = "/hyperact.v1.DecisionService/"
MODELS = {
    "DeepSea-20 MLP": (
        ["--env", "hyperact.clients.deep_sea:hyperact/DeepSea-v0", "--env-kwargs", '{"size": 20}'],
        (20, 20),
    ),
    "Atari torso": (["--env", "ALE/Freeway-v5"], (4, 84, 84)),
}
SERVER_CORE, LOAD_CORE = 0, 1
ROWS = 32


class Agent:
    """One session's requests as bytes, with the token of the last answer."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        observation = np.random.default_rng(len(name)).integers(0, 2, shape, dtype=np.uint8)
        self._request = ActRequest(session=name, observation=to_tensor(observation))

    def request(self) -> ActRequest:
        return self._request

    def take(self, response: ActResponse) -> None:
        self._request.token = response.token


async def unary(channel: grpc.aio.Channel, agents: list[Agent], stop_time: float) -> int:
    """Keep one call of each agent in flight; return the decisions made."""
    act = channel.unary_unary(SERVICE + "Act", ActRequest.SerializeToString, ActResponse.FromString)

    async def play(agent: Agent) -> int:
        num_decisions = 0
        while time.perf_counter() < stop_time:
            agent.take(await act(agent.request()))
            num_decisions += 1
        return num_decisions

    return sum(await asyncio.gather(*map(play, agents)))


async def batch(channel: grpc.aio.Channel, agents: list[Agent], stop_time: float) -> int:
    """Keep one message of each group of 32 agents in flight; return the rows decided."""
    act = channel.unary_unary(SERVICE + "ActBatch", ActBatchRequest.SerializeToString, ActBatchResponse.FromString)

    async def play(group: list[Agent]) -> int:
        num_rows = 0
        while time.perf_counter() < stop_time:
            answer = await act(ActBatchRequest(requests=[agent.request() for agent in group]))
            for agent, result in zip(group, answer.results, strict=True):
                agent.take(result.response)
            num_rows += len(group)
        return num_rows

    return sum(await asyncio.gather(*map(play, groups_of(agents, ROWS))))


async def stream(channel: grpc.aio.Channel, agents: list[Agent], stop_time: float, rows: int = 1) -> int:
    """Keep one message of each group in flight on a stream of its own; return the rows decided."""
    act = channel.stream_stream(SERVICE + "ActStream", ActStreamRequest.SerializeToString, ActStreamResponse.FromString)

    async def play(group: list[Agent]) -> int:
        num_rows = 0
        call = act()
        while time.perf_counter() < stop_time:
            await call.write(ActStreamRequest(batch_id=num_rows, requests=[agent.request() for agent in group]))
            answer: Any = await call.read()
            for agent, result in zip(group, answer.results, strict=True):
                agent.take(result.response)
            num_rows += len(group)
        await call.done_writing()
        return num_rows

    return sum(await asyncio.gather(*map(play, groups_of(agents, rows))))


def groups_of(agents: list[Agent], size: int) -> list[list[Agent]]:
    return [agents[start : start + size] for start in range(0, len(agents), size)]


Load = Callable[[grpc.aio.Channel, list[Agent], float], Awaitable[int]]
# name, load, sessions: a case is one way of calling at one concurrency.
CASES: list[tuple[str, Load, int]] = [
    ("Act, 1 in flight", unary, 1),
    ("Act, 16 in flight", unary, 16),
    ("Act, 64 in flight", unary, 64),
    ("ActStream, 16 in flight", stream, 16),
    ("ActStream, 64 in flight", stream, 64),
    ("ActBatch(32), 2 in flight", batch, 64),
]


async def measure(
    address: str, load: Load, num_sessions: int, shape: tuple[int, ...], seconds: float, tag: str
) -> float:
    """Return decisions per second over `seconds`, after a tenth of it to warm up."""
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        agents = [Agent(f"{tag}-{number}", shape) for number in range(num_sessions)]
        await load(channel, agents, time.perf_counter() + seconds / 10)
        start = time.perf_counter()
        num_decisions = await load(channel, agents, start + seconds)
        return num_decisions / (time.perf_counter() - start)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """Run a server pinned to its core until the block ends."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(["taskset", "-c", str(SERVER_CORE), *command], stdout=output, stderr=output)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


async def serve_echo(address: str) -> None:
    """Answer every method with a fixed response of a real one's size, without parsing anything."""
    token = b"t" * 96
    one = ActResponse(action=1, version="1", deployment=1, propensity=0.5, margin=0.1, token=token)
    rows = ActBatchResponse()
    for _ in range(ROWS):
        rows.results.add().response.CopyFrom(one)
    single_row = ActStreamResponse()
    single_row.results.add().response.CopyFrom(one)
    answers = {"Act": one.SerializeToString(), "ActBatch": rows.SerializeToString()}

    async def answer_stream(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        answer = single_row.SerializeToString()
        async for _request in requests:
            yield answer

    def answer_unary(answer: bytes) -> Any:
        async def handle(_request: bytes, _context: Any) -> bytes:
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)

    handlers = {name: answer_unary(answer) for name, answer in answers.items()}
    handlers["ActStream"] = grpc.stream_stream_rpc_method_handler(answer_stream)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hyperact.v1.DecisionService", handlers),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def serve_command(data_dir: Path, address: str) -> list[str]:
    return [
        *(sys.executable, "-m", "hyperact.command_line", "serve", "--data-dir", str(data_dir)),
        *("--address", address, "--metrics-address", "127.0.0.1:0", "--durability", "disk"),
    ]


def make_version(arguments: list[str], data_dir: Path) -> None:
    command = [sys.executable, "-m", "hyperact.command_line", "init", "--data-dir", str(data_dir), "--promote"]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)


def wait_until_ready(address: str, data_dir: Path) -> None:
    command = [sys.executable, "-m", "hyperact.command_line", "health", "--address", address]
    for _ in range(60):
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.5)
    raise SystemExit(f"the service on {data_dir} did not become ready")


async def measure_all(seconds: float, repeats: int) -> list[dict[str, object]]:
    """Measure every case against service and echo in turn; return a row for each repeat."""
    rows: list[dict[str, object]] = []
    for model, (arguments, shape) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder)
            make_version(arguments, data_dir)
            addresses = {"hyperact": f"127.0.0.1:{free_port()}", "echo": f"127.0.0.1:{free_port()}"}
            echo = [sys.executable, __file__, "--serve-echo", addresses["echo"]]
            with (
                running(serve_command(data_dir, addresses["hyperact"])),
                running(echo),
            ):
                wait_until_ready(addresses["hyperact"], data_dir)
                for repeat in range(repeats):
                    for case, load, num_sessions in CASES:
                        for system, address in addresses.items():
                            tag = f"{case}-{repeat}".replace(" ", "")
                            rate = await measure(address, load, num_sessions, shape, seconds, tag)
                            rows.append(
                                {
                                    "model": model,
                                    "case": case,
                                    "system": system,
                                    "repeat": repeat,
                                    "rate": round(rate, 1),
                                }
                            )
                            Console(stderr=True).print(f"{model}: {case}: {system}: {rate:,.0f}/s")
    return rows


def show(rows: list[dict[str, object]]) -> None:
    table = Table(
        "model", "case", "decisions/s", "bare echo/s", "ratio", title="Medians, one worker on one core, durability disk"
    )
    for model in MODELS:
        for case, _, _ in CASES:
            rates = {
                system: statistics.median(
                    float(str(row["rate"]))
                    for row in rows
                    if (row["model"], row["case"], row["system"]) == (model, case, system)
                )
                for system in ("hyperact", "echo")
            }
            ratio = rates["hyperact"] / rates["echo"]
            table.add_row(model, case, f"{rates['hyperact']:,.0f}", f"{rates['echo']:,.0f}", f"{ratio:.2f}")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve-echo", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_echo:
        uvloop.run(serve_echo(arguments.serve_echo))
        return
    os.sched_setaffinity(0, {LOAD_CORE})
    rows = uvloop.run(measure_all(arguments.seconds, arguments.repeats))
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "serving.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    show(rows)


if __name__ == "__main__":
    main()
