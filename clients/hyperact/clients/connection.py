"""Connections to a service: channels, deadlines, and what a model expects.

Retries stand in two layers. gRPC repeats a call that failed with UNAVAILABLE a few times within a second (the service
config below); `retries` goes on after that until the deadline, and honours the delay that a busy service asks for.
Calls wait for a connection instead of failing at once, so a service that restarts is only slow.
"""

import asyncio
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any, Self

import grpc
import grpc.aio

from hyperact.clients.addresses import to_target
from hyperact.clients.effects import Call
from hyperact.clients.errors import UnavailableError, from_rpc_error
from hyperact.v1.decision_pb2 import (
    ActBatchResponse,
    ActStreamRequest,
    ActStreamResponse,
    GetSpecRequest,
    GetSpecResponse,
)
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.deployment_pb2 import GetStatusRequest, GetStatusResponse
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.log_pb2 import GetRangeRequest, GetRangeResponse, LogPosition, ReadRequest, ReadResponse
from hyperact.v1.log_pb2_grpc import LogServiceStub

default_address = "127.0.0.1:50051"
services = ("DecisionService", "LogService", "DeploymentService")
service_config = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": f"hyperact.v1.{service}"} for service in services],
            "waitForReady": True,
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
max_message_bytes = 64 << 20
# The service accepts a keepalive ping every 10 s; two lost ones tell that the way is broken.
channel_options: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(service_config)),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_send_message_length", max_message_bytes),
    ("grpc.max_receive_message_length", max_message_bytes),
]


class Connection:
    """A channel to a service, to be shared by any number of sessions and threads.

    Args:
        address: "host:port", several ("host:port,host:port"), or any target of gRPC ("dns:///name:port": all addresses
            of a name). Calls are balanced over those that answer.
        timeout_seconds: for the calls of this class; sessions have their own deadline.
        credentials: for TLS and tokens (`hyperact.v1.channels.channel_credentials` makes them); None for none.
    """

    def __init__(
        self,
        address: str = default_address,
        *,
        timeout_seconds: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self.timeout_seconds = timeout_seconds
        self._channel = (
            grpc.secure_channel(to_target(address), credentials, channel_options)
            if credentials
            else grpc.insecure_channel(to_target(address), channel_options)
        )
        self._decisions = DecisionServiceStub(self._channel)
        self._deployments = DeploymentServiceStub(self._channel)
        self._log = LogServiceStub(self._channel)

    def wait_until_reachable(self, timeout_seconds: float | None = None) -> None:
        """Return once the service can be reached; UnavailableError if it cannot within the timeout."""
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        # A call, not channel_ready_future: that one's thread goes on looking, and complains once the channel is closed.
        try:
            self._deployments.GetStatus(GetStatusRequest(), timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if _code(error) in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise unreachable(self.address, seconds) from None

    def call(self, effect: Call) -> Any:
        """Send one request of DecisionService; ClientError."""
        return self._send(getattr(self._decisions, effect.method), effect.request, effect.timeout_seconds)

    def get_spec(self, model: str = "") -> GetSpecResponse:
        """Return what a model expects; ClientError."""
        response: GetSpecResponse = self._send(self._decisions.GetSpec, GetSpecRequest(model=model))
        return response

    def get_status(self, model: str = "") -> GetStatusResponse:
        """Return what is serving; ClientError."""
        response: GetStatusResponse = self._send(self._deployments.GetStatus, GetStatusRequest(model=model))
        return response

    def get_range(self, model: str = "") -> GetRangeResponse:
        """Return where the log's partitions begin and end; ClientError."""
        response: GetRangeResponse = self._send(self._log.GetRange, GetRangeRequest(model=model))
        return response

    def read_log(self, model: str = "", positions: list[LogPosition] | None = None) -> Iterator[ReadResponse]:
        """Yield what the log holds from the positions to its newest entry; ClientError."""
        try:
            yield from self._log.Read(ReadRequest(model=model, positions=positions or []), wait_for_ready=True)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def open_batch_stream(self) -> "BatchStream":
        """Return a stream that carries batches with less ado than a call each."""
        return BatchStream(self._decisions)

    def close(self) -> None:
        """Close the channel; calls under way fail."""
        self._channel.close()

    def _send(self, method: Any, request: Any, timeout_seconds: float | None = None) -> Any:
        seconds = timeout_seconds or self.timeout_seconds
        try:
            return method(request, timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            raise from_rpc_error(error, seconds) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close."""
        self.close()


class BatchStream:
    """One ActStream, used for one batch at a time. After a failure the next call opens a new one.

    A thread of gRPC's reads the answers; those of batches that were given up are dropped.
    """

    def __init__(self, stub: DecisionServiceStub) -> None:
        self._stub = stub
        self._requests: queue.SimpleQueue[ActStreamRequest | None] | None = None
        self._answers: queue.SimpleQueue[ActStreamResponse | grpc.RpcError | None] = queue.SimpleQueue()
        self._call: Any = None
        self._num_batches = 0

    def call(self, effect: Call) -> Any:
        """Send one request; ClientError. Only batches go by the stream."""
        if effect.method != "ActBatch":
            return self._send_alone(effect)
        if self._requests is None:
            self._open()
        assert self._requests is not None
        self._num_batches += 1
        self._requests.put(ActStreamRequest(batch_id=self._num_batches, requests=effect.request.requests))
        while True:
            answer = self._next_answer(effect.timeout_seconds)
            if answer.batch_id == self._num_batches:
                return ActBatchResponse(results=answer.results)

    def close(self) -> None:
        """End the stream."""
        if self._requests is not None:
            self._requests.put(None)
            self._call.cancel()
            self._requests = None

    def _open(self) -> None:
        self._requests = queue.SimpleQueue()
        self._answers = queue.SimpleQueue()
        self._call = self._stub.ActStream(iter(self._requests.get, None), wait_for_ready=True)
        reader = threading.Thread(target=_read_all, args=(self._call, self._answers), name="act-stream", daemon=True)
        reader.start()

    def _next_answer(self, timeout_seconds: float) -> ActStreamResponse:
        try:
            answer = self._answers.get(timeout=timeout_seconds)
        except queue.Empty:
            self.close()
            raise UnavailableError(
                f"no answer on the stream within {timeout_seconds:.1f} s", grpc.StatusCode.DEADLINE_EXCEEDED
            ) from None
        if isinstance(answer, ActStreamResponse):
            return answer
        self.close()
        if answer is None:
            raise UnavailableError("the service ended the stream", grpc.StatusCode.UNAVAILABLE)
        raise from_rpc_error(answer) from answer

    def _send_alone(self, effect: Call) -> Any:
        try:
            return getattr(self._stub, effect.method)(
                effect.request, timeout=effect.timeout_seconds, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


def _read_all(call: Any, answers: "queue.SimpleQueue[ActStreamResponse | grpc.RpcError | None]") -> None:
    try:
        for answer in call:
            answers.put(answer)
    except grpc.RpcError as error:
        answers.put(error)
    else:
        answers.put(None)


class AsyncConnection:
    """As Connection, for asyncio. To be made and used on one event loop."""

    def __init__(
        self,
        address: str = default_address,
        *,
        timeout_seconds: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self.timeout_seconds = timeout_seconds
        self._channel = (
            grpc.aio.secure_channel(to_target(address), credentials, channel_options)
            if credentials
            else grpc.aio.insecure_channel(to_target(address), channel_options)
        )
        self._decisions = DecisionServiceStub(self._channel)

    async def wait_until_reachable(self, timeout_seconds: float | None = None) -> None:
        """Return once the service can be reached; UnavailableError if it cannot within the timeout."""
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            await asyncio.wait_for(self._channel.channel_ready(), seconds)
        except TimeoutError:
            raise unreachable(self.address, seconds) from None

    async def call(self, effect: Call) -> Any:
        """Send one request of DecisionService; ClientError."""
        return await send_async(getattr(self._decisions, effect.method), effect.request, effect.timeout_seconds)

    async def get_spec(self, model: str = "") -> GetSpecResponse:
        """Return what a model expects; ClientError."""
        response: GetSpecResponse = await send_async(
            self._decisions.GetSpec, GetSpecRequest(model=model), self.timeout_seconds
        )
        return response

    def open_batch_stream(self) -> "AsyncBatchStream":
        """Return a stream that carries batches with less ado than a call each."""
        return AsyncBatchStream(self._decisions)

    async def close(self) -> None:
        """Close the channel; calls under way fail."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close."""
        await self.close()


class AsyncBatchStream:
    """One ActStream, used for one batch at a time. After a failure the next call opens a new one."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._call: Any = None
        self._num_batches = 0

    async def call(self, effect: Call) -> Any:
        """Send one request; ClientError. Only batches go by the stream."""
        if effect.method != "ActBatch":
            return await send_async(getattr(self._stub, effect.method), effect.request, effect.timeout_seconds)
        try:
            return await asyncio.wait_for(self._exchange(effect), effect.timeout_seconds)
        except TimeoutError:
            await self.close()
            raise UnavailableError(
                f"no answer on the stream within {effect.timeout_seconds:.1f} s", grpc.StatusCode.DEADLINE_EXCEEDED
            ) from None
        except grpc.RpcError as error:
            await self.close()
            raise from_rpc_error(error) from error
        except asyncio.InvalidStateError as error:  # what grpc raises for a write to a stream that has ended
            await self.close()
            raise UnavailableError("the service ended the stream", grpc.StatusCode.UNAVAILABLE) from error

    async def close(self) -> None:
        """End the stream."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _exchange(self, effect: Call) -> ActBatchResponse:
        if self._call is None:
            self._call = self._stub.ActStream(wait_for_ready=True)
        self._num_batches += 1
        await self._call.write(ActStreamRequest(batch_id=self._num_batches, requests=effect.request.requests))
        while True:
            answer = await self._call.read()
            if answer is grpc.aio.EOF:
                raise asyncio.InvalidStateError
            if answer.batch_id == self._num_batches:
                return ActBatchResponse(results=answer.results)


async def send_async(method: Any, request: Any, timeout_seconds: float) -> Any:
    """Send one request; ClientError."""
    try:
        return await method(request, timeout=timeout_seconds, wait_for_ready=True)
    except grpc.RpcError as error:
        raise from_rpc_error(error, timeout_seconds) from error


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    call: grpc.Call = error  # type: ignore[assignment]  # what grpc raises is a Call too
    return call.code()


def unreachable(address: str, seconds: float) -> UnavailableError:
    """Return the error for a service that nobody could reach."""
    return UnavailableError(
        f"no service answered at {address} within {seconds:g} s; is `hyperact serve` running there, "
        "and TLS on at both ends or at none?",
        grpc.StatusCode.UNAVAILABLE,
        reason="UNREACHABLE",
    )
