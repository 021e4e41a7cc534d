"""LogService over gRPC: translates, nothing else."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from hyperact.service.errors import DecisionError
from hyperact.service.log_reader import LogReader
from hyperact.service.statuses import abort
from hyperact.v1 import log_pb2_grpc
from hyperact.v1.log_pb2 import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    ForgetRequest,
    ForgetResponse,
    GetRangeRequest,
    GetRangeResponse,
    ReadRequest,
    ReadResponse,
)


class LogServicer(log_pb2_grpc.LogServiceServicer):
    """Answers from a LogReader."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader

    async def Read(
        self, request: ReadRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[ReadResponse]:
        """Stream entries."""
        positions = {position.partition: position.offset for position in request.positions}
        responses = self._reader.read(
            request.model, positions, is_following=request.follow, max_entries=request.max_entries
        )
        try:
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response
        except DecisionError as error:
            await abort(context, error)

    async def GetRange(
        self, request: GetRangeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> GetRangeResponse:
        """Tell where partitions begin and end."""
        try:
            return await self._reader.get_range(request.model)
        except DecisionError as error:
            await abort(context, error)

    async def Acknowledge(
        self, request: AcknowledgeRequest, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AcknowledgeResponse:
        """Note until where a reader has read."""
        try:
            positions = {position.partition: position.offset for position in request.positions}
            await self._reader.acknowledge(request.reader, positions)
            return AcknowledgeResponse()
        except DecisionError as error:
            await abort(context, error)

    async def Forget(self, request: ForgetRequest, context: "grpc.aio.ServicerContext[Any, Any]") -> ForgetResponse:
        """Keep nothing for a reader any more."""
        try:
            await self._reader.forget(request.reader)
            return ForgetResponse()
        except DecisionError as error:
            await abort(context, error)
