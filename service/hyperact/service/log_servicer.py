"""LogService over gRPC: translates, nothing else."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from hyperact.service.errors import DecisionError
from hyperact.service.log_reader import LogReader
from hyperact.service.statuses import abort
from hyperact.v1 import log_pb2_grpc
from hyperact.v1.log_pb2 import GetRangeRequest, GetRangeResponse, ReadRequest, ReadResponse


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
