"""DecisionService over gRPC: translates, nothing else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import grpc

from hyperact.service.data_plane import DataPlane
from hyperact.service.errors import DecisionError
from hyperact.service.rows import Answer, Answers
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
        stream = _Stream(self._data_plane)
        reader = asyncio.create_task(stream.read(request_iterator))
        try:
            while (response := await stream.responses.get()) is not None:
                if isinstance(response, DecisionError):
                    await abort(context, response)
                if isinstance(response, BaseException):
                    raise response
                yield response
                stream.places.release()
        finally:
            reader.cancel()
            stream.give_up()
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


class _Stream:
    """The batches of one stream, between their requests and their responses.

    A batch holds one of the `places` until its answer was sent: the rest waits in the transport, also behind a client
    that sends and does not read.

    Attributes:
        responses: what is to be sent: a response, an error that ends the stream, or None at its end.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        self._in_work: set[Answers] = set()
        self.responses: asyncio.Queue[ActStreamResponse | BaseException | None] = asyncio.Queue()
        self.places = asyncio.Semaphore(max_batches_per_stream)

    async def read(self, requests: AsyncIterator[ActStreamRequest]) -> None:
        """Put every batch on its way; return when the stream is over and all are answered."""
        try:
            async for request in requests:
                await self.places.acquire()
                self._begin(request)
            for _ in range(max_batches_per_stream):
                await self.places.acquire()
        except Exception as error:  # noqa: BLE001 - it is raised where the stream is answered
            self.responses.put_nowait(error)
        finally:
            self.responses.put_nowait(None)

    def give_up(self) -> None:
        """Note that nobody waits for what is in work."""
        for answers in self._in_work:
            answers.is_wanted = False

    def _begin(self, request: ActStreamRequest) -> None:
        batch_id = request.batch_id

        def respond(answers: Answers) -> None:
            self._in_work.discard(answers)
            self.responses.put_nowait(ActStreamResponse(batch_id=batch_id, results=_to_results(answers.complete())))

        answers = self._data_plane.begin_batch(request.requests, respond)
        if not answers.is_complete:
            self._in_work.add(answers)


def _to_results(answers: Sequence[Answer]) -> list[ActResult]:
    return [
        ActResult(error=to_act_error(answer)) if isinstance(answer, DecisionError) else ActResult(response=answer)
        for answer in answers
    ]
