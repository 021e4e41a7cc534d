"""What a client remembers of one session. Pure: messages in, messages out.

The rules:

1. A session is one agent; a run is one life of its process. The run is chosen here once, so that a restarted process
   fences its old self.
2. The first request carries its position (episode 0, step 0); every later one the last answer's token. So each request
   names its step, and the same request may be sent again until it is answered.
3. What followed an action is remembered by `observe` and travels with the next request, or at once by a report.
   It is forgotten only when an answer says that it arrived.
4. A request that failed changes nothing here, but for one: if the outcome itself was refused, another may be observed
   in its place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperact.v1.decision_pb2 import ActRequest, ActResponse, Outcome, Position, ReportRequest, ReportResponse
from hyperact.v1.steps import StepKey, check_run, check_session, to_key
from hyperact.v1.tensors import to_tensor

Float64s = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PosteriorEstimate:
    """How the version values the actions over all indices: float64 [A] each; forbidden actions have probability 0."""

    means: Float64s
    standard_deviations: Float64s
    probabilities: Float64s


@dataclass(frozen=True, slots=True)
class Decision:
    """The service's answer for one step.

    Attributes:
        version, deployment: "" and 0 for the uniform fallback.
        propensity: the probability of the action over indices, in (0, 1].
        margin: by how much its value beats the second-best allowed action's under the index used.
        posterior: on request only.
    """

    action: int
    step_id: StepKey
    version: str
    deployment: int
    propensity: float
    margin: float
    is_fallback: bool
    posterior: PosteriorEstimate | None = None


class SessionMemory:
    """One session's run, token and pending outcome.

    Args:
        session: the agent's name.
        run: this process's life; greater ones fence smaller ones, compared as text.
        model: the registered model; empty for the service's default.
        evaluation: whether its steps are only for measuring.
    """

    def __init__(self, session: str, run: str, model: str = "", *, evaluation: bool = False) -> None:
        check_session(session)
        check_run(run)
        self.session = session
        self.run = run
        self.model = model
        self.evaluation = evaluation
        self.last_step: StepKey | None = None
        self._token = b""
        self._outcome: Outcome | None = None
        self._awaits_outcome = False

    @property
    def has_outcome(self) -> bool:
        """Whether an outcome waits to be sent."""
        return self._outcome is not None

    def observe(self, outcome: Outcome) -> None:
        """Remember what followed the last action. RuntimeError if no action waits for it."""
        if not self._awaits_outcome:
            raise RuntimeError(f"session {self.session}: observe() without an act() before it: no action waits for it")
        self._outcome = outcome
        self._awaits_outcome = False

    def next_request(
        self, observation: ArrayLike, action_mask: ArrayLike | None = None, *, want_posterior: bool = False
    ) -> ActRequest:
        """Return the request for the next step; the same arguments give the same request until it is answered."""
        request = ActRequest(
            session=self.session,
            observation=to_tensor(np.asarray(observation)),
            outcome=self._outcome,
            action_mask=mask_bytes(action_mask),
            model=self.model,
            run=self.run,
            evaluation=self.evaluation,
            want_posterior=want_posterior,
        )
        if self._token:
            request.token = self._token
        else:
            request.position.CopyFrom(Position())
        return request

    def take_answer(self, response: ActResponse) -> Decision:
        """Take in the answer and return it as a decision."""
        self._token = response.token
        self._outcome = None
        self._awaits_outcome = True
        self.last_step = to_key(response.step_id)
        return Decision(
            action=response.action,
            step_id=self.last_step,
            version=response.version,
            deployment=response.deployment,
            propensity=response.propensity,
            margin=response.margin,
            is_fallback=response.fallback,
            posterior=_posterior(response) if response.HasField("posterior") else None,
        )

    def take_refusal(self, field: str) -> None:
        """Take in that the service refused a request for a field: an outcome at fault makes room for another."""
        if self._outcome is not None and field.partition(".")[0] == "outcome":
            self._outcome = None
            self._awaits_outcome = True

    def closing_report(self) -> ReportRequest | None:
        """Return the report of the outcome that waits; None if none does."""
        return self.report(self._outcome) if self._outcome is not None else None

    def report(self, outcome: Outcome, step: StepKey | None = None, report_id: str = "") -> ReportRequest:
        """Return the report of an outcome for a step, by default the last. RuntimeError if there is none."""
        named = step or self.last_step
        if named is None:
            raise RuntimeError(f"session {self.session}: a report before the first act(): there is no step yet")
        return ReportRequest(
            session=self.session,
            outcome=outcome,
            token=self._token,
            step_id=named.to_message(),
            report_id=report_id,
            model=self.model,
        )

    def take_report_answer(self, request: ReportRequest, response: ReportResponse) -> None:
        """Take in the answer to a report."""
        if response.token:
            self._token = response.token
        if to_key(request.step_id) != self.last_step:
            return
        if self._outcome == request.outcome:
            self._outcome = None
        if request.outcome.terminated or request.outcome.truncated:
            self._awaits_outcome = False


def make_outcome(
    reward: float | None, terminated: bool, truncated: bool, final_observation: ArrayLike | None = None
) -> Outcome:
    """Return what followed an action. The final observation is sent only if the episode ended."""
    outcome = Outcome(terminated=bool(terminated), truncated=bool(truncated))
    if reward is not None:
        outcome.reward = float(reward)
    if final_observation is not None and (terminated or truncated):
        outcome.final_observation.CopyFrom(to_tensor(np.asarray(final_observation)))
    return outcome


def mask_bytes(action_mask: Any) -> bytes:
    """Return an action mask as the wire has it: one byte, 0 or 1, per action; empty for None."""
    return b"" if action_mask is None else np.asarray(action_mask).astype(np.bool_).tobytes()


def _posterior(response: ActResponse) -> PosteriorEstimate:
    return PosteriorEstimate(
        means=np.array(response.posterior.means),
        standard_deviations=np.array(response.posterior.standard_deviations),
        probabilities=np.array(response.posterior.probabilities),
    )
