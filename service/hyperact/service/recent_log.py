"""The newest stretch of the log, as a candidate is judged on: what agents saw lately, and whole episodes.

An agent's newest steps stand at the end of each partition. The stretch begins in the middle of episodes: those are not
whole, and only what they saw is used.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.service.step_sources import StepSource
from hyperact.v1.errors import FieldError
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.tensors import TensorChecker
from hyperact.v1.transitions import Transition, TransitionAssembler

num_observations = 512
_least_entries = 4 * num_observations
Episode = list[Transition]


@dataclass
class RecentLog:
    """What the newest entries hold.

    Attributes:
        observations: those of the newest steps that fit the spec: [N, *shape], N at most 512; oldest first.
        episodes: whole training episodes.
    """

    observations: NDArray[Any]
    episodes: list[Episode] = field(default_factory=list)


async def read_recent(source: StepSource, model: str, spec: ModelSpec, num_steps: int) -> RecentLog:
    """Return the newest of a model's log: episodes of about `num_steps` steps. Raises UnavailableError."""
    found = await source.get_range(model)
    per_partition = max(_least_entries, num_steps) // max(1, len(found.ranges)) + 1
    positions = {
        extent.partition: max(extent.begin_offset, extent.end_offset - per_partition) for extent in found.ranges
    }
    assembler = TransitionAssembler(spec, max_pending=max(_least_entries, num_steps))
    newest: list[tuple[int, NDArray[Any]]] = []
    transitions: list[Transition] = []
    checker = TensorChecker(spec.observation)
    async for page in source.pages(model, positions):
        newest = _newest(newest, page, checker)
        transitions += assembler.push(page).transitions
    observations = [observation for _, observation in newest]
    empty = np.zeros((0, *checker.shape), checker.dtype)
    return RecentLog(
        np.stack(observations) if observations else empty, _whole_episodes(transitions, spec, checker, num_steps)
    )


def _newest(
    before: list[tuple[int, NDArray[Any]]], page: Iterable[LogEntry], checker: TensorChecker
) -> list[tuple[int, NDArray[Any]]]:
    """Return the newest observations of these and a page's, with their times."""
    found = list(before)
    for entry in page:
        if entry.HasField("step"):
            try:
                found.append((entry.step.time.ToNanoseconds(), checker.to_array(entry.step.observation)))
            except FieldError:
                continue  # a fallback takes any observation
    return sorted(found, key=lambda pair: pair[0])[-num_observations:]


def _whole_episodes(
    transitions: Iterable[Transition], spec: ModelSpec, checker: TensorChecker, max_steps: int
) -> list[Episode]:
    """Return the newest episodes whose every step is there, of at most `max_steps` steps together."""
    if spec.agent_kind == AgentKind.AGENT_KIND_CONTINUING:
        return []
    by_episode: dict[tuple[str, str, int], dict[int, Transition]] = {}
    for transition in transitions:
        key = transition.key
        by_episode.setdefault((key.session, key.run, key.episode), {})[key.number] = transition
    whole: list[Episode] = []
    num_left = max_steps
    for steps in reversed(list(by_episode.values())):
        last = steps[max(steps)]
        is_whole = len(steps) == max(steps) + 1 and (last.terminated or last.truncated)
        if is_whole and all(_fits(step, spec, checker) for step in steps.values()):
            num_left -= len(steps)
            if num_left < 0:
                break
            whole.append([steps[number] for number in range(len(steps))])
    return whole[::-1]


def _fits(step: Transition, spec: ModelSpec, checker: TensorChecker) -> bool:
    observation, num_actions = step.observation, spec.action.discrete.num_actions
    return (
        observation.shape == checker.shape
        and observation.dtype == checker.dtype
        and step.action < num_actions
        and len(step.action_mask) in (0, num_actions)
        and bool(np.isfinite(step.reward))
    )
