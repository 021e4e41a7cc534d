"""What sessions do, as effects: the part that sync and asyncio clients share. Pure: the clock is given."""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any

from numpy.typing import ArrayLike, NDArray

from hyperact.clients.effects import Effects, Sleep
from hyperact.clients.errors import BatchError, ClientError, RequestError, from_act_error
from hyperact.clients.retries import Retries, call, call_until
from hyperact.clients.session_memory import Decision, SessionMemory
from hyperact.v1.decision_pb2 import ActBatchRequest, ActRequest, Outcome, ReportRequest
from hyperact.v1.steps import StepKey

# One observation per row, or by row for only some of them.
Rows = Sequence[ArrayLike] | Mapping[int, ArrayLike] | NDArray[Any]


class SessionCore:
    """One session's calls."""

    def __init__(self, memory: SessionMemory, retries: Retries, clock: Callable[[], float]) -> None:
        self.memory = memory
        self._retries = retries
        self._clock = clock

    def act(
        self, observation: ArrayLike, action_mask: ArrayLike | None = None, *, want_posterior: bool = False
    ) -> Effects[Decision]:
        """Ask for one decision; the outcome that waits goes along."""
        request = self.memory.next_request(observation, action_mask, want_posterior=want_posterior)
        return self.memory.take_answer((yield from self._call("Act", request)))

    def report(self, outcome: Outcome, step: StepKey | None = None, report_id: str = "") -> Effects[StepKey]:
        """Report an outcome at once and return the step that it was recorded for."""
        request = self.memory.report(outcome, step, report_id)
        response = yield from call("Report", request, self._retries, self._clock)
        self.memory.take_report_answer(request, response)
        return step or self._last_step()

    def close_episode(self) -> Effects[None]:
        """Report the outcome that waits, if one does."""
        request = self.memory.closing_report()
        if request is not None:
            response = yield from self._call("Report", request)
            self.memory.take_report_answer(request, response)

    def _call(self, method: str, request: ActRequest | ReportRequest) -> Effects[Any]:
        """Send a request with the outcome that waits."""
        try:
            return (yield from call(method, request, self._retries, self._clock))
        except RequestError as error:
            self.memory.take_refusal(error.field)
            raise

    def _last_step(self) -> StepKey:
        assert self.memory.last_step is not None
        return self.memory.last_step


class VectorCore:
    """The calls of several sessions that act together.

    Args:
        max_batch: the most requests in one message; more rows go in several messages.
    """

    def __init__(
        self, memories: Sequence[SessionMemory], retries: Retries, clock: Callable[[], float], max_batch: int
    ) -> None:
        self.memories = memories
        self._retries = retries
        self._clock = clock
        self._max_batch = max_batch

    def act(
        self,
        observations: Rows,
        action_masks: Sequence[ArrayLike] | None = None,
    ) -> Effects[list[Decision | None]]:
        """Ask for a decision for each row; None for the rows that took no part.

        Raises:
            ValueError: there are not as many observations, or masks, as rows.
            BatchError: some rows failed for good; the others were answered.
            ClientError: the whole batch failed. Asking again with the same observations is safe.
        """
        self._check_length("action_masks", action_masks)
        if not isinstance(observations, Mapping):
            self._check_length("observations", observations)
        rows: Mapping[int, ArrayLike] = (
            observations if isinstance(observations, Mapping) else dict(enumerate(observations))
        )
        requests = {
            row: self.memories[row].next_request(observation, None if action_masks is None else action_masks[row])
            for row, observation in rows.items()
        }
        decisions: list[Decision | None] = [None] * len(self.memories)
        errors: dict[int, ClientError] = {}
        waiting = list(requests)
        for start in range(0, len(waiting), self._max_batch):
            chunk = {row: requests[row] for row in waiting[start : start + self._max_batch]}
            yield from self._act_chunk(chunk, decisions, errors)
        if errors:
            raise BatchError(errors, list(decisions))
        return decisions

    def observe(self, row: int, outcome: Outcome) -> None:
        """Remember what followed one row's action."""
        self.memories[row].observe(outcome)

    def close_episodes(self) -> Effects[None]:
        """Report every outcome that waits."""
        for memory in self.memories:
            yield from SessionCore(memory, self._retries, self._clock).close_episode()

    def _check_length(self, name: str, values: Sized | None) -> None:
        if values is not None and len(values) != len(self.memories):
            raise ValueError(f"{name}: expected one per row, {len(self.memories)}, got {len(values)}")

    def _act_chunk(
        self,
        requests: dict[int, ActRequest],
        decisions: list[Decision | None],
        errors: dict[int, ClientError],
    ) -> Effects[None]:
        """Send one message until each row is answered or has failed for good; only rows that failed go again."""
        deadline = self._clock() + self._retries.deadline_seconds
        attempt = 0
        while requests:
            batch = ActBatchRequest(requests=requests.values())
            response = yield from call_until("ActBatch", batch, self._retries, self._clock, deadline)
            delay_seconds = 0.0
            for row, result in zip(list(requests), response.results, strict=True):
                if result.HasField("response"):
                    decisions[row] = self.memories[row].take_answer(result.response)
                    del requests[row]
                    continue
                error = from_act_error(result.error)
                pause_seconds = self._retries.delay_seconds(error, attempt)
                if pause_seconds is None or self._clock() + pause_seconds >= deadline:
                    self.memories[row].take_refusal(error.field)
                    errors[row] = error
                    del requests[row]
                else:
                    delay_seconds = max(delay_seconds, pause_seconds)
            if requests:
                yield Sleep(delay_seconds)
            attempt += 1
