"""DecisionService over gRPC: translates, nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import grpc

from hyperact.service.data_plane import DataPlane
from hyperact.service.errors import DecisionError
from hyperact.service.rows import Answer
from hyperact.service.statuses import abort, to_act_error
from hyperact.v1 import decision_pb2_grpc
from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActBatchResponse,
    ActRequest,
    ActResponse,
    ActResult,
    ActStreamRequest,
    ActStreamResponse,
    GetSpecRequest,
    GetSpecResponse,
    ReportRequest,
    ReportResponse,
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
max_batches_per_stream = 16


class DecisionServicer(decision_pb2_grpc.DecisionServiceServicer):
    """Answers from the data plane."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane

    async def Act(self, request: ActRequest, context: Context) -> ActResponse:
        """Decide one step."""
        try:
            return await self._data_plane.act(request)
        except DecisionError as error:
            await abort(context, error)

    async def ActBatch(self, request: ActBatchRequest, context: Context) -> ActBatchResponse:
        """Decide one step of each of several sessions."""
        try:
            answers = await self._data_plane.act_batch(request.requests)
        except DecisionError as error:
            await abort(context, error)
        return ActBatchResponse(results=_to_results(answers))

    async def ActStream(
        self, request_iterator: AsyncIterator[ActStreamRequest], context: Context
    ) -> AsyncIterator[ActStreamResponse]:
        """Answer batches as they come; one that is quick may overtake one that is not."""
        responses: asyncio.Queue[ActStreamResponse | BaseException | None] = asyncio.Queue()
        places = asyncio.Semaphore(max_batches_per_stream)
        reader = asyncio.create_task(self._answer_all(request_iterator, responses, places))
        try:
            while (response := await responses.get()) is not None:
                if isinstance(response, DecisionError):
                    await abort(context, response)
                if isinstance(response, BaseException):
                    raise response
                yield response
                places.release()
        finally:
            reader.cancel()
            # What it met, the end of the stream met too; unasked, Python would log it as lost.
            await asyncio.gather(reader, return_exceptions=True)

    async def Report(self, request: ReportRequest, context: Context) -> ReportResponse:
        """Record an outcome."""
        try:
            return await self._data_plane.report(request)
        except DecisionError as error:
            await abort(context, error)

    async def GetSpec(self, request: GetSpecRequest, context: Context) -> GetSpecResponse:
        """Tell what a model expects."""
        try:
            return self._data_plane.get_spec(request.model)
        except DecisionError as error:
            await abort(context, error)

    async def _answer_all(
        self,
        requests: AsyncIterator[ActStreamRequest],
        responses: "asyncio.Queue[ActStreamResponse | BaseException | None]",
        places: asyncio.Semaphore,
    ) -> None:
        """Answer every batch of a stream.

        A batch holds one of the `places` until its answer was sent: the rest waits in the transport, also behind a
        client that sends and does not read.
        """

        async def answer(request: ActStreamRequest) -> None:
            try:
                answers = await self._data_plane.act_batch(request.requests)
                responses.put_nowait(ActStreamResponse(batch_id=request.batch_id, results=_to_results(answers)))
            except Exception as error:  # noqa: BLE001 - it is raised where the stream is answered
                responses.put_nowait(error)

        try:
            async with asyncio.TaskGroup() as group:
                async for request in requests:
                    await places.acquire()
                    group.create_task(answer(request))
        except* DecisionError as errors:  # from whoever hands us the requests: the stream may not go on
            responses.put_nowait(errors.exceptions[0])
        finally:
            responses.put_nowait(None)


def _to_results(answers: Sequence[Answer]) -> list[ActResult]:
    return [
        ActResult(error=to_act_error(answer)) if isinstance(answer, DecisionError) else ActResult(response=answer)
        for answer in answers
    ]
