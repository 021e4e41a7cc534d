"""A service in small, for clients' tests: it answers calls by the contract and keeps a log, in one process."""

from dataclasses import dataclass, field
from typing import Any

from hyperact.clients.effects import Call
from hyperact.v1.decision_pb2 import (
    ActBatchResponse,
    ActRequest,
    ActResponse,
    ActResult,
    Position,
    Report,
    ReportRequest,
    ReportResponse,
    SessionState,
    Step,
    StepId,
)
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.steps import to_key
from hyperact.v1.transitions import Assembled, TransitionAssembler


@dataclass
class ToyService:
    """Stands where a connection does. Tokens are unsigned; actions come from `actions` in turn."""

    num_actions: int = 2
    deployment: int = 1
    log: list[LogEntry] = field(default_factory=list)
    _count: int = 0

    def call(self, effect: Call) -> Any:
        """Answer one call."""
        if effect.method == "ActBatch":
            return ActBatchResponse(results=[ActResult(response=self.act(one)) for one in effect.request.requests])
        return self.act(effect.request) if effect.method == "Act" else self.report(effect.request)

    def act(self, request: ActRequest) -> ActResponse:
        """Decide and log one step."""
        state = SessionState.FromString(request.token) if request.token else SessionState()
        has_outcome = request.HasField("outcome")
        if has_outcome and (request.outcome.terminated or request.outcome.truncated):
            state.episode, state.number = state.episode + 1, 0
        step_id = StepId(
            model="toy", session=request.session, run=request.run, episode=state.episode, number=state.number
        )
        self._count += 1
        action = self._count % self.num_actions
        step = Step(
            step_id=step_id,
            observation=request.observation,
            action=action,
            version="1",
            deployment=self.deployment,
            propensity=0.5,
            evaluation=request.evaluation,
        )
        if has_outcome:
            step.previous_outcome.CopyFrom(request.outcome)
            step.previous_position.CopyFrom(state.last_position)
        self.log.append(LogEntry(step=step))
        state.last_position.CopyFrom(Position(episode=state.episode, number=state.number))
        state.number += 1
        return ActResponse(
            action=action,
            version="1",
            deployment=self.deployment,
            propensity=0.5,
            token=state.SerializeToString(),
            step_id=step_id,
        )

    def report(self, request: ReportRequest) -> ReportResponse:
        """Log one report."""
        report = Report(step_id=request.step_id, outcome=request.outcome, report_id=request.report_id or "digest")
        self.log.append(LogEntry(report=report))
        state = SessionState.FromString(request.token)
        if request.outcome.terminated or request.outcome.truncated:
            state.episode, state.number = state.episode + 1, 0
        return ReportResponse(token=state.SerializeToString(), step_id=request.step_id)

    def assemble(self) -> Assembled:
        """Return what a trainer would learn from."""
        kind = AgentKind.AGENT_KIND_EPISODIC
        return TransitionAssembler(ModelSpec(agent_kind=kind, discount=0.99)).push(self.log)

    @property
    def num_steps(self) -> int:
        """How many steps are in the log."""
        return len({to_key(entry.step.step_id) for entry in self.log if entry.HasField("step")})
