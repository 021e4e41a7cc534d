"""A whole worker of the service, on this process's event loop: real socket, real registry, real log."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

import toys
from hyperact.service.app import Worker
from hyperact.service.settings import ServeSettings
from hyperact.v1.decision_pb2 import ActRequest, ActResponse, Outcome, Report, Step
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.deployment_pb2 import ReloadRequest
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.log_pb2 import LogEntry, ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub
from hyperact.v1.tensors import to_tensor

if TYPE_CHECKING:
    from hyperact.v1.decision_pb2_grpc import DecisionServiceAsyncStub
    from hyperact.v1.deployment_pb2_grpc import DeploymentServiceAsyncStub
    from hyperact.v1.log_pb2_grpc import LogServiceAsyncStub

observation_size = 3


@dataclass
class RunningWorker:
    """A worker that listens, and stubs that speak to it."""

    worker: Worker
    address: str
    decision: "DecisionServiceAsyncStub"
    deployment: "DeploymentServiceAsyncStub"
    log: "LogServiceAsyncStub"
    health: Any
    stop: asyncio.Event
    channel: grpc.aio.Channel
    data_dir: Path

    async def entries(self) -> list[LogEntry]:
        """Return everything that is in the log."""
        return [entry async for response in self.log.Read(ReadRequest()) for entry in response.entries]

    async def steps(self) -> list[Step]:
        """Return the steps in the log."""
        return [entry.step for entry in await self.entries() if entry.HasField("step")]

    async def reports(self) -> list[Report]:
        """Return the reports in the log."""
        return [entry.report for entry in await self.entries() if entry.HasField("report")]

    async def reload(self) -> None:
        """Look at the registry now."""
        await self.deployment.Reload(ReloadRequest())


@asynccontextmanager
async def running(
    data_dir: Path, credentials: grpc.ChannelCredentials | None = None, **settings: Any
) -> AsyncIterator[RunningWorker]:
    """Run a worker on a data directory, whose registry is made if it is not there; polls seldom unless told.

    `credentials`: what the stubs connect with; None: without TLS.
    """
    if not (data_dir / "mlflow.db").exists():
        toys.make_registry(data_dir)
    given = {
        "address": "127.0.0.1:0",
        "metrics_address": "",
        "poll_seconds": 600.0,
        "durability": "process",
        **settings,
    }
    worker = Worker(ServeSettings(data_dir=data_dir, **given), 0)
    stop = asyncio.Event()
    serving = asyncio.create_task(worker.serve(stop))
    listening = asyncio.create_task(worker.listening.wait())
    try:
        await asyncio.wait([serving, listening], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        address = f"127.0.0.1:{worker.port}"
        async with connected(address, credentials) as channel:
            yield speak_to(worker, address, stop, channel, data_dir)
    finally:
        listening.cancel()
        stop.set()
        await serving


def connected(address: str, credentials: grpc.ChannelCredentials | None = None) -> grpc.aio.Channel:
    """Return a channel to an address."""
    return grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)


def speak_to(
    worker: Worker, address: str, stop: asyncio.Event, channel: grpc.aio.Channel, data_dir: Path
) -> RunningWorker:
    """Return a worker as it is spoken to over a channel."""
    return RunningWorker(
        worker=worker,
        address=address,
        decision=DecisionServiceStub(channel),
        deployment=DeploymentServiceStub(channel),
        log=LogServiceStub(channel),
        health=health_pb2_grpc.HealthStub(channel),
        stop=stop,
        channel=channel,
        data_dir=data_dir,
    )


@asynccontextmanager
async def speaking_as(
    service: RunningWorker, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[RunningWorker]:
    """Give the same worker over a channel of its own."""
    async with connected(service.address, credentials) as channel:
        yield speak_to(service.worker, service.address, service.stop, channel, service.data_dir)


def registry_with_version(data_dir: Path, name: str = "v1", **version: Any) -> str:
    """Make a registry whose alias stands at one toy version; return its tracking URI."""
    uri = toys.make_registry(data_dir)
    toys.toy_version(data_dir / "toys" / name, **version)
    toys.register(uri, data_dir / "toys" / name, version.get("model", "default"), alias="champion")
    return uri


def make_request(session: str = "agent", number: int = 0, **fields: Any) -> ActRequest:
    """Return a request whose observation depends on `number`."""
    observation = to_tensor(np.full(observation_size, math.sin(number), np.float32))
    return ActRequest(**{"session": session, "observation": observation, **fields})


async def play(
    running_worker: RunningWorker, session: str, lengths: Sequence[int], token: bytes = b"", first_number: int = 0
) -> list[ActResponse]:
    """Act through episodes of the given lengths with the token carried along; every reward is 1."""
    answers: list[ActResponse] = []
    outcome = None
    for length in lengths:
        for number in range(length):
            request = make_request(session, first_number + len(answers), token=token)
            if outcome is not None:
                request.outcome.CopyFrom(outcome)
            answers.append(await running_worker.decision.Act(request))
            token = answers[-1].token
            outcome = Outcome(reward=1.0, terminated=number == length - 1)
    return answers


@dataclass
class Refusal:
    """What a failed call told: its code, the field and reason in its details, and the retry delay."""

    code: grpc.StatusCode
    message: str
    field: str = ""
    reason: str = ""
    retry_seconds: float | None = None


async def refusal(call: Any) -> Refusal:
    """Await a call that must fail and return what it told."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    raise AssertionError(f"expected an error, got {answer}")


def read_refusal(error: Any) -> Refusal:
    """Return what a failed call told."""
    found = Refusal(error.code(), error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                _read_detail(found, detail)
    return found


def _read_detail(found: Refusal, detail: Any) -> None:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    if detail.Unpack(info):
        found.reason = info.reason
    elif detail.Unpack(bad):
        found.field = bad.field_violations[0].field
    elif detail.Unpack(retry):
        found.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
