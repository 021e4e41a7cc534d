"""From what was logged to what is learned from: steps and reports in, transitions and episode summaries out.

The rules:

1. Entries may come in any order and more than once; a step or report that came before is passed over.
2. The outcome of a step comes with the next step of its run (`previous_outcome`) or by a report.
3. A step's reward is settled by the first outcome that carries one. With a reward window, rewards that come within the
   window after the step's time add up, and the reward is settled when `advance` is told a time after the window;
   without any, the declared default stands. A step that has neither is never learned from.
4. A step is complete when its reward is settled and what followed is known: the next step of the same episode, or an
   outcome that ended the episode. A truncated episode needs the true final observation, for the value after it counts.
5. In a one-shot model every step is its own episode: it ends with its reward. An outcome that says `terminated` says
   that nothing more will come: it closes the step's window there and then.
6. Evaluation steps give episode summaries and no transitions.
7. A complete step is emitted once. Steps of one episode come out in order when they went in in order.
8. An episode is summed up when its end is known and all its steps are complete.
9. Two replicas can have decided one step by different versions, if one of them died before it could answer. Then the
   one stands by whose version the episode goes on, whichever came first; where nothing follows in it, the first.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.decision_pb2 import Outcome, Report, Step
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.tensors import to_array

RunKey = tuple[str, str]  # session, run


@dataclass(frozen=True, slots=True)
class Transition:
    """One step and what followed it. Rewards are raw: clipping is a view of the learner's.

    `segment` is the number of the step at which this step's index was drawn; steps of one segment share it.
    """

    key: StepKey
    observation: NDArray[Any]
    action: int
    reward: float
    next_observation: NDArray[Any]
    terminated: bool
    truncated: bool
    propensity: float
    version: str
    deployment: int
    action_mask: bytes
    next_action_mask: bytes
    segment: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """One ended episode. `version` and `deployment` are those of its first step."""

    session: str
    run: str
    episode: int
    episode_return: float
    num_steps: int
    version: str
    deployment: int
    is_evaluation: bool
    end_time_seconds: float


@dataclass(slots=True)
class Assembled:
    """What came out: transitions and episodes that became complete, in order."""

    transitions: list[Transition] = field(default_factory=list)
    episodes: list[EpisodeSummary] = field(default_factory=list)


class _Seen:
    """A set of numbers from 0 that is mostly contiguous: a prefix, and what lies beyond it."""

    __slots__ = ("_beyond", "_prefix")

    def __init__(self) -> None:
        self._prefix = 0
        self._beyond: set[int] = set()

    def __contains__(self, number: int) -> bool:
        return number < self._prefix or number in self._beyond

    def add(self, number: int) -> None:
        self._beyond.add(number)
        while self._prefix in self._beyond:
            self._beyond.remove(self._prefix)
            self._prefix += 1


_nothing_seen = _Seen()


@dataclass(slots=True)
class _Pending:
    """A step that is not complete yet; `step` is None while only its outcome has come."""

    step: Step | None = None
    time_seconds: float = 0.0
    rewards: list[tuple[float, float]] = field(default_factory=list)  # (when it came in Unix seconds, reward)
    reward: float | None = None
    is_settled: bool = False
    terminated: bool = False
    truncated: bool = False
    end_time_seconds: float = 0.0
    final_observation: NDArray[Any] | None = None
    next_observation: NDArray[Any] | None = None
    next_action_mask: bytes = b""
    others: list[Step] = field(default_factory=list)  # the same step by other versions
    next_version: str | None = None  # the version that must have decided it; None: not known
    report_ids: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Episode:
    """The running sums of one episode."""

    num_complete: int = 0
    episode_return: float = 0.0
    num_steps: int | None = None
    version: str = ""
    deployment: int = 0
    is_evaluation: bool = False
    seen: _Seen = field(default_factory=_Seen)
    end_time_seconds: float = 0.0


class TransitionAssembler:
    """Assembles one model's transitions.

    It keeps nothing of an ended episode but its number, and nothing of a complete step but its number. Of the steps
    that wait it keeps at most `max_pending`: beyond that the one that has waited longest is given up and never learned
    from.

    Attributes:
        num_duplicates: steps that came again.
        num_late_outcomes: outcomes of steps that were complete or given up.
        num_unusable: complete steps without a reward or without the true observation after them.
        num_abandoned: steps given up.
    """

    def __init__(self, spec: ModelSpec, *, max_pending: int = 1 << 20) -> None:
        self._max_pending = max_pending
        self._is_one_shot = spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT
        self._window_seconds = spec.reward_window.ToTimedelta().total_seconds()
        self._default_reward = spec.default_reward if spec.HasField("default_reward") else None
        self._pending: dict[StepKey, _Pending] = {}
        self._episodes: dict[tuple[str, str, int], _Episode] = {}
        self._ended: dict[RunKey, _Seen] = {}
        self.num_duplicates = 0
        self.num_late_outcomes = 0
        self.num_unusable = 0
        self.num_abandoned = 0

    @property
    def num_pending(self) -> int:
        """How many steps wait for their reward or for what followed."""
        return len(self._pending)

    def push(self, entries: Iterable[LogEntry]) -> Assembled:
        """Take in log entries and return what became complete."""
        out = Assembled()
        for entry in entries:
            if entry.WhichOneof("entry") == "step":
                self._push_step(entry.step, out)
            else:
                self._push_report(entry.report, out)
            if len(self._pending) > self._max_pending:
                self._abandon_oldest()
        return out

    def advance(self, now_seconds: float) -> Assembled:
        """Close the reward windows that ended before `now_seconds` (Unix time) and return what became complete.

        To be called when every partition was read up to that time: a reward may stand in another partition than its
        step, so entries alone cannot tell that a window has passed. Without a reward window it does nothing.
        """
        out = Assembled()
        if self._window_seconds:
            self._settle_due(now_seconds, out)
        return out

    def _abandon_oldest(self) -> None:
        key = next(iter(self._pending))
        del self._pending[key]
        self.num_abandoned += 1
        episode = self._open_episode(key)
        if episode is not None:
            episode.seen.add(key.number)

    def _push_step(self, step: Step, out: Assembled) -> None:
        key = to_key(step.step_id)
        time_seconds = step.time.ToNanoseconds() / 1e9
        episode = self._open_episode(key)
        if episode is None or key.number in episode.seen:
            self.num_duplicates += 1
            self._push_again(key, step, out)
            return
        episode.seen.add(key.number)
        if key.number == 0:
            episode.version, episode.deployment = step.version, step.deployment
        episode.is_evaluation = episode.is_evaluation or step.evaluation
        pending = self._pending.setdefault(key, _Pending())
        pending.step = step
        pending.time_seconds = time_seconds
        if step.HasField("previous_position"):
            previous = key._replace(episode=step.previous_position.episode, number=step.previous_position.number)
            self._apply(previous, step.previous_outcome, "", time_seconds, out)
        if key.number and not self._is_one_shot:
            self._follow(key._replace(number=key.number - 1), step, out)
        self._close_early(key, pending)
        self._complete_if_ready(key, out)

    def _push_again(self, key: StepKey, step: Step, out: Assembled) -> None:
        """Take in a step that came before: it matters while it may be the one that stands."""
        pending = self._pending.get(key)
        if pending is not None and pending.step is not None and pending.step.version != step.version:
            pending.others.append(step)
            self._complete_if_ready(key, out)

    def _push_report(self, report: Report, out: Assembled) -> None:
        time_seconds = report.time.ToNanoseconds() / 1e9
        self._apply(to_key(report.step_id), report.outcome, report.report_id, time_seconds, out)

    def _apply(self, key: StepKey, outcome: Outcome, report_id: str, time_seconds: float, out: Assembled) -> None:
        """Record an outcome for a step. `report_id` is empty for the outcome that came with the next step."""
        pending = self._pending_for_outcome(key)
        if pending is None or report_id in pending.report_ids:
            self.num_late_outcomes += pending is None
            return
        pending.report_ids.add(report_id)
        if outcome.HasField("reward") and not pending.is_settled:
            self._add_reward(key, pending, outcome.reward, time_seconds)
        if (outcome.terminated or outcome.truncated) and not (pending.terminated or pending.truncated):
            self._end(key, pending, outcome, time_seconds)
        self._close_early(key, pending)
        self._complete_if_ready(key, out)

    def _pending_for_outcome(self, key: StepKey) -> _Pending | None:
        episode = self._open_episode(key)
        if episode is None:
            return None
        if key in self._pending:
            return self._pending[key]
        if key.number in episode.seen:
            return None
        return self._pending.setdefault(key, _Pending())

    def _add_reward(self, key: StepKey, pending: _Pending, reward: float, time_seconds: float) -> None:
        if self._window_seconds:
            pending.rewards.append((time_seconds, reward))
        else:
            self._settle(key, pending, reward, time_seconds)

    def _end(self, key: StepKey, pending: _Pending, outcome: Outcome, time_seconds: float) -> None:
        pending.terminated, pending.truncated = outcome.terminated, outcome.truncated and not outcome.terminated
        pending.end_time_seconds = time_seconds
        if outcome.HasField("final_observation"):
            pending.final_observation = to_array(outcome.final_observation)
        episode = self._open_episode(key)
        if episode is not None:
            episode.num_steps = key.number + 1
            episode.end_time_seconds = time_seconds

    def _settle(self, key: StepKey, pending: _Pending, reward: float | None, time_seconds: float) -> None:
        """Fix a step's reward for good; a step without any stays unlearned, but its episode can end."""
        pending.is_settled, pending.reward = True, reward
        episode = self._open_episode(key)
        if episode is not None and self._is_one_shot:
            pending.terminated, pending.truncated = True, False
            episode.num_steps = 1
            episode.end_time_seconds = time_seconds

    def _close_early(self, key: StepKey, pending: _Pending) -> None:
        """Settle a one-shot step's reward if an outcome within its window said that it was the last."""
        if not (self._is_one_shot and self._window_seconds and pending.terminated and not pending.is_settled):
            return
        if pending.step is not None and pending.end_time_seconds <= pending.time_seconds + self._window_seconds:
            self._settle(key, pending, self._reward_until(pending, pending.end_time_seconds), pending.end_time_seconds)

    def _settle_due(self, now_seconds: float, out: Assembled) -> None:
        due = [
            (key, pending)
            for key, pending in self._pending.items()
            if pending.step is not None
            and not pending.is_settled
            and now_seconds > pending.time_seconds + self._window_seconds
        ]
        for key, pending in due:
            deadline_seconds = pending.time_seconds + self._window_seconds
            self._settle(key, pending, self._reward_until(pending, deadline_seconds), deadline_seconds)
            self._complete_if_ready(key, out)

    def _reward_until(self, pending: _Pending, deadline_seconds: float) -> float | None:
        rewards = [reward for time_seconds, reward in pending.rewards if time_seconds <= deadline_seconds]
        # fsum: the same sum in whatever order they came.
        return math.fsum(rewards) if rewards else self._default_reward

    def _follow(self, key: StepKey, successor: Step, out: Assembled) -> None:
        """Tell the step before `successor`, which may not have come yet, what followed it."""
        pending = self._pending_for_outcome(key)
        if pending is not None:
            pending.next_observation = to_array(successor.observation)
            pending.next_action_mask = successor.action_mask
            if not successor.repinned and successor.segment != successor.step_id.number:
                pending.next_version = successor.version
            self._complete_if_ready(key, out)

    def _complete_if_ready(self, key: StepKey, out: Assembled) -> None:
        pending = self._pending.get(key)
        if pending is None or pending.step is None or not pending.is_settled:
            return
        is_end = pending.terminated or pending.truncated
        if not is_end and pending.next_observation is None:
            return
        if pending.next_version not in (None, pending.step.version) and not self._replace_step(key, pending):
            return
        del self._pending[key]
        self._emit(key, pending, pending.step, out)
        self._count_in_episode(key, pending, out)

    def _replace_step(self, key: StepKey, pending: _Pending) -> bool:
        """Put the step by the version with which its episode went on in another's place; tell whether it is here."""
        standing = next((step for step in pending.others if step.version == pending.next_version), None)
        if standing is None:
            return False
        pending.step = standing
        episode = self._open_episode(key)
        if episode is not None and key.number == 0:
            episode.version, episode.deployment = standing.version, standing.deployment
        return True

    def _emit(self, key: StepKey, pending: _Pending, step: Step, out: Assembled) -> None:
        observation = to_array(step.observation)
        next_observation = pending.final_observation
        if next_observation is None and not (pending.terminated or pending.truncated):
            next_observation = pending.next_observation
        if next_observation is None and pending.terminated:
            next_observation = np.zeros_like(observation)
        if pending.reward is None or next_observation is None:
            self.num_unusable += 1
            return
        if step.evaluation:
            return
        out.transitions.append(
            Transition(
                key=key,
                observation=observation,
                action=step.action,
                reward=pending.reward,
                next_observation=next_observation,
                terminated=pending.terminated,
                truncated=pending.truncated,
                propensity=step.propensity,
                version=step.version,
                deployment=step.deployment,
                action_mask=step.action_mask,
                next_action_mask=pending.next_action_mask,
                segment=step.segment,
            )
        )

    def _open_episode(self, key: StepKey) -> _Episode | None:
        """Return the running episode of a step, or None if it is over."""
        if key.episode in self._ended.get((key.session, key.run), _nothing_seen):
            return None
        return self._episodes.setdefault((key.session, key.run, key.episode), _Episode())

    def _count_in_episode(self, key: StepKey, pending: _Pending, out: Assembled) -> None:
        episode = self._open_episode(key)
        if episode is None:
            return
        episode.num_complete += 1
        episode.episode_return += pending.reward or 0.0
        if episode.num_steps is None or episode.num_complete < episode.num_steps:
            return
        del self._episodes[(key.session, key.run, key.episode)]
        self._ended.setdefault((key.session, key.run), _Seen()).add(key.episode)
        out.episodes.append(
            EpisodeSummary(
                session=key.session,
                run=key.run,
                episode=key.episode,
                episode_return=episode.episode_return,
                num_steps=episode.num_steps,
                version=episode.version,
                deployment=episode.deployment,
                is_evaluation=episode.is_evaluation,
                end_time_seconds=episode.end_time_seconds,
            )
        )
