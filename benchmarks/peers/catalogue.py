"""The peers: which script serves, what it is asked and how, and what it is called in the table."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.peers.connection import Connect
from benchmarks.peers.http1 import HttpConnection
from benchmarks.peers.http2 import GrpcConnection
from benchmarks.peers.questions import Json, Language, OpenInference, OpenInferenceStream, RawBytes, WrappedBytes

SERVERS = Path(__file__).parent / "servers"
ROWS = 32
IN_FLIGHT = (1, 16, 64)
BATCHES_IN_FLIGHT = 8


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: messages of so many rows, so many of them under way at a time."""

    way: str
    num_rows: int
    in_flight: int

    def __str__(self) -> str:
        """Return how a person says it."""
        rows = f" of {self.num_rows} rows" if self.num_rows > 1 else ""
        return f"{self.way}{rows}, {self.in_flight} in flight"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask a server.

    Attributes:
        connect: opens a connection.
        language: what is said on it.
        connect_for_batches: opens one for messages of several rows, where they have a method of their own.
    """

    connect: Connect
    language: Language
    connect_for_batches: Connect | None = None

    def connect_for(self, case: Case) -> Connect:
        """Return what opens a connection for a case."""
        return (self.connect_for_batches if case.num_rows > 1 else None) or self.connect


@dataclass(frozen=True, slots=True)
class Peer:
    """A server.

    Attributes:
        name: what the command line says.
        title: what the table says.
        script: the file in servers/ that installs, starts and stops it; "" for Hyperact.
        protocol: what the table says of how it is asked.
        ways: "unary" and, where the server has them, "stream".
        is_checked: whether its answers are coefficients (an echo's are not).
    """

    name: str
    title: str
    script: str
    protocol: str
    ways: dict[str, Way] = field(default_factory=dict)
    is_checked: bool = True

    @property
    def requirements(self) -> list[str]:
        """The pinned packages of its environment; none if it runs in Hyperact's own."""
        return dependencies((SERVERS / self.script).read_text()) if self.script else []

    def cases(self) -> list[Case]:
        """Return what is measured."""
        cases = [Case(name, 1, number) for name in self.ways for number in IN_FLIGHT]
        return cases + [Case(name, ROWS, BATCHES_IN_FLIGHT) for name in self.ways]


def dependencies(script: str) -> list[str]:
    """Return the dependencies that a script declares in its head, in the form of PEP 723."""
    found = re.search(r"^# dependencies = \[(.*?)\]$", script, re.MULTILINE)
    return re.findall(r'"(.*?)"(?:,|$)', found[1]) if found else []


def _grpc(path: str, *, is_stream: bool = False) -> Connect:
    return partial(GrpcConnection, path, is_stream)


def _http(path: str) -> Connect:
    return partial(HttpConnection, path, "application/json")


def _raw_ways(language: Callable[[], Language]) -> dict[str, Way]:
    return {
        "unary": Way(_grpc("/peers.Peer/Ask"), language()),
        "stream": Way(_grpc("/peers.Peer/AskStream", is_stream=True), language()),
    }


_decisions = "/hyperact.v1.DecisionService"
_infer = "/inference.GRPCInferenceService/ModelInfer"
_infer_stream = "/inference.GRPCInferenceService/ModelStreamInfer"
_open_inference = "gRPC, Open Inference Protocol"
HYPERACT = Peer(
    "hyperact",
    "Hyperact, everything on",
    "",
    "gRPC",
    {
        "unary": Way(_grpc(f"{_decisions}/Act"), RawBytes(), _grpc(f"{_decisions}/ActBatch")),
        "stream": Way(_grpc(f"{_decisions}/ActStream", is_stream=True), RawBytes()),
    },
)
PEERS = [
    Peer("echo", "bare grpc.aio echo", "bare_echo.py", "gRPC", _raw_ways(RawBytes), is_checked=False),
    Peer("prototype", "prototype, graph only", "prototype.py", "gRPC, raw bytes", _raw_ways(RawBytes)),
    Peer(
        "triton",
        "Triton, Python backend",
        "triton_server.py",
        _open_inference,
        {
            "unary": Way(_grpc(_infer), OpenInference()),
            "stream": Way(_grpc(_infer_stream, is_stream=True), OpenInferenceStream()),
        },
    ),
    Peer("pytriton", "PyTriton", "pytriton_server.py", _open_inference, {"unary": Way(_grpc(_infer), OpenInference())}),
    Peer("kserve", "KServe", "kserve_server.py", _open_inference, {"unary": Way(_grpc(_infer), OpenInference())}),
    Peer("mlserver", "MLServer", "mlserver_server.py", _open_inference, {"unary": Way(_grpc(_infer), OpenInference())}),
    Peer(
        "bentoml",
        "BentoML",
        "bentoml_server.py",
        "HTTP/1.1, JSON",
        {"unary": Way(_http("/ask"), Json("observations", ""))},
    ),
    Peer(
        "mlflow",
        "MLflow models serve",
        "mlflow_server.py",
        "HTTP/1.1, JSON",
        {"unary": Way(_http("/invocations"), Json("inputs", "predictions.coefficients"))},
    ),
    Peer(
        "ray",
        "Ray Serve",
        "ray_server.py",
        "gRPC, raw bytes",
        {"unary": Way(_grpc("/peers.Peer/Ask"), WrappedBytes())},
    ),
    HYPERACT,
]
