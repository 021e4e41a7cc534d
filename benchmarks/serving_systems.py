"""The systems that `python -m benchmarks.serving` measures: the service, a bare gRPC echo, and ONNX Runtime alone.

Each runs in a process of its own, pinned to the core that is measured unless it is told otherwise.
"""

import argparse
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import uvloop

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

SERVER_CORE = 0
ROWS = 32


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], cores: str = str(SERVER_CORE)) -> Iterator[int]:
    """Run a server pinned to some cores until the block ends; give its process id."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(["taskset", "-c", cores, *command], stdout=output, stderr=output)
        try:
            yield process.pid
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


def echo_command(address: str, shape: tuple[int, ...]) -> list[str]:
    return [sys.executable, __file__, "--serve-echo", address, "--shape", *map(str, shape)]


def serve_command(data_dir: Path, address: str, num_workers: int = 1) -> list[str]:
    return [
        *(sys.executable, "-m", "hyperact.command_line", "serve", "--data-dir", str(data_dir)),
        *("--workers", str(num_workers)),
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


def processor_seconds(pids: Sequence[int]) -> float:
    """Return the processor time that processes have used, of all their threads."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def measure_runtime(data_dir: Path, shape: tuple[int, ...], seconds: float) -> float:
    """Return how many rows a second ONNX Runtime alone does of a version's graph, in batches of ROWS, on the core."""
    (graph,) = sorted(data_dir.rglob("*.onnx"))[:1]
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, __file__, "--runtime", str(graph)]
    command += ["--shape", *map(str, shape), "--seconds", str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_runtime(graph: Path, shape: tuple[int, ...], seconds: float) -> float:
    """Call a graph in batches of ROWS for some seconds; return rows a second."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    dtype = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[port.type]
    feed = {port.name: np.random.default_rng(0).integers(0, 2, (ROWS, *shape)).astype(dtype)}
    for _ in range(10):
        session.run(None, feed)
    num_calls, begin = 0, time.perf_counter()
    while (spent := time.perf_counter() - begin) < seconds:
        session.run(None, feed)
        num_calls += 1
    return num_calls * ROWS / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve-echo", metavar="ADDRESS")
    parser.add_argument("--runtime", type=Path, metavar="ONNX_FILE")
    parser.add_argument("--shape", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    if arguments.serve_echo:
        uvloop.run(serve_echo(arguments.serve_echo, tuple(arguments.shape)))
    else:
        sys.stdout.write(str(run_runtime(arguments.runtime, tuple(arguments.shape), arguments.seconds)))


if __name__ == "__main__":
    main()
