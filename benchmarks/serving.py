"""Decisions per second of one worker on one core, everything on, beside a bare gRPC echo in the same run.

    python benchmarks/serving.py --output benchmarks/results

The service runs pinned to one core with durability `disk`, tokens, propensities and metrics; the load comes from a
process on another core that carries each session's token as a real client does. The echo server is grpc.aio under
uvloop and answers the same requests with bytes of the same size, without looking at them: it is the ceiling of this
transport. Each figure is the median of the repeats. Results go to serving.csv, one row a repeat.
"""

import argparse
import csv
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from hyperact.clients.load.measurement import Case, Target, Way, measure, to_row
from hyperact.v1.decision_pb2 import (
    ActBatchResponse,
    ActResponse,
    ActResult,
    ActStreamResponse,
    GetSpecResponse,
    StepId,
)
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensors import make_spec

MODELS = {
    "DeepSea-20 MLP": (
        ["--env", "hyperact.clients.deep_sea:hyperact/DeepSea-v0", "--env-kwargs", '{"size": 20}'],
        (20, 20),
    ),
    "Atari torso": (["--env", "ALE/Freeway-v5"], (4, 84, 84)),
}
SERVER_CORE, LOAD_CORE = 0, 1
ROWS = 32
# One worker, one load process: each has a core of its own.
CASES = [
    *(Case(Way.ACT, 1, number) for number in (1, 16, 64)),
    *(Case(Way.STREAM, 1, number) for number in (16, 64)),
    Case(Way.STREAM, ROWS, 8),
    Case(Way.BATCH, ROWS, 8),
]


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


async def serve_echo(address: str, shape: tuple[int, ...]) -> None:
    """Answer every method with a fixed response of a real one's size, without parsing anything."""
    observation = make_spec(np.uint8, shape)
    one = ActResponse(action=1, version="1", deployment=1, propensity=0.5, margin=0.1, token=b"t" * 96)
    one.step_id.MergeFrom(StepId(model="default", session="load-01234567-63-31", run="0" * 22, episode=1, number=1))
    many = [ActResult(response=one)] * ROWS
    most_of_one = 4 * math.prod(shape)  # bytes of a request: one row has less, ROWS rows have more
    by_stream = {
        False: ActStreamResponse(results=many[:1]).SerializeToString(),
        True: ActStreamResponse(results=many).SerializeToString(),
    }
    answers = {
        "Act": one.SerializeToString(),
        "ActBatch": ActBatchResponse(results=many).SerializeToString(),
        "GetSpec": GetSpecResponse(spec=ModelSpec(observation=observation), max_batch=256).SerializeToString(),
    }

    async def answer_stream(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield by_stream[len(request) > most_of_one]

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


def measure_all(seconds: float, repeats: int) -> list[dict[str, object]]:
    """Measure every case against service and echo in turn; return a row for each repeat."""
    rows: list[dict[str, object]] = []
    for model, (arguments, shape) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder)
            make_version(arguments, data_dir)
            addresses = {"hyperact": f"127.0.0.1:{free_port()}", "echo": f"127.0.0.1:{free_port()}"}
            echo = [sys.executable, __file__, "--serve-echo", addresses["echo"], "--shape", *map(str, shape)]
            with running(serve_command(data_dir, addresses["hyperact"])), running(echo):
                wait_until_ready(addresses["hyperact"], data_dir)
                for repeat in range(repeats):
                    for case in CASES:
                        for system, address in addresses.items():
                            found = measure(Target(address), case, seconds, num_processes=1)
                            rows.append(
                                {"model": model, "system": system, "case": str(case), **to_row(case, repeat, found)}
                            )
                            rate = f"{found.decisions_per_second:,.0f}/s"
                            Console(stderr=True).print(f"{model}: {case}: {system}: {rate} {found.message}")
    return rows


def show(rows: list[dict[str, object]]) -> None:
    table = Table(
        *("model", "case", "decisions/s", "bare echo/s", "ratio", "p50 ms", "p99 ms"),
        title="Medians, one worker on one core, durability disk",
    )
    for model in MODELS:
        for case in map(str, CASES):
            ours, echo = (
                [row for row in rows if (row["model"], row["case"], row["system"]) == (model, case, system)]
                for system in ("hyperact", "echo")
            )
            rate, ceiling, p50, p99 = (
                statistics.median(float(str(row[name])) for row in some)
                for some, name in (
                    (ours, "decisions_per_second"),
                    (echo, "decisions_per_second"),
                    (ours, "p50_ms"),
                    (ours, "p99_ms"),
                )
            )
            table.add_row(
                *(model, case, f"{rate:,.0f}", f"{ceiling:,.0f}", f"{rate / ceiling:.2f}", f"{p50:.2f}", f"{p99:.2f}")
            )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve-echo", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_echo:
        uvloop.run(serve_echo(arguments.serve_echo, tuple(arguments.shape)))
        return
    os.sched_setaffinity(0, {LOAD_CORE})
    rows = measure_all(arguments.seconds, arguments.repeats)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "serving.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    show(rows)


if __name__ == "__main__":
    main()
