"""A shadow scores what others decided: the same observations under an index of its own, logged beside, never served.

Rules:

1. A batch is offered when it was decided, logged and answered. What is offered goes into a queue of bounded length and
   size; when that is full the batch is dropped and counted. Nobody waits.
2. Scoring runs in one thread of low priority, which the end of the process does not wait for. A shadow that fails or
   answers no finite numbers costs its own scores; one that hangs, all scores from then on.
3. What came of a batch is a Step for each row under the served step's id, as the shadow would have decided it: its
   action, propensity, margin, segment and version. It has no observation and no outcome: those stand in the log under
   the same id. These records go into a log of their own (`shadow/` in the data directory), never synced to the disk:
   nothing is learned from them, and a trainer, an audit and an export never meet them.
4. That log stops where the disk has less than twice the space free that the log of what happened needs.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hyperact.service.errors import DecisionError
from hyperact.service.lanes import Decided, VersionLane
from hyperact.service.metrics import Metrics
from hyperact.service.model_versions import LoadedVersion, ModelVersions, ShadowScores
from hyperact.service.priorities import lower_priority
from hyperact.service.rows import Row
from hyperact.service.step_log import StepLog
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.indices import Float32s, derive_indices
from hyperact.v1.steps import StepKey

logger = logging.getLogger(__name__)
max_queued_rows = 1024
max_queued_bytes = 64 << 20


@dataclass(slots=True)
class _Question:
    """One served step, as the shadow's lane sees it."""

    step: StepKey
    content: bytes
    action_mask: bytes
    indices: Float32s
    served: Step
    segment: int
    wants_posterior: bool = False


@dataclass(frozen=True, slots=True)
class _Offer:
    """A batch to score, and where to count what came of it."""

    model: str
    loaded: LoadedVersion
    scores: ShadowScores
    rows: list[tuple[StepKey, bytes, int | None, Step]]


class ShadowScorer:
    """Scores batches beside serving. `offer` is called from the event loop only.

    Args:
        key: the index key.
        open_log: opens the log of scores; called in the scorer's thread when there is something to log.
    """

    def __init__(self, key: bytes, metrics: Metrics, open_log: Callable[[], StepLog]) -> None:
        self._key = key
        self._metrics = metrics
        self._open_log = open_log
        self._log: StepLog | None = None
        self._queue: queue.SimpleQueue[_Offer] = queue.SimpleQueue()
        self._num_queued_rows = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lane: VersionLane | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, versions: ModelVersions, rows: Sequence[Row], steps: Sequence[Step]) -> None:
        """Have a served batch scored by the model's shadow, if it has the time."""
        loaded = versions.shadow
        if loaded is None:
            return
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
            self._thread.start()
        pairs = zip(rows, steps, strict=True)
        taken = [(row.step, row.content, row.flight.segment_before, step) for row, step in pairs]
        limit = min(max_queued_rows, max_queued_bytes // max(1, len(rows[0].content)))
        if self._num_queued_rows + len(taken) > limit and self._num_queued_rows:
            versions.shadow_scores.num_dropped += len(taken)
            self._count(versions.model, "dropped", len(taken))
            return
        with self._lock:
            self._num_queued_rows += len(taken)
        self._queue.put(_Offer(versions.model, loaded, versions.shadow_scores, taken))

    async def close(self) -> None:
        """Give up what waits, and let the log go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._log is not None:
            await self._log.close()

    # Below: the scorer's thread, down to _record.

    def _run(self) -> None:
        lower_priority()
        while True:
            offer = self._queue.get()
            try:
                questions, decided = self._score(offer)
            except Exception:
                logger.exception("the shadow failed on a batch")
                questions, decided = [], [None] * len(offer.rows)
            with self._lock:
                self._num_queued_rows -= len(offer.rows)
            loop = self._loop
            assert loop is not None
            try:
                if self._log is None:
                    self._log = self._open_log()
                loop.call_soon_threadsafe(self._take, offer, questions, decided)
            except RuntimeError:
                return  # the loop is closed: the worker ended
            except Exception:
                logger.exception("the shadow's log cannot be opened")
                loop.call_soon_threadsafe(self._take, offer, [], [None] * len(offer.rows))

    def _score(self, offer: _Offer) -> tuple[list[_Question], "Sequence[Decided | DecisionError | None]"]:
        lane = self._lane
        if lane is None or lane.hypermodel is not offer.loaded.hypermodel:
            lane = self._lane = VersionLane(self._key, offer.loaded.version, offer.loaded.hypermodel)
        questions = []
        for step, content, segment_before, served in offer.rows:
            segment = lane.rhythm.segment_of(step, segment_before)
            indices = derive_indices(self._key, step, segment, lane.index_dim, lane.distribution, lane.num_indices)
            questions.append(_Question(step, content, served.action_mask, indices, served, segment))
        return questions, lane.decide(questions)

    def _take(
        self, offer: _Offer, questions: list[_Question], decided: "Sequence[Decided | DecisionError | None]"
    ) -> None:
        """Count what came of a batch, and log it; on the event loop."""
        scored = [
            (question, result)
            for question, result in zip(questions, decided, strict=False)
            if isinstance(result, Decided)
        ]
        num_agreed = sum(result.action == question.served.action for question, result in scored)
        scores, num_failed = offer.scores, len(offer.rows) - len(scored)
        scores.num_scored += len(scored)
        scores.num_agreed += num_agreed
        scores.num_failed += num_failed
        self._count(offer.model, "agreed", num_agreed)
        self._count(offer.model, "differed", len(scored) - num_agreed)
        self._count(offer.model, "failed", num_failed)
        if scored:
            task = asyncio.get_running_loop().create_task(self._record(offer, scored))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _record(self, offer: _Offer, scored: list[tuple[_Question, Decided]]) -> None:
        assert self._log is not None
        assert self._lane is not None
        records = [_to_record(question, result, offer.loaded) for question, result in scored]
        try:
            await self._log.append(records)
        except DecisionError as error:
            offer.scores.num_dropped += len(records)
            self._count(offer.model, "dropped", len(records))
            logger.debug("scores were not logged: %s", error)

    def _count(self, model: str, result: str, number: int) -> None:
        if number:
            self._metrics.shadow_steps.labels(model, result).inc(number)


def _to_record(question: _Question, result: Decided, loaded: LoadedVersion) -> Step:
    served, hypermodel = question.served, loaded.hypermodel
    return Step(
        step_id=served.step_id,
        action=result.action,
        version=loaded.version,
        deployment=loaded.deployment,
        propensity=result.propensity,
        margin=result.margin,
        segment=question.segment,
        action_mask=served.action_mask,
        time=served.time,
        evaluation=served.evaluation,
        reference_distribution=hypermodel.spec.reference_distribution,
        version_digest=hypermodel.digest,
        index_key_id=served.index_key_id,
    )
