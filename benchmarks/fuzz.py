"""What strangers can break: random bytes, mutated and random messages, tampered versions, for some minutes.

    python benchmarks/fuzz.py --minutes 10 --output benchmarks/results

`hyperact serve` runs with a version of four actions, and eight strangers call every method of every service that it
has, over a real port: mutated and random protobuf bytes, messages whose fields are drawn, and batches in which a good
request stands among drawn ones. All along a mate plays episodes; what it is told is computed here again. In a process
of its own, mutated and random ONNX files, with the digest that the manifest promises, and manifests are loaded and
warmed as the service does it.

Counted as failures: the end of a process, a call without an end, a status INTERNAL or UNKNOWN, UNAVAILABLE without a
reason, an error in the service's log, a mate or a good request that gets another answer or none, and anything but a
refusal from the loader. At the end `hyperact log verify` and `hyperact audit` judge the log, in which everything stands
that strangers were answered; that steps are missing before those whose place a stranger claimed is as it should be.
Results go to fuzz.csv; inputs that failed are kept in a folder that is named; exit code 1 if there were any. `--seed`
repeats the drawing.
"""

import argparse
import asyncio
import csv
import hashlib
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import toys
from hyperact.clients.connection import AsyncConnection
from hyperact.clients.sessions import AsyncSession
from hyperact.service.errors import VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.v1 import manifests
from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActBatchResponse,
    ActRequest,
    ActStreamRequest,
    Outcome,
    Position,
    ReportRequest,
)
from hyperact.v1.indices import derive_index
from hyperact.v1.log_pb2 import ReadRequest
from hyperact.v1.model_pb2 import Manifest, ReferenceDistribution
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.tensors import to_tensor
from toy_hypermodels import coefficients_of
from wild_inputs import Method, all_methods, wild_bytes, wild_message

INDEX_KEY = bytes(range(32))
NUM_STRANGERS = 8
HANG_SECONDS = 30.0
STREAM_SECONDS = 0.2
MATE_PAUSE_SECONDS = 0.02
LOADER_BYTES = 6 << 30
OBSERVATION_SIZE = 3
# What our own gRPC client makes of an answer that comes while it still sends; nothing that the service said.
CLIENT_FAULT = "Internal error from Core"
BAD_CODES = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


@dataclass
class Findings:
    """What was sent, what came back, and what should not have.

    Attributes:
        inputs: by kind of input.
        statuses: by status code.
        failures: one line each.
    """

    directory: Path
    inputs: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def fail(self, line: str, content: bytes = b"") -> None:
        """Keep a failure and the input that led to it."""
        number = len(self.failures)
        self.failures.append(line)
        print(f"FAILURE {number}: {line}", flush=True)
        if content and number < 1000:
            (self.directory / f"failure-{number}.bin").write_bytes(content)


class Oracle:
    """Computes what the service must answer."""

    def __init__(self, version: Path) -> None:
        self._hypermodel = Hypermodel.load(version, model="default", max_onnx_bytes=1 << 30)

    def check(self, step: StepKey, observation: Any, action: int) -> str:
        """Return what is wrong with an action; empty if nothing is."""
        dim = self._hypermodel.spec.index_dim
        index = derive_index(INDEX_KEY, step, 0, dim, ReferenceDistribution.REFERENCE_DISTRIBUTION_GAUSSIAN)
        coefficients = coefficients_of(self._hypermodel, observation[None])[0]
        values = coefficients[:, 0] + coefficients[:, 1:] @ index
        return "" if values[action] >= values.max() - 1e-4 else f"step {step}: action {action}, expected {values}"


@dataclass
class Mate:
    """A session that behaves well. `slowest_seconds`: its longest wait for an answer."""

    address: str
    oracle: Oracle
    findings: Findings
    num_steps: int = 0
    slowest_seconds: float = 0.0

    async def play(self, until: float) -> None:
        """Play episodes of 20 steps and check every answer."""
        random = np.random.default_rng(1)
        async with AsyncConnection(self.address) as connection, AsyncSession(connection, "mate-0") as session:
            while time.monotonic() < until:
                observation = random.normal(size=OBSERVATION_SIZE).astype(np.float32)
                begun = time.monotonic()
                decision = await session.act(observation)
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
                expected = divmod(self.num_steps, 20)
                if (decision.step_id.episode, decision.step_id.number) != expected:
                    self.findings.fail(f"the mate is at {decision.step_id}, expected {expected}")
                if problem := self.oracle.check(decision.step_id, observation, decision.action):
                    self.findings.fail(f"the mate: {problem}")
                self.num_steps += 1
                session.observe(1.0, self.num_steps % 20 == 0, False, observation)
                await asyncio.sleep(MATE_PAUSE_SECONDS)


class Stranger:
    """Sends whatever comes to mind."""

    def __init__(self, number: int, seed: int, channel: grpc.aio.Channel, oracle: Oracle, findings: Findings) -> None:
        self._name = f"stranger-{number}"
        self._random = Random(f"{seed}/{number}")
        self._channel = channel
        self._oracle = oracle
        self._findings = findings
        self._methods = all_methods()
        self._tokens: list[bytes] = []
        self._num_batches = 0

    async def run(self, until: float) -> None:
        """Send until the time is over."""
        while time.monotonic() < until:
            if self._random.random() < 0.1:
                await self._send_mixed_batch()
            else:
                await self._send_anything()

    async def _send_anything(self) -> None:
        method = self._random.choice(self._methods)
        contents = [self._draw(method) for _ in range(self._random.choice((1, 1, 1, 2, 4)))]
        if not method.is_request_stream:
            contents = contents[:1]
        if self._random.random() < 0.02:
            contents = []
            self._findings.inputs["no message"] += 1
        await self._call(method, contents)

    def _draw(self, method: Method) -> bytes:
        message = wild_message(self._random, method.request, self._seeds())
        content = message.SerializeToString()
        kind = "message"
        if self._random.random() < 0.5:
            content, kind = wild_bytes(self._random, content), "bytes"
        self._findings.inputs[kind] += 1
        return content

    def _seeds(self) -> list[Message]:
        """Return good requests, of which drawn ones are made."""
        act = self._good_request(f"{self._name}-{self._random.randrange(50)}")
        if self._tokens:
            act.token = self._random.choice(self._tokens)
        outcome = Outcome(reward=1.0, terminated=self._random.random() < 0.5)
        if self._random.random() < 0.5:
            act.outcome.CopyFrom(outcome)
        return [
            act,
            ActBatchRequest(requests=[act, self._good_request(self._name)]),
            ActStreamRequest(batch_id=1, requests=[act]),
            ReportRequest(session=act.session, outcome=outcome, token=act.token),
            ReadRequest(model="default", max_entries=3),
        ]

    def _good_request(self, session: str, observation: Any = None) -> ActRequest:
        if observation is None:
            observation = np.asarray([self._random.gauss(0, 1) for _ in range(OBSERVATION_SIZE)], np.float32)
        return ActRequest(session=session, observation=to_tensor(observation), position=Position(), run="1")

    async def _call(self, method: Method, contents: list[bytes]) -> None:
        open_call: Any = self._channel.stream_stream(method.path)
        call = open_call(iter(contents), timeout=2 * HANG_SECONDS)
        try:
            # A call that sends nothing to a method of one message is left open by gRPC until its caller ends it.
            is_brief = method.is_response_stream or not contents
            async with asyncio.timeout(STREAM_SECONDS if is_brief else HANG_SECONDS):
                while (answer := await call.read()) is not grpc.aio.EOF:
                    self._learn(method, answer)
            self._findings.statuses["OK"] += 1
        except TimeoutError:
            self._findings.statuses["still open" if is_brief else "hanging"] += 1
            if not is_brief:
                self._findings.fail(f"{method.path} does not end", b"".join(contents))
        except grpc.aio.AioRpcError as error:
            self._judge(method, error, contents)
        finally:
            call.cancel()

    def _learn(self, method: Method, answer: bytes) -> None:
        """Keep a few tokens: signed ones lead further."""
        if method.path.endswith("/Act") and len(self._tokens) < 500:
            from hyperact.v1.decision_pb2 import ActResponse

            self._tokens.append(ActResponse.FromString(answer).token)

    def _judge(self, method: Method, error: grpc.aio.AioRpcError, contents: list[bytes]) -> None:
        code = error.code()
        if error.details() == CLIENT_FAULT:
            self._findings.statuses["given up by our client"] += 1
            return
        self._findings.statuses[code.name] += 1
        has_details = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
        is_unexplained = code is grpc.StatusCode.UNAVAILABLE and not has_details
        if code in BAD_CODES or is_unexplained or code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._findings.fail(f"{method.path}: {code.name}: {(error.details() or '')[:300]}", b"".join(contents))

    async def _send_mixed_batch(self) -> None:
        """Send a good request among drawn ones: it must get the answer that it would get alone."""
        self._num_batches += 1
        self._findings.inputs["mixed batch"] += 1
        observation = np.asarray([self._random.gauss(0, 1) for _ in range(OBSERVATION_SIZE)], np.float32)
        good = self._good_request(f"good-{self._name}-{self._num_batches}", observation)
        batch: list[Any] = [
            wild_message(self._random, ActRequest, self._seeds()) for _ in range(self._random.randrange(1, 8))
        ]
        place = self._random.randrange(len(batch) + 1)
        batch.insert(place, good)
        content = ActBatchRequest(requests=batch).SerializeToString()
        call: Any = self._channel.unary_unary("/hyperact.v1.DecisionService/ActBatch")
        try:
            answer = ActBatchResponse.FromString(await call(content, timeout=HANG_SECONDS))
        except grpc.aio.AioRpcError as error:
            self._findings.fail(f"a batch with a good request: {error.code().name}: {error.details()}", content)
            return
        for result in answer.results:
            if result.error.code in {code.value[0] for code in BAD_CODES}:
                self._findings.fail(f"a row: {result.error}", content)
        if not answer.results[place].HasField("response"):
            self._findings.fail(f"a good request among bad ones: {answer.results[place].error}", content)
            return
        response = answer.results[place].response
        if problem := self._oracle.check(to_key(response.step_id), observation, response.action):
            self._findings.fail(f"a good request among bad ones: {problem}", content)


class Service:
    """`hyperact serve` on a directory, its log lines in a file."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        uri = toys.make_registry(self.data_dir)
        self.version = directory / "version"
        toys.toy_version(self.version, num_actions=4, observation_shape=(OBSERVATION_SIZE,), hidden_sizes=[16])
        toys.register(uri, self.version, alias="champion")
        self.output = directory / "serve.log"
        flags = ["--data-dir", str(self.data_dir), "--address", "127.0.0.1:0", "--metrics-address", ""]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hyperact.command_line", "serve", *flags, "--log-format", "json"],
                stdout=output,
                stderr=output,
                env={**os.environ, "HYPERACT_INDEX_KEY": INDEX_KEY.hex(), "OMP_NUM_THREADS": "1"},
            )

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged."""
        lines = self.output.read_text().splitlines()
        return [json.loads(line) if line.startswith("{") else {"event": line, "level": "text"} for line in lines]

    def wait_until_up(self) -> str:
        """Return its address."""
        while self.process.poll() is None:
            for line in self.lines():
                if line["event"] == "serving":
                    return str(line["address"])
            time.sleep(0.1)
        raise RuntimeError(self.output.read_text())

    def num_memory_bytes(self) -> int:
        """Return its resident memory; 0 where /proc does not tell."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * resource.getpagesize()

    def end(self, findings: Findings) -> None:
        """Stop it, and judge how it ended and what it said."""
        if self.process.poll() is not None:
            findings.fail(f"the service ended by itself with {self.process.returncode}")
        self.process.send_signal(signal.SIGTERM)
        if code := self.process.wait(60):
            findings.fail(f"the service ended with {code}")
        for line in self.lines():
            if line["level"] in ("error", "critical") or "Traceback" in line["event"]:
                findings.fail(f"the service logged {str(line)[:2000]}")

    def check_log(self, findings: Findings) -> list[str]:
        """Have the log verified and audited; return the last line of each."""
        told = []
        for command in (["log", "verify"], ["audit", "--csv", str(self.data_dir / "audit.csv")]):
            done = subprocess.run(
                [sys.executable, "-m", "hyperact.command_line", *command, "--data-dir", str(self.data_dir)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "HYPERACT_INDEX_KEY": INDEX_KEY.hex(), "OMP_NUM_THREADS": "1"},
            )
            told.append(done.stdout)
            faults = [line for line in done.stdout.splitlines() if is_fault(line)]
            if faults or done.returncode not in ((0, 1) if command[0] == "log" else (0,)):
                findings.fail(f"hyperact {' '.join(command)}: {done.returncode}: {done.stdout[-2000:]} {done.stderr}")
        return told


def is_fault(line: str) -> bool:
    """Tell whether a line of `log verify` is more than a gap before a step whose place a stranger claimed."""
    is_claimed = "missing before it" in line and not re.search(r"default/(mate|good)-", line)
    return " offset " in line and not is_claimed


# The loader, in a process of its own: whatever it meets there, the strangers' run goes on.


def run_loader(seed: str, directory: Path, counts: Any, until: float) -> None:
    """Load tampered versions; `counts`: versions tried, loaded, unforeseen errors, and the time of the last one."""
    resource.setrlimit(resource.RLIMIT_AS, (LOADER_BYTES, LOADER_BYTES))
    random = Random(seed)
    original = directory / "original"
    toys.toy_version(original, num_actions=4, hidden_sizes=[16])
    graph, manifest = (original / toys.onnx_file).read_bytes(), (original / manifests.file_name).read_bytes()
    version = directory / "version"
    version.mkdir(exist_ok=True)
    while time.time() < until:
        write_tampered(random, graph, manifest, version)
        counts[3] = time.time()
        try:
            Hypermodel.load(version, model="default", max_onnx_bytes=1 << 30).warm_up([1, 2])
            counts[1] += 1
        except VersionRefusedError:
            pass
        except Exception as error:  # noqa: BLE001 - what is counted
            kept = directory / f"unforeseen-{int(counts[2])}"
            version.rename(kept)
            (kept / "error.txt").write_text(repr(error))
            version.mkdir()
            counts[2] += 1
        counts[0] += 1


def write_tampered(random: Random, graph: bytes, manifest: bytes, version: Path) -> None:
    """Write a version: the graph mutated and the manifest fitting it, or the manifest mutated or drawn."""
    kind = random.random()
    if kind < 0.6:
        graph = wild_bytes(random, graph) if kind < 0.55 else random.randbytes(random.randrange(2000))
        changed = manifests.from_json(manifest)
        changed.onnx_sha256 = hashlib.sha256(graph).hexdigest()
        manifest = manifests.to_json(changed).encode()
    elif kind < 0.8:
        manifest = wild_bytes(random, manifest)
    else:
        drawn: Any = wild_message(random, Manifest, [manifests.from_json(manifest)])
        try:
            manifest = manifests.to_json(drawn).encode()
        except (ValueError, json_format.Error):  # times and numbers that JSON cannot say
            manifest = wild_bytes(random, manifest)
    (version / toys.onnx_file).write_bytes(graph)
    (version / manifests.file_name).write_bytes(manifest)


@dataclass
class LoaderRun:
    """Processes that load tampered versions, one after the other if one ends."""

    seed: int
    directory: Path
    findings: Findings
    num_lives: int = 0
    num_versions: int = 0
    num_loaded: int = 0
    num_unforeseen: int = 0

    async def run(self, until: float) -> None:
        """Load until the time is over (Unix seconds)."""
        while time.time() < until:
            await self._live(until)

    async def _live(self, until: float) -> None:
        directory = self.directory / f"life-{self.num_lives}"
        directory.mkdir(parents=True)
        context = multiprocessing.get_context("spawn")
        counts = context.Array("d", 4)
        seed = f"{self.seed}/loader/{self.num_lives}"
        process = context.Process(target=run_loader, args=(seed, directory, counts, until), daemon=True)
        self.num_lives += 1
        process.start()
        while process.is_alive():
            await asyncio.sleep(0.5)
            if counts[3] and time.time() - counts[3] > HANG_SECONDS:
                self.findings.fail(f"the loader hangs on {directory / 'version'}")
                process.kill()
        process.join()
        if process.exitcode and process.exitcode != -signal.SIGKILL:
            self.findings.fail(f"the loader ended with {process.exitcode} on {directory / 'version'}")
        self.num_versions += int(counts[0])
        self.num_loaded += int(counts[1])
        self.num_unforeseen += int(counts[2])
        self.findings.inputs["version"] += int(counts[0])


async def campaign(arguments: argparse.Namespace, directory: Path) -> bool:
    """Run everything; tell whether nothing failed."""
    findings = Findings(directory)
    service = Service(directory)
    address = service.wait_until_up()
    oracle = Oracle(service.version)
    mate = Mate(address, oracle, findings)
    loader = LoaderRun(arguments.seed, directory / "loader", findings)
    until = time.monotonic() + arguments.minutes * 60
    memory_at_start = service.num_memory_bytes()
    async with grpc.aio.insecure_channel(address) as channel:
        strangers = [Stranger(number, arguments.seed, channel, oracle, findings) for number in range(NUM_STRANGERS)]
        tasks = [stranger.run(until) for stranger in strangers]
        results = await asyncio.gather(
            mate.play(until), loader.run(time.time() + arguments.minutes * 60), *tasks, return_exceptions=True
        )
    for result in results:
        if isinstance(result, BaseException):
            findings.fail(f"the campaign itself: {result!r}")
    memory_at_end = service.num_memory_bytes()
    service.end(findings)
    told = service.check_log(findings)
    print(*told, sep="\n")
    row = {
        "minutes": arguments.minutes,
        "seed": arguments.seed,
        "random_messages": findings.inputs["message"],
        "mutated_bytes": findings.inputs["bytes"],
        "mixed_batches": findings.inputs["mixed batch"],
        "versions": loader.num_versions,
        "versions_loaded": loader.num_loaded,
        "mate_steps": mate.num_steps,
        "mate_slowest_seconds": round(mate.slowest_seconds, 3),
        "service_mib_at_start": memory_at_start >> 20,
        "service_mib_at_end": memory_at_end >> 20,
        "unforeseen_errors_of_loader": loader.num_unforeseen,
        "failures": len(findings.failures),
    }
    for name, value in row.items():
        print(f"{name:30} {value}")
    print(f"{'statuses':30} {dict(findings.statuses.most_common())}")
    print(f"{'kept':30} {directory}")
    if arguments.output is not None:
        with (arguments.output / "fuzz.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)
    return not findings.failures and not loader.num_unforeseen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="the folder of fuzz.csv; unset: none is written")
    arguments = parser.parse_args()
    return 0 if asyncio.run(campaign(arguments, Path(tempfile.mkdtemp(prefix="hyperact-fuzz-")))) else 1


if __name__ == "__main__":
    sys.exit(main())
