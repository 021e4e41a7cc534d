"""Answers requests: check, find the session's place, hand over to the pipeline.

It knows no transport: messages in, messages or a DecisionError out. Nothing is asked of the model or the log, and
nothing changes, before the whole request is checked.
"""

import os
import time
from collections.abc import Sequence

from hyperact.service import requests, tokens
from hyperact.service.callers import Caller, current_caller
from hyperact.service.errors import DecisionError, InvalidRequestError
from hyperact.service.keys import Keys
from hyperact.service.lanes import Lane
from hyperact.service.limits import Limits
from hyperact.service.metrics import Metrics
from hyperact.service.model_versions import ModelVersions
from hyperact.service.pipeline import Pipeline
from hyperact.service.rows import Answer, Answers, Row
from hyperact.service.sessions import Asked, Cursor, Replayed, SessionKey, Sessions, to_cursor
from hyperact.service.shadow import ShadowScorer
from hyperact.service.statuses import code_of
from hyperact.service.step_log import StepLog
from hyperact.service.traces import Traces
from hyperact.service.versions import Versions
from hyperact.service.work import Work
from hyperact.v1.decision_pb2 import ActRequest, ActResponse, GetSpecResponse, Report, ReportRequest, ReportResponse
from hyperact.v1.steps import StepKey, make_run, to_key


class DataPlane:
    """The decision path of one worker. Used from its event loop only."""

    def __init__(
        self,
        versions: Versions,
        step_log: StepLog,
        keys: Keys,
        limits: Limits,
        metrics: Metrics,
        traces: Traces | None = None,
        shadow: ShadowScorer | None = None,
    ) -> None:
        self._versions = versions
        self._log = step_log
        self._keys = keys
        self._limits = limits
        self._metrics = metrics
        self._sessions: Sessions[ActResponse] = Sessions(
            ttl_seconds=limits.session_ttl_seconds,
            max_sessions=limits.max_sessions,
            pin=lambda model, version: versions[model].pin(version),
            unpin=lambda model, version: versions[model].unpin(version),
            draw_run=lambda: make_run(time.time_ns() // 1_000_000, os.urandom(5)),
        )
        self._work = Work(limits.max_queued)
        self._traces = traces
        self._pipeline = Pipeline(self._sessions, step_log, keys, limits, metrics, self._work, traces, shadow)

    @property
    def num_sessions(self) -> int:
        """Sessions remembered."""
        return len(self._sessions)

    @property
    def num_in_work(self) -> int:
        """Requests that are not answered yet."""
        return self._work.num

    async def act(self, request: ActRequest) -> ActResponse:
        """Decide one step. Raises DecisionError."""
        answers = Answers(1)
        self._admit(request, current_caller.get(), answers, 0)
        (answer,) = await answers.all()
        if isinstance(answer, DecisionError):
            raise answer
        return answer

    async def act_batch(self, batch: Sequence[ActRequest]) -> list[Answer]:
        """Decide one step of each of several sessions; the answers come in the order of the requests.

        Raises InvalidRequestError if the batch is empty or too large; else every request has its own answer.
        """
        if not 1 <= len(batch) <= self._limits.max_batch:
            message = f"requests: expected 1 to {self._limits.max_batch}, got {len(batch)}"
            raise InvalidRequestError(message, reason="BAD_BATCH", field="requests")
        answers = Answers(len(batch))
        seen: set[SessionKey] = set()
        caller = current_caller.get()
        for place, request in enumerate(batch):
            key = SessionKey(request.model or self._versions.default_model, request.session)
            if key in seen:
                message = "session: it stands in this batch already; the steps of one session come one after the other"
                answers.put(place, InvalidRequestError(message, reason="DUPLICATE_SESSION", field="session"))
                continue
            seen.add(key)
            self._admit(request, caller, answers, place)
        return await answers.all()

    async def report(self, request: ReportRequest) -> ReportResponse:
        """Record an outcome without a decision. Raises DecisionError."""
        name = request.model or request.step_id.model or self._versions.default_model
        try:
            response = await self._report(request, name)
        except DecisionError as error:
            self._metrics.reports.labels(self._label(name), code_of(error).name).inc()
            raise
        self._metrics.reports.labels(name, "OK").inc()
        return response

    def get_spec(self, model: str) -> GetSpecResponse:
        """Tell what a model expects. Raises UnknownNameError."""
        name = model or self._versions.default_model
        versions = self._versions[name]
        serving = versions.serving
        response = GetSpecResponse(
            model=name, max_batch=self._limits.max_batch, fallback_num_actions=self._limits.fallback_num_actions
        )
        if serving is not None:
            response.spec.CopyFrom(serving.hypermodel.spec)
            if versions.is_uniform:
                response.fallback_num_actions = serving.hypermodel.num_actions
            else:
                response.version = serving.version
                response.deployment = serving.deployment
        return response

    def sweep(self) -> None:
        """Forget idle sessions and let go of versions that are not loaded any more; to be called now and then."""
        self._sessions.expire(time.monotonic())
        for status in self._versions.status():
            self._pipeline.lanes.close_unloaded(self._versions[status.model])

    async def drain(self) -> None:
        """Refuse requests from now on; return when none is in work."""
        self._work.refuse_new()
        await self._work.drained()

    async def close(self) -> None:
        """Give up what is still in work."""
        await self._pipeline.close()

    # From the request to its row.

    def _admit(self, request: ActRequest, caller: Caller, answers: Answers, place: int) -> None:
        """Answer a request, or put its row on the way."""
        name = request.model or self._versions.default_model
        try:
            caller.check_requests()
            self._work.check()
            self._enter(request, caller, self._versions[name], answers, place)
        except DecisionError as error:
            self._metrics.decision_child(self._label(name), "", code_of(error).name).inc()
            answers.put(place, error)

    def _enter(
        self, request: ActRequest, caller: Caller, versions: ModelVersions, answers: Answers, place: int
    ) -> None:
        now = time.monotonic()
        serving = self._pipeline.lanes.open(versions, versions.serving)
        key = SessionKey(versions.model, request.session)
        requests.check_names(request.session, request.run)
        caller.check_session(request.session)
        observation = requests.read_observation(request.observation, serving.lane.checker)
        requests.check_mask(request.action_mask, serving.lane.num_actions)
        asked = self._read_place(request, key, serving.lane)
        flight = self._sessions.begin(key, asked, serving.lane.rhythm, now, caller)
        if isinstance(flight, Replayed):
            self._metrics.replays.labels(versions.model).inc()
            answers.put(place, flight.answer)
            return
        if not flight.is_new:
            shared: Row = flight.payload  # type: ignore[assignment]
            shared.waiting.append((answers, place))
            return
        row = Row(
            request=request,
            flight=flight,
            step=flight.step,
            observation=observation,
            checker=serving.lane.checker,
            action_mask=request.action_mask,
            wants_posterior=request.want_posterior,
            begun=now,
            waiting=[(answers, place)],
            versions=versions,
            caller=caller,
            span=self._traces.current() if self._traces is not None else None,
        )
        flight.payload = row
        self._work.begin()
        caller.num_requests += 1
        self._pipeline.start(row, serving)

    def _read_place(self, request: ActRequest, key: SessionKey, lane: Lane) -> Asked:
        """Return what the request says of its place, its outcome checked and its token verified."""
        has_outcome = is_end = False
        if request.HasField("outcome"):
            requests.check_outcome(request.outcome, lane.checker)
            has_outcome, is_end = not requests.is_empty(request.outcome), requests.is_end(request.outcome)
        return Asked(
            digest=hash((request.observation.data, request.action_mask)),
            run=request.run,
            cursor=self._read_token(request.token, key),
            position=requests.read_position(request.position) if request.HasField("position") else None,
            has_outcome=has_outcome,
            is_end=is_end,
        )

    def _read_token(self, token: bytes, key: SessionKey) -> Cursor | None:
        if not token:
            return None
        return to_cursor(tokens.verify(self._keys.token, token, model=key.model, session=key.session))

    def _label(self, model: str) -> str:
        """Return a model's name for a metric; names that are not served would make the metric grow without bound."""
        try:
            return self._versions[model].model
        except DecisionError:
            return ""

    # Reports.

    async def _report(self, request: ReportRequest, name: str) -> ReportResponse:
        caller = current_caller.get()
        caller.check_requests()
        self._work.check()
        versions = self._versions[name]
        lane = self._pipeline.lanes.open(versions, versions.serving).lane
        key = SessionKey(name, request.session)
        step, cursor, report = self._read_report(request, key, lane)
        caller.check_session(request.session)
        with self._work.one(), caller.request():
            await self._log.append([report])
        response = ReportResponse(step_id=report.step_id)
        if requests.is_end(request.outcome):
            after = self._sessions.commit_report(key, step, cursor, lane.rhythm, time.monotonic(), caller)
            if after is not None:
                response.token = tokens.sign(self._keys.token, after.to_state(key))
        return response

    def _read_report(
        self, request: ReportRequest, key: SessionKey, lane: Lane
    ) -> tuple[StepKey, Cursor | None, Report]:
        """Return the step that a checked report belongs to, its token's cursor and its record."""
        requests.check_names(request.session, "")
        if requests.is_empty(request.outcome):
            message = "outcome: expected a reward, terminated or truncated"
            raise InvalidRequestError(message, field="outcome")
        requests.check_outcome(request.outcome, lane.checker)
        named = None
        if request.HasField("step_id"):
            requests.check_step_id(request.step_id, model=key.model, session=key.session)
            named = to_key(request.step_id)
        report_id = requests.report_id_of(request.report_id, request.outcome)
        cursor = self._read_token(request.token, key)
        step = self._sessions.locate_report(key, named, cursor)
        report = Report(step_id=step.to_message(), outcome=request.outcome, report_id=report_id)
        report.time.GetCurrentTime()
        return step, cursor, report
