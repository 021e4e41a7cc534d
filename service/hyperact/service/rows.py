"""One step on its way from the request to its answers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyperact.service.callers import Caller
from hyperact.service.errors import DecisionError
from hyperact.service.lanes import Lane
from hyperact.service.model_versions import ModelVersions
from hyperact.service.sessions import Flight
from hyperact.v1.decision_pb2 import ActRequest, ActResponse
from hyperact.v1.indices import Float32s
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import TensorChecker

Answer = ActResponse | DecisionError


_without_indices: Float32s = np.empty((1, 0), np.float32)


def _no_indices() -> Float32s:
    return _without_indices


class Answers:
    """The answers of one call, as they come in.

    Args:
        on_complete: called when the last one has come.

    Attributes:
        is_wanted: whether the call still waits: it was not cancelled, and its deadline has not passed.
    """

    __slots__ = ("_future", "_num_missing", "_on_complete", "is_wanted", "results")

    def __init__(self, num_requests: int, on_complete: "Callable[[Answers], None] | None" = None) -> None:
        self.is_wanted = True
        self._on_complete = on_complete
        self.results: list[Answer | None] = [None] * num_requests
        self._num_missing = num_requests
        self._future: asyncio.Future[None] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the last answer has come."""
        return not self._num_missing

    def put(self, place: int, answer: Answer) -> None:
        """Take in the answer to one request."""
        self.results[place] = answer
        self._num_missing -= 1
        if self._num_missing:
            return
        if self._on_complete is not None:
            self._on_complete(self)
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def all(self) -> list[Answer]:
        """Return the answers, in order, when they are complete."""
        if self._num_missing:
            self._future = asyncio.get_running_loop().create_future()
            try:
                await self._future
            except asyncio.CancelledError:
                self.is_wanted = False
                raise
        return self.complete()

    def complete(self) -> list[Answer]:
        """Return the answers, in order; they are complete."""
        return [answer for answer in self.results if answer is not None]


@dataclass(slots=True)
class Row:
    """One step on its way.

    Attributes:
        content: the observation's elements, as bytes.
        begun: when the request came, in the event loop's monotonic seconds.
        waiting: whom to answer, and at which place; empty once the row is answered.
        checker: what the observation was checked with.
        caller: who asked first.
        lane: what decides it; None until that is found.
        is_obtained: whether its version had to be loaded first.
        span: of the call that it came with; None without tracing.
    """

    request: ActRequest
    flight: Flight
    step: StepKey
    content: bytes
    checker: TensorChecker | None
    action_mask: bytes
    wants_posterior: bool
    begun: float
    waiting: list[tuple[Answers, int]]
    versions: ModelVersions
    caller: Caller
    indices: Float32s = field(default_factory=_no_indices)
    lane: Lane | None = None
    deployment: int = 0
    segment: int = 0
    is_repinned: bool = False
    is_obtained: bool = False
    span: Any = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for the answer."""
        for answers, _ in self.waiting:  # noqa: SIM110 asked of every row: a generator would cost as much as its batch
            if answers.is_wanted:
                return True
        return False
