"""One model's log on a stream of NATS JetStream, as many replicas shipped it. The layout is in hyperact.v1.streams.

The rules:

1. The stream is one partition; an entry's offset is its sequence number. A round is a stretch of sequence numbers, and
   reads the same whenever it is read.
2. A stretch is read by a consumer of its own, which is made for it, acknowledges nothing and is forgotten. One that
   skips a message, or falls silent (its server died), is given up, and reading goes on after the last entry.
3. A stretch is at its end when the model's last message in it was read, by the word of the stream's leader: other
   servers may not have it yet, and would say that there is nothing more.
4. The client library lives on an event loop in a thread of its own; whoever reads blocks.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import nats.errors
import nats.js.errors
import structlog
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamInfo

from hyperact.trainer.log_source import Extent, LogLostError, LogSource, LogUnavailableError, nowhere
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.streams import (
    StreamAccess,
    StreamAddress,
    connect_options,
    model_subjects,
    stream_partition,
    training_subject,
)

logger = structlog.get_logger()

answer_seconds = 5.0
connect_seconds = 2
forget_seconds = 60.0
messages_at_once = 256
_Result = TypeVar("_Result")


class JetStreamSource(LogSource):
    """One model's log on a stream. To be closed; connects when it is first used.

    Args:
        address: where the stream is.
        access: who we are to its servers.
        model: the registered model.
    """

    def __init__(self, address: StreamAddress, access: StreamAccess, model: str) -> None:
        self._address = address
        self._access = access
        self._model = model
        self._client: Client | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jet-stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let the connection and the thread go."""
        self._call(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def extent(self, positions: Mapping[str, int] = nowhere, num_training_steps: int = 0) -> Extent:
        """Ask how far the stream goes. Raises LogUnavailableError, also if there is no stream yet."""
        return self._call(self._extent(positions, num_training_steps))

    def acknowledge(self, reader: str, positions: Mapping[str, int]) -> None:
        """Do nothing: a stream keeps what its own limits say, for all its readers."""

    def _read_partition(
        self,
        partition: str,
        begin: int,
        end: int,
        extent: Extent,  # noqa: ARG002 - what else there is does not matter
    ) -> Iterator[Sequence[LogEntry]]:
        """Yield what the stream holds from a sequence number to before another."""
        last = self._call(self._last_before(partition, begin, end))
        if last < max(begin, 1):
            return
        stretch = self._stretch(max(begin, 1))
        try:
            is_over = False
            while not is_over:
                messages = self._call(_next(stretch))
                is_over = messages[-1].metadata.sequence.stream >= last
                entries = [entry for message in messages if (entry := _entry(partition, message)) is not None]
                entries = [entry for entry in entries if entry.offset < end]
                if entries:
                    yield entries
        finally:
            self._call(_end(stretch))

    async def _extent(self, positions: Mapping[str, int], num_training_steps: int) -> Extent:
        with _telling():
            context = await self._context()
            info = await context.stream_info(self._address.stream)
            partition, state = _partition(self._address, info), info.state
            num_new = await self._count(context, max(positions.get(partition, 1), state.first_seq, 1))
        return Extent(
            ends={partition: state.last_seq + 1},
            num_training_steps=num_training_steps + num_new,
            begins={partition: max(state.first_seq, 1)},
        )

    async def _count(self, context: JetStreamContext, begin: int) -> int:
        """Return how many training steps there are from a sequence number on."""
        config = _consumer(begin)
        subject = training_subject(self._address.stream, self._model)
        counter = await context.pull_subscribe(subject, stream=self._address.stream, config=config)
        info = await counter.consumer_info()
        await counter.unsubscribe()
        await context.delete_consumer(self._address.stream, info.name)
        return info.num_pending or 0

    async def _last_before(self, partition: str, begin: int, end: int) -> int:
        """Return the sequence number of a message at which a stretch is over; 0 if it holds nothing of the model."""
        with _telling():
            context = await self._context()
            info = await context.stream_info(self._address.stream)
            if _partition(self._address, info) != partition:
                raise LogLostError(f"the stream at {self._address} is not partition {partition}: it was made anew")
            if 0 < begin < info.state.first_seq:
                raise LogLostError(f"the stream begins at {info.state.first_seq} by now, {begin} was to be read next")
            try:
                subjects = model_subjects(self._address.stream, self._model)
                last = await context.get_last_msg(self._address.stream, subjects)
            except nats.js.errors.NotFoundError:
                return 0
        return min(last.seq or 0, end - 1)

    async def _stretch(self, begin: int) -> AsyncIterator[list[Msg]]:
        """Yield the model's messages from a sequence number on, without a gap."""
        with _telling():
            context = await self._context()
            subjects = model_subjects(self._address.stream, self._model)
            consumer = await context.pull_subscribe(subjects, stream=self._address.stream, config=_consumer(begin))
            try:
                num_read = 0
                while True:
                    messages = await consumer.fetch(messages_at_once, timeout=answer_seconds)
                    for message in messages:
                        num_read += 1
                        if message.metadata.sequence.consumer != num_read:
                            raise LogUnavailableError("messages of the stream were lost on the way")
                    if messages:
                        yield messages
            finally:
                with contextlib.suppress(nats.errors.Error, TimeoutError):
                    await consumer.unsubscribe()

    async def _context(self) -> JetStreamContext:
        if self._client is None or not self._client.is_connected:
            await self._disconnect()
            self._client = await self._connect()
        return self._client.jetstream(timeout=answer_seconds)

    async def _connect(self) -> Client:
        """Connect to one of the servers, in any order. Raises LogUnavailableError."""
        client = Client()
        failures: list[Exception] = []

        async def keep(error: Exception) -> None:
            failures.append(error)

        try:
            async with asyncio.timeout(connect_seconds * (1 + len(self._address.servers))):
                await client.connect(
                    list(self._address.servers),
                    name="hyperact retrain",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=connect_seconds,
                    error_cb=keep,
                    **connect_options(self._access),
                )
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            await client.close()
            raise LogUnavailableError(f"{self._address}: {_describe(failures[-1] if failures else error)}") from error
        return client

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await client.close()

    def _call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run something on the loop and return its result. After a failure the next call connects anew."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except LogUnavailableError:
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
            raise


async def _next(stretch: AsyncIterator[list[Msg]]) -> list[Msg]:
    return await anext(stretch)


async def _end(stretch: AsyncIterator[list[Msg]]) -> None:
    await stretch.aclose()  # type: ignore[attr-defined]  # a generator


def _consumer(begin: int) -> ConsumerConfig:
    return ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=begin,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=forget_seconds,
        mem_storage=True,
        num_replicas=1,
    )


def _partition(address: StreamAddress, info: StreamInfo) -> str:
    assert info.created is not None
    return stream_partition(address.stream, info.created)


def _entry(partition: str, message: Msg) -> LogEntry | None:
    """Return a message as an entry of the stream; None, and a word, if it is none of ours."""
    sequence = message.metadata.sequence.stream
    try:
        entry = LogEntry.FromString(message.data)
    except DecodeError:
        logger.warning("a message of the stream is not a log entry: passed over", offset=sequence)
        return None
    entry.partition, entry.offset = partition, sequence
    return entry


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Turn what the client library raises into LogUnavailableError."""
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise LogUnavailableError(_describe(error)) from error


def _describe(error: Exception) -> str:
    """Return what went wrong in a line: some of the library's errors have no words."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
