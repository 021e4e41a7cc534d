"""Answers requests: check, find the session's place, hand over to the pipeline.

It knows no transport: messages in, messages or a DecisionError out. Nothing is asked of the model or the log, and
nothing changes, before the whole request is checked.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hyperact.service import requests, tokens
from hyperact.service.callers import Caller, current_caller
from hyperact.service.errors import DecisionError, InvalidRequestError
from hyperact.service.keys import Keys
from hyperact.service.lanes import Lane
from hyperact.service.limits import Limits
from hyperact.service.metrics import Metrics
from hyperact.service.model_versions import ModelVersions
from hyperact.service.open_lanes import OpenLane
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
from hyperact.v1.tensor_pb2 import Tensor


class Entrance(NamedTuple):
    """Where the requests of a call enter that ask one model."""

    versions: ModelVersions
    serving: OpenLane
    caller: Caller
    now: float


class Arrival(NamedTuple):
    """A request that is read: its place in the call, and what of it was looked at."""

    place: int
    request: ActRequest
    key: SessionKey
    observation: Tensor
    content: bytes
    mask: bytes


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
        self._work = Work(limits.max_queued, limits.max_wait_seconds)
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
        self._admit([request], answers)
        (answer,) = await answers.all()
        if isinstance(answer, DecisionError):
            raise answer
        return answer

    async def act_batch(self, batch: Sequence[ActRequest]) -> list[Answer]:
        """Decide one step of each of several sessions; the answers come in the order of the requests.

        Raises InvalidRequestError if the batch is empty or too large; else every request has its own answer.
        """
        self._check_size(batch)
        answers = Answers(len(batch))
        self._admit(batch, answers)
        return await answers.all()

    def begin_batch(self, batch: Sequence[ActRequest], on_complete: Callable[[Answers], None]) -> Answers:
        """Do as `act_batch`, and call `on_complete` with the answers when they are: now or later.

        For many batches of one caller: none of them needs a task of its own. Raises as `act_batch`.
        """
        self._check_size(batch)
        answers = Answers(len(batch), on_complete)
        self._admit(batch, answers)
        return answers

    def _check_size(self, batch: Sequence[ActRequest]) -> None:
        if not 1 <= len(batch) <= self._limits.max_batch:
            message = f"requests: expected 1 to {self._limits.max_batch}, got {len(batch)}"
            raise InvalidRequestError(message, reason="BAD_BATCH", field="requests")

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

    # From the requests of a call to their rows.

    def _admit(self, batch: Sequence[ActRequest], answers: Answers) -> None:
        """Answer the requests of a call or put their rows on the way, each by itself."""
        caller = current_caller.get()
        now = time.monotonic()
        for name, places in self._by_model(batch, answers).items():
            try:
                caller.check_requests()
                self._work.check()
                versions = self._versions[name]
            except DecisionError as error:
                self._refuse(name, answers, places, error)
                continue
            entrance = Entrance(versions, self._pipeline.lanes.open(versions, versions.serving), caller, now)
            for arrival in self._read(entrance, batch, answers, places):
                try:
                    self._enter(entrance, arrival, answers)
                except DecisionError as error:
                    self._refuse(name, answers, [arrival.place], error)

    def _by_model(self, batch: Sequence[ActRequest], answers: Answers) -> dict[str, list[int]]:
        """Return the places of the requests of each model; a second request of a session is refused."""
        default = self._versions.default_model
        if len(batch) == 1:
            return {batch[0].model or default: [0]}
        seen: set[tuple[str, str]] = set()
        by_model: dict[str, list[int]] = {}
        for place, request in enumerate(batch):
            name = request.model or default
            key = name, request.session
            if key in seen:
                message = "session: it stands in this batch already; the steps of one session come one after the other"
                answers.put(place, InvalidRequestError(message, reason="DUPLICATE_SESSION", field="session"))
                continue
            seen.add(key)
            by_model.setdefault(name, []).append(place)
        return by_model

    def _refuse(self, name: str, answers: Answers, places: Sequence[int], error: DecisionError) -> None:
        self._metrics.decision_child(self._label(name), "", code_of(error).name).inc(len(places))
        for place in places:
            answers.put(place, error)

    def _read(
        self, entrance: Entrance, batch: Sequence[ActRequest], answers: Answers, places: Sequence[int]
    ) -> list[Arrival]:
        """Return those requests of a call whose names, observation and mask are good; refuse the others."""
        lane, model = entrance.serving.lane, entrance.versions.model
        arrivals: list[Arrival] = []
        for place in places:
            request = batch[place]
            session, mask = request.session, request.action_mask
            try:
                requests.check_names(session, request.run)
                entrance.caller.check_session(session)
                observation = request.observation
                content = requests.read_observation(observation, lane.checker)
                if mask:
                    requests.check_mask(mask, lane.num_actions)
            except DecisionError as error:
                self._refuse(model, answers, [place], error)
                continue
            arrivals.append(Arrival(place, request, SessionKey(model, session), observation, content, mask))
        if not arrivals:
            return []
        bad = requests.find_bad_values(
            [arrival.observation for arrival in arrivals], [arrival.content for arrival in arrivals], lane.checker
        )
        for number, problem in bad.items():
            self._refuse(model, answers, [arrivals[number].place], problem)
        return [arrival for number, arrival in enumerate(arrivals) if number not in bad] if bad else arrivals

    def _enter(self, entrance: Entrance, arrival: Arrival, answers: Answers) -> None:
        """Find a request's place in its session, and put its row on the way if it is new. Raises DecisionError."""
        versions, serving, caller, now = entrance
        place, request, key, _, content, mask = arrival
        caller.check_requests()
        self._work.check()
        lane = serving.lane
        flight = self._sessions.begin(key, self._read_place(arrival, lane), lane.rhythm, now, caller)
        if isinstance(flight, Replayed):
            self._metrics.replays.labels(versions.model).inc()
            answers.put(place, flight.answer)
            return
        if not flight.is_new:
            shared: Row = flight.payload  # type: ignore[assignment]
            shared.waiting.append((answers, place))
            return
        row = Row(
            request,
            flight,
            flight.step,
            content,
            lane.checker,
            mask,
            request.want_posterior,
            now,
            [(answers, place)],
            versions,
            caller,
        )
        if self._traces is not None:
            row.span = self._traces.current()
        flight.payload = row
        self._work.begin()
        caller.num_requests += 1
        self._pipeline.start(row, serving)

    def _read_place(self, arrival: Arrival, lane: Lane) -> Asked:
        """Return what the request says of its place, its outcome checked and its token verified."""
        request = arrival.request
        has_outcome = is_end = False
        if request.HasField("outcome"):
            outcome = request.outcome
            requests.check_outcome(outcome, lane.checker)
            is_end = requests.is_end(outcome)
            has_outcome = is_end or outcome.HasField("reward")
        return Asked(
            hash((arrival.content, arrival.mask)),
            request.run,
            self._read_token(request.token, arrival.key),
            requests.read_position(request.position) if request.HasField("position") else None,
            has_outcome,
            is_end,
        )

    def _read_token(self, token: bytes, key: SessionKey) -> Cursor | None:
        if not token:
            return None
        known = self._sessions.recognise(key, token)
        if known is not None:
            return known
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
