"""Log entries of small sessions. An observation is the step's own number, so that a test can see which one it is."""

from collections.abc import Sequence

import numpy as np

from hyperact.v1.decision_pb2 import Outcome, Position, Report, Step
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.model_pb2 import (
    ActionSpec,
    AgentKind,
    DiscreteActions,
    IndexSchedule,
    ModelSpec,
    ReferenceDistribution,
)
from hyperact.v1.steps import StepKey
from hyperact.v1.tensor_pb2 import Tensor
from hyperact.v1.tensors import make_spec, to_tensor

start_seconds = 1_700_000_000
episodic = AgentKind.AGENT_KIND_EPISODIC
continuing = AgentKind.AGENT_KIND_CONTINUING
one_shot = AgentKind.AGENT_KIND_ONE_SHOT
_default_session = "agent"


def model_spec(
    agent_kind: "AgentKind.ValueType" = episodic,
    *,
    window_seconds: int = 0,
    default_reward: float | None = None,
) -> ModelSpec:
    """Return a spec with one number as the observation and two actions."""
    spec = ModelSpec(
        observation=make_spec(np.float32, (1,)),
        action=ActionSpec(discrete=DiscreteActions(num_actions=2)),
        agent_kind=agent_kind,
        index_schedule=IndexSchedule.INDEX_SCHEDULE_EPISODE,
        reference_distribution=ReferenceDistribution.REFERENCE_DISTRIBUTION_GAUSSIAN,
        index_dim=4,
        discount=0.99,
    )
    spec.reward_window.FromSeconds(window_seconds)
    if default_reward is not None:
        spec.default_reward = default_reward
    return spec


def observation(value: float) -> Tensor:
    """Return the observation that holds one number."""
    return to_tensor(np.array([value], np.float32))


def key(episode: int, number: int, session: str = _default_session) -> StepKey:
    """Return the name of a step of the run "run"."""
    return StepKey("default", session, "run", episode, number)


def outcome(
    reward: float | None = None,
    *,
    terminated: bool = False,
    truncated: bool = False,
    final: float | None = None,
) -> Outcome:
    """Return an outcome; `final` is the true last observation."""
    final_observation = None if final is None else observation(final)
    return Outcome(reward=reward, terminated=terminated, truncated=truncated, final_observation=final_observation)


def step(
    episode: int,
    number: int,
    previous: Outcome | None = None,
    *,
    previous_position: tuple[int, int] | None = None,
    session: str = _default_session,
    evaluation: bool = False,
    seconds: float | None = None,
) -> LogEntry:
    """Return a step's entry; `previous` is the outcome of the step before (or of `previous_position`)."""
    last_episode, last_number = previous_position or (episode, number - 1)
    entry = Step(
        step_id=key(episode, number, session).to_message(),
        observation=observation(100 * episode + number),
        action=number % 2,
        version=str(episode + 1),
        deployment=episode + 1,
        propensity=0.5,
        previous_outcome=previous,
        previous_position=None if previous is None else Position(episode=last_episode, number=last_number),
        evaluation=evaluation,
    )
    at_seconds = 100 * episode + number if seconds is None else seconds
    entry.time.FromNanoseconds(round((start_seconds + at_seconds) * 1e9))
    return LogEntry(step=entry)


def report(
    episode: int,
    number: int,
    told: Outcome,
    report_id: str = "r",
    *,
    session: str = _default_session,
    seconds: float | None = None,
) -> LogEntry:
    """Return a report's entry for a step."""
    entry = Report(step_id=key(episode, number, session).to_message(), outcome=told, report_id=report_id)
    at_seconds = 100 * episode + number + 0.5 if seconds is None else seconds
    entry.time.FromNanoseconds(round((start_seconds + at_seconds) * 1e9))
    return LogEntry(report=entry)


def in_partitions(entries: Sequence[LogEntry], partitions: Sequence[int]) -> list[LogEntry]:
    """Return the entries as a log holds them: entry i in partition `partitions[i]`, offsets from 1."""
    next_offsets: dict[int, int] = {}
    placed = []
    for entry, partition in zip(entries, partitions, strict=True):
        next_offsets[partition] = next_offsets.get(partition, 0) + 1
        copy = LogEntry(partition=f"{partition:032x}", offset=next_offsets[partition])
        copy.MergeFrom(entry)
        placed.append(copy)
    return placed
