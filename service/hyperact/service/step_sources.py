"""Where an auditor reads logged steps: the log's own files, or a service that has them."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Protocol

import grpc

from hyperact.service.errors import UnavailableError
from hyperact.service.log_reader import LogReader
from hyperact.v1.channels import ConnectionSettings, open_aio_channel
from hyperact.v1.log_pb2 import GetRangeRequest, GetRangeResponse, LogEntry, LogPosition, ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub
from hyperact.v1.steps import StepKey, to_key

_channel_options = (("grpc.max_receive_message_length", -1),)


class StepSource(Protocol):
    """A log that can be read. Every method raises UnavailableError if it cannot be."""

    async def get_range(self, model: str) -> GetRangeResponse:
        """Return the partitions, and how many steps of a model there are."""
        ...

    def pages(self, model: str, positions: Mapping[str, int]) -> AsyncIterator[list[LogEntry]]:
        """Yield the entries of a model from the positions (partition id to offset) on, in pages, to the newest."""
        ...

    async def find(self, step: StepKey) -> list[LogEntry]:
        """Return the records of a step: none, or one for each partition that has it."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


class LocalSteps:
    """The log under a data directory. A service may be writing it, or none."""

    def __init__(self, data_dir: Path) -> None:
        directory = data_dir / "log"
        if not directory.is_dir():
            raise UnavailableError(f"there is no step log in {directory}: name one with --data-dir or --address")
        self._reader = LogReader(directory)

    async def get_range(self, model: str) -> GetRangeResponse:
        """Return the partitions, and how many steps of a model there are."""
        return await self._reader.get_range(model)

    async def pages(self, model: str, positions: Mapping[str, int]) -> AsyncIterator[list[LogEntry]]:
        """Yield the entries from the positions on."""
        async for response in self._reader.read(model, positions, is_following=False):
            yield list(response.entries)

    async def find(self, step: StepKey) -> list[LogEntry]:
        """Return the records of a step, by the log's own index."""
        return await self._reader.find(step)

    async def close(self) -> None:
        """Let the threads go."""
        self._reader.close()


class RemoteSteps:
    """The log of a service, read through LogService."""

    def __init__(self, address: str, connection: ConnectionSettings) -> None:
        self._address = address
        self._channel = open_aio_channel(address, connection, _channel_options)
        self._stub = LogServiceStub(self._channel)

    async def get_range(self, model: str) -> GetRangeResponse:
        """Return the partitions, and how many steps of a model there are."""
        try:
            found: GetRangeResponse = await self._stub.GetRange(GetRangeRequest(model=model))
        except grpc.aio.AioRpcError as error:
            raise self._unavailable(error) from error
        return found

    async def pages(self, model: str, positions: Mapping[str, int]) -> AsyncIterator[list[LogEntry]]:
        """Yield the entries from the positions on."""
        begins = [LogPosition(partition=partition, offset=offset) for partition, offset in positions.items()]
        try:
            async for response in self._stub.Read(ReadRequest(model=model, positions=begins)):
                yield list(response.entries)
        except grpc.aio.AioRpcError as error:
            raise self._unavailable(error) from error

    async def find(self, step: StepKey) -> list[LogEntry]:
        """Return the records of a step. LogService has no index by step: the whole log is read."""
        entries = [entry async for page in self.pages(step.model, {}) for entry in page]
        return [entry for entry in entries if entry.HasField("step") and to_key(entry.step.step_id) == step]

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    def _unavailable(self, error: grpc.aio.AioRpcError) -> UnavailableError:
        return UnavailableError(f"{self._address}: {error.code().name}: {error.details()}")
