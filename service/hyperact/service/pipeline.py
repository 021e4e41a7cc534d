"""From a row to its answers: choose the version, gather into a batch, decide, log, answer.

The rules:

1. A row whose callers have all given up, by cancelling or by a deadline, leaves its batch before it is decided, and
   its session stays where it was. From then on it belongs to the batch: it is decided, logged and remembered, so that
   a retry finds the answer.
2. A step is answered, and its session moves on, when the log's append has returned. While a batch is being logged the
   next one gathers or, in inference threads, is decided.
3. Whatever fails, every row is answered, and a row that was not logged leaves its session where it was.
4. What a shadow scores was decided, logged and answered before; nothing here waits for it.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from hyperact.service import requests
from hyperact.service.batching import Batcher
from hyperact.service.drafts import StepWriter, make_answer, make_answer_again, make_token
from hyperact.service.errors import DecisionError, GivenUpError, PreconditionError, UnavailableError
from hyperact.service.keys import Keys
from hyperact.service.lanes import Decided, Lane
from hyperact.service.limits import Limits
from hyperact.service.log_records import Record
from hyperact.service.metrics import Metrics
from hyperact.service.model_versions import LoadedVersion, ModelVersions
from hyperact.service.open_lanes import OpenLane, OpenLanes
from hyperact.service.rows import Answer, Row
from hyperact.service.sessions import Cursor, Sessions, cursor_after
from hyperact.service.shadow import ShadowScorer
from hyperact.service.statuses import code_of
from hyperact.service.step_log import StepLog
from hyperact.service.traces import Times, Traces
from hyperact.service.work import Work
from hyperact.v1.decision_pb2 import ActResponse, Step
from hyperact.v1.deployment_pb2 import DeploymentRole
from hyperact.v1.indices import Float32s, derive_canary, derive_indices, index_key_id
from hyperact.v1.steps import RunNames, StepKey

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Drafts:
    """A batch that is decided and not logged: rows, records, answers, and where the sessions will stand."""

    rows: list[Row]
    records: list[Record]
    answers: list[ActResponse]
    cursors: list[Cursor]


class Pipeline:
    """Takes rows and answers them. Used from one event loop only.

    Attributes:
        lanes: the open lanes.
    """

    def __init__(
        self,
        sessions: Sessions[ActResponse],
        step_log: StepLog,
        keys: Keys,
        limits: Limits,
        metrics: Metrics,
        work: Work,
        traces: Traces | None = None,
        shadow: ShadowScorer | None = None,
    ) -> None:
        self._shadow = shadow
        self._sessions = sessions
        self._log = step_log
        self._keys = keys
        self._key_id = index_key_id(keys.index)
        self._limits = limits
        self._metrics = metrics
        self._work = work
        self._traces = traces
        self.lanes = OpenLanes(keys.index, limits.fallback_num_actions, self._make_batcher)
        self._indices = lru_cache(maxsize=limits.max_sessions)(self._derive_indices)
        self._canaries = lru_cache(maxsize=limits.max_sessions)(partial(derive_canary, keys.index))
        self._names = lru_cache(maxsize=limits.max_sessions)(RunNames)
        self._threads = ThreadPoolExecutor(limits.inference_threads, "inference") if limits.inference_threads else None
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up what is still in work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # From the row to its lane.

    def start(self, row: Row, serving: OpenLane) -> None:
        """Put a row on its way; its answer will come."""
        try:
            self._choose(row, serving)
        except Exception:
            logger.exception("a row failed")
            self._fail([row], _internal_error())

    def _choose(self, row: Row, serving: OpenLane) -> None:
        """Find the version that decides the row, by rule 6 of the sessions, and put the row into its batch."""
        flight, versions = row.flight, row.versions
        pinned = flight.pinned_version
        if serving.lane.rhythm.is_pin_start(row.step):
            self._place(row, self._begin_with(row), is_repinned=False, serving=serving)
        elif not flight.is_pin_known or versions.must_leave(pinned):
            self._place(row, self._begin_with(row), is_repinned=True)
        elif not pinned:
            is_possible = self._can_fall_back(row)
            self._place(row, None if is_possible else self._begin_with(row), is_repinned=not is_possible)
        elif versions.is_overdue(pinned):
            self._place(row, self._begin_with(row), is_repinned=True)
        elif (loaded := versions.get(pinned)) is not None:
            self._place(row, loaded, is_repinned=False, deployment=flight.pinned_deployment, serving=serving)
        else:
            self._spawn(self._obtain(row, pinned), [row])

    def _begin_with(self, row: Row) -> LoadedVersion | None:
        """Return what an episode of a row's session begins with now; None for the fallback."""
        versions = row.versions
        if versions.is_uniform:
            return None
        if versions.challenger is not None:
            loaded, share = versions.challenger
            if self._canaries(row.step.model, row.step.session, loaded.version) < share:
                return loaded
        return versions.serving

    async def _obtain(self, row: Row, pinned: str) -> None:
        """Load the version that a session came with from elsewhere, or move the session to the serving one."""
        versions = row.versions
        loaded = await versions.obtain(pinned)
        row.is_obtained = True
        if loaded is None or versions.must_leave(pinned):
            self._place(row, self._begin_with(row), is_repinned=True)
        else:
            self._place(row, loaded, is_repinned=False, deployment=row.flight.pinned_deployment)

    def _place(
        self,
        row: Row,
        loaded: LoadedVersion | None,
        *,
        is_repinned: bool,
        deployment: int = 0,
        serving: OpenLane | None = None,
    ) -> None:
        """Put a row into the batch of a version, or of the fallback. `serving` is what serves now, if that is known."""
        if loaded is None and not self._can_fall_back(row):
            why = "does not know how many actions there are" if self._limits.is_fallback_allowed else "is off"
            message = f"model {row.versions.model!r} has no version yet, and the uniform fallback {why}"
            self._fail([row], PreconditionError(message, reason="NO_VERSION"))
            return
        if serving is not None and loaded is row.versions.serving:
            active = serving
        else:
            active = self.lanes.open(row.versions, loaded)
        lane = active.lane
        if lane.checker is not None and lane.checker is not row.checker:
            try:
                row.content = requests.read_observation(row.request.observation, lane.checker)
                for error in requests.find_bad_values([row.request.observation], [row.content], lane.checker).values():
                    raise error
                requests.check_mask(row.action_mask, lane.num_actions)
            except DecisionError as error:
                self._fail([row], error)
                return
        row.lane = lane
        row.is_repinned = is_repinned
        if loaded is not None:
            row.deployment = deployment or loaded.deployment
            row.segment = lane.rhythm.segment_of(row.step, row.flight.segment_before)
            row.indices = self._indices(row.step[:4], row.segment, lane.index_dim, lane.distribution, lane.num_indices)
        self._sessions.assign(row.flight, lane.version)
        active.batcher.add(row)

    def _can_fall_back(self, row: Row) -> bool:
        """Tell whether a row can be decided without a version: whether it is allowed, and the actions are known."""
        if row.versions.is_uniform and row.versions.serving is not None:
            return True
        is_known = self._limits.fallback_num_actions or row.action_mask or row.versions.serving is not None
        return self._limits.is_fallback_allowed and bool(is_known)

    def _derive_indices(self, episode: tuple[str, str, str, int], segment: int, *draw: Any) -> Float32s:
        return derive_indices(self._keys.index, StepKey(*episode, 0), segment, *draw)

    # From the batch to the answers.

    def _make_batcher(self, lane: Lane) -> Batcher[Row]:
        writer = StepWriter(lane, self._key_id)
        batcher: Batcher[Row] = Batcher(
            lambda rows: self._spawn(self._run(lane, batcher, writer, rows), rows),
            max_rows=self._limits.max_batch,
            wait_seconds=self._limits.batch_wait_seconds,
            # With threads one more than can be decided at a time: that one is being logged. On the loop the time of
            # the log is better spent on taking in rows: the next batch is the larger for it.
            max_running=self._limits.inference_threads + 1,
        )
        return batcher

    async def _run(self, lane: Lane, batcher: Batcher[Row], writer: StepWriter, rows: list[Row]) -> None:
        begun, num_rows = time.monotonic(), len(rows)
        try:
            if not rows[0].is_obtained:  # or it waited for its version
                self._work.note_wait(begun - rows[0].begun)
            rows = self._drop_unwanted(rows)
            if not rows:
                return
            if self._threads is None or not lane.version:
                decided = lane.decide(rows)
            else:
                decided = await asyncio.get_running_loop().run_in_executor(self._threads, lane.decide, rows)
            await self._finish(lane, rows, self._draft(lane, writer, rows, decided), begun)
        finally:
            batcher.finished(num_rows)

    def _drop_unwanted(self, rows: list[Row]) -> list[Row]:
        """Return the rows that somebody waits for; work for nobody would keep those waiting who do."""
        unwanted = [row for row in rows if not row.is_wanted]
        if not unwanted:
            return rows
        self._fail(unwanted, GivenUpError("the caller gave up before the step was decided"))
        return [row for row in rows if row.waiting]

    async def _finish(self, lane: Lane, rows: list[Row], drafts: _Drafts, begun: float) -> None:
        """Log a decided batch and answer its rows."""
        if not drafts.rows:
            return
        at_log = time.monotonic()
        try:
            earlier = await self._log.append(drafts.records)
        except DecisionError as error:
            self._fail(drafts.rows, error)
            return
        logged = time.monotonic()
        self._settle(drafts, earlier)
        versions, num_rows = drafts.rows[0].versions, len(drafts.rows)
        versions.count_steps(lane.version, num_rows)
        times = Times(rows[0].begun, begun, at_log, logged, time.monotonic())
        exemplar = None
        if self._traces is not None:
            self._traces.record_batch(drafts.rows, versions.model, lane.version, times)
            exemplar = self._traces.exemplar(rows[0].span)
        self._metrics.count_batch(versions.model, lane.version, num_rows, times, exemplar)
        self._metrics.role_decisions.labels(versions.model, _role_name(versions, lane.version)).inc(num_rows)
        if self._shadow is not None and versions.shadow is not None:
            self._shadow.offer(versions, drafts.rows, [Step.FromString(record.payload) for record in drafts.records])

    def _draft(
        self, lane: Lane, writer: StepWriter, rows: list[Row], decided: list[Decided | DecisionError]
    ) -> _Drafts:
        """Make the records and answers of the rows that were decided, and answer those that were not."""
        drafts = _Drafts([], [], [], [])
        nanoseconds = time.time_ns()
        shared, time_ms = writer.share(nanoseconds), nanoseconds // 1_000_000
        for row, result in zip(rows, decided, strict=True):
            if isinstance(result, DecisionError):
                row.versions.count_errors(lane.version, 1)
                self._fail([row], result)
                continue
            names = self._names(*row.step[:3])
            cursor = cursor_after(row.step, lane.version, row.deployment, row.segment, lane.rhythm)
            token = make_token(self._keys.token, names, cursor)
            drafts.rows.append(row)
            drafts.records.append(writer.record(row, names, result, shared, time_ms))
            drafts.cursors.append(cursor)
            drafts.answers.append(make_answer(row, result, lane.version, token))
        return drafts

    def _settle(self, drafts: _Drafts, earlier: list[Step | None]) -> None:
        """Move the sessions on and hand out the answers; a step that was in the log before is answered from there."""
        for row, answer, cursor, logged in zip(drafts.rows, drafts.answers, drafts.cursors, earlier, strict=True):
            if logged is not None:
                self._settle_from_log(row, logged)
                continue
            self._sessions.commit(row.flight, cursor, answer, answer.token)
            self._hand_out(row, answer)

    def _settle_from_log(self, row: Row, logged: Step) -> None:
        request = row.request
        if logged.observation.data != row.content or logged.action_mask != request.action_mask:
            message = f"observation: step {row.step} was decided for another observation or mask"
            self._fail([row], PreconditionError(message, reason="OTHER_OBSERVATION", field="observation"))
            return
        assert row.lane is not None
        cursor = cursor_after(row.step, logged.version, logged.deployment, logged.segment, row.lane.rhythm)
        token = make_token(self._keys.token, self._names(*row.step[:3]), cursor)
        answer = make_answer_again(logged, token)
        self._metrics.replays.labels(row.versions.model).inc()
        self._sessions.assign(row.flight, logged.version)
        self._sessions.commit(row.flight, cursor, answer, token)
        self._hand_out(row, answer)

    def _fail(self, rows: list[Row], error: DecisionError) -> None:
        """Answer rows with an error; their sessions stay where they were."""
        for row in rows:
            if not row.waiting:
                continue
            version = row.lane.version if row.lane is not None else ""
            self._metrics.decision_child(row.versions.model, version, code_of(error).name).inc()
            self._sessions.abandon(row.flight)
            self._hand_out(row, error)

    def _hand_out(self, row: Row, answer: Answer) -> None:
        waiting, row.waiting = row.waiting, []
        for answers, place in waiting:
            answers.put(place, answer)
        row.caller.num_requests -= 1
        self._work.end()

    def _spawn(self, work: Coroutine[Any, Any, None], rows: list[Row]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work, rows))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, work: Coroutine[Any, Any, None], rows: list[Row]) -> None:
        """Work on rows; whatever happens to it, nobody waits for them in vain."""
        try:
            await work
        except asyncio.CancelledError:
            self._fail(rows, UnavailableError("the service is shutting down", reason="DRAINING"))
            raise
        except Exception:
            logger.exception("a batch of %d rows failed", len(rows))
            self._fail(rows, _internal_error())


def _role_name(versions: ModelVersions, version: str) -> str:
    """Return what a batch's version serves as, as a metric says it."""
    if not version:
        return "fallback"
    role = DeploymentRole.Name(versions.role_of(version)).removeprefix("DEPLOYMENT_ROLE_").lower()
    return "draining" if role == "unspecified" else role


def _internal_error() -> DecisionError:
    return DecisionError("the service failed on this request; its log says why")
