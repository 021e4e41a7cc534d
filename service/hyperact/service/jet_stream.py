"""The writing side of a NATS JetStream stream: connects, finds or makes the stream, publishes. The rules are in
hyperact.v1.streams.

A connection that fails is not mended but closed, and `open` makes another one: what is known of it is then simply
whether there is one. Nothing here tries again; `shipping` does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable, Sequence
from typing import TypeVar

import nats
import nats.errors
import nats.js.errors
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck, StorageType, StoreCompression, StreamConfig, StreamInfo

from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.streams import (
    StreamAccess,
    StreamAddress,
    all_subjects,
    connect_options,
    id_header,
    is_same_record,
    message_id,
    second_message_id,
    stream_partition,
    subject_of,
)

answer_seconds = 5.0
connect_seconds = 2
max_in_flight = 128
duplicate_window_seconds = 120.0
_Result = TypeVar("_Result")


class BrokerError(Exception):
    """The stream cannot be written now, and why."""


class JetStream:
    """One stream. Used by one task at a time.

    Args:
        address: where it is.
        access: who we are to the servers.
        num_replicas: how many servers keep each message, of a stream that is made here; one that is there is left as it
            is.
    """

    def __init__(self, address: StreamAddress, access: StreamAccess, num_replicas: int = 1) -> None:
        self._address = address
        self._access = access
        self._num_replicas = num_replicas
        self._client: Client | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._client is not None and self._client.is_connected

    async def open(self) -> str:
        """Connect, make the stream if it is not there, and return the id of the partition that it is to readers.

        Raises BrokerError.
        """
        if not self.is_connected:
            await self.close()
            self._client = await self._connect()
        info = await _told(self._find_or_make(self._context()))
        assert info.created is not None
        return stream_partition(self._address.stream, info.created)

    async def publish(self, entries: Sequence[LogEntry]) -> None:
        """Return when the servers have all entries; BrokerError, and then they may have any of them."""
        for begin in range(0, len(entries), max_in_flight):
            window = entries[begin : begin + max_in_flight]
            acks = await _all(self._send(entry, message_id(entry)) for entry in window)
            repeated = [(entry, ack.seq) for entry, ack in zip(window, acks, strict=True) if ack.duplicate]
            await _all(self._settle(entry, sequence) for entry, sequence in repeated)

    async def close(self) -> None:
        """Let the connection go."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await client.close()

    async def _connect(self) -> Client:
        """Connect to one of the servers, in any order."""
        client = Client()
        failures: list[Exception] = []

        async def keep(error: Exception) -> None:
            failures.append(error)

        try:
            async with asyncio.timeout(connect_seconds * (1 + len(self._address.servers))):
                await client.connect(
                    list(self._address.servers),
                    name="hyperact serve",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=connect_seconds,
                    error_cb=keep,
                    **connect_options(self._access),
                )
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            await client.close()
            raise BrokerError(f"{self._address}: {_describe(failures[-1] if failures else error)}") from error
        return client

    def _context(self) -> JetStreamContext:
        if self._client is None:
            raise BrokerError("there is no connection")
        return self._client.jetstream(timeout=answer_seconds)

    async def _find_or_make(self, context: JetStreamContext) -> StreamInfo:
        name = self._address.stream
        with contextlib.suppress(nats.js.errors.NotFoundError):
            return await context.stream_info(name)
        config = StreamConfig(
            name=name,
            description="Steps and reports of Hyperact",
            subjects=[all_subjects(name)],
            storage=StorageType.FILE,
            num_replicas=self._num_replicas,
            duplicate_window=duplicate_window_seconds,
            compression=StoreCompression.S2,
        )
        try:
            return await context.add_stream(config)
        except nats.js.errors.BadRequestError as refusal:
            try:
                return await context.stream_info(name)  # another replica was faster
            except nats.js.errors.NotFoundError:
                raise refusal from None

    async def _send(self, entry: LogEntry, name: str) -> PubAck:
        return await _told(
            self._context().publish(
                subject_of(self._address.stream, entry),
                entry.SerializeToString(),
                stream=self._address.stream,
                headers={id_header: name},
            )
        )

    async def _settle(self, entry: LogEntry, sequence: int) -> None:
        """Send an entry under another id if what the stream holds under its own is not the same decision.

        That is so when two replicas decided a step and only one of them could answer: the other's must not hide it.
        """
        try:
            stored = await _told(self._context().get_msg(self._address.stream, sequence))
            if is_same_record(LogEntry.FromString(stored.data or b""), entry):
                return
        except (_GoneError, DecodeError):
            pass
        await self._send(entry, second_message_id(entry))


class _GoneError(BrokerError):
    """There is no such message or stream."""


async def _told(call: Awaitable[_Result]) -> _Result:
    """Await a call and turn what the client library raises into BrokerError."""
    try:
        return await call
    except nats.js.errors.NotFoundError as error:
        raise _GoneError(_describe(error)) from error
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise BrokerError(_describe(error)) from error


async def _all(calls: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """Await all calls, then return their results or raise the first error."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]  # no error is left in it


def _describe(error: Exception) -> str:
    """Return what went wrong in a line: some of the library's errors have no words."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
