"""Whole episodes out of the transitions of a log.

The rules:

1. An episode is whole when its end is known and no step before it is missing. Others say nothing about a return.
2. The newest are kept, as many as have `max_steps` steps together.
3. Evaluation steps are no transitions and do not come here.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.transitions import Transition

EpisodeKey = tuple[str, str, int]  # session, run, episode


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode as it was logged: its transitions in order."""

    steps: tuple[Transition, ...]

    @property
    def versions(self) -> set[str]:
        """The versions that decided; empty text is the uniform fallback."""
        return {step.version for step in self.steps}

    @property
    def version(self) -> str:
        """The version that decided its first step."""
        return self.steps[0].version

    @property
    def segments(self) -> NDArray[np.int64]:
        """Each step's segment: [T]."""
        return np.array([step.segment for step in self.steps])

    @property
    def actions(self) -> NDArray[np.int64]:
        """What was done: [T]."""
        return np.array([step.action for step in self.steps])

    @property
    def propensities(self) -> NDArray[np.float64]:
        """What the log says of their probabilities, each by itself: [T]."""
        return np.array([step.propensity for step in self.steps])

    @property
    def is_drawn_at_every_step(self) -> bool:
        """Whether every step had an index of its own, so that propensities multiply."""
        return all(step.segment == step.key.number for step in self.steps)


class EpisodeCollector:
    """Keeps the newest whole episodes."""

    def __init__(self, max_steps: int, first_deployment: int = 0, *, max_open_steps: int | None = None) -> None:
        """Keep at most `max_steps` steps of episodes that no deployment before `first_deployment` began.

        Of episodes that did not end, at most `max_open_steps` are kept (None: all): the one that began first is given
        up first.
        """
        self._max_steps = max_steps
        self._max_open_steps = max_open_steps
        self._num_open_steps = 0
        self._first_deployment = first_deployment
        self._open: dict[EpisodeKey, dict[int, Transition]] = {}
        self._whole: deque[Episode] = deque()
        self._num_steps = 0

    @property
    def episodes(self) -> list[Episode]:
        """What is kept, the oldest first."""
        return list(self._whole)

    def push(self, transitions: Iterable[Transition]) -> None:
        """Take in transitions in any order."""
        for transition in transitions:
            key = transition.key
            name = (key.session, key.run, key.episode)
            steps = self._open.setdefault(name, {})
            self._num_open_steps += key.number not in steps
            steps[key.number] = transition
            last = max(steps)
            if len(steps) == last + 1 and (steps[last].terminated or steps[last].truncated):
                self._close(name)
                self._keep(Episode(tuple(steps[number] for number in range(last + 1))))
            while self._max_open_steps is not None and self._num_open_steps > self._max_open_steps:
                self._close(next(iter(self._open)))

    def _close(self, name: EpisodeKey) -> None:
        self._num_open_steps -= len(self._open.pop(name))

    def _keep(self, episode: Episode) -> None:
        if episode.steps[0].deployment < self._first_deployment:
            return
        self._whole.append(episode)
        self._num_steps += len(episode.steps)
        while self._num_steps > self._max_steps and (len(self._whole) > 1 or not self._max_steps):
            self._num_steps -= len(self._whole.popleft().steps)


def mask_of(mask: bytes, num_actions: int) -> NDArray[np.bool_]:
    """Return the allowed actions; an empty mask allows all."""
    return np.frombuffer(mask, np.bool_) if mask else np.ones(num_actions, np.bool_)


@dataclass(frozen=True)
class Situations:
    """What the agents were asked: every pair of an observation and a mask once.

    Attributes:
        observations: the spec's dtype [U, *shape].
        masks: bool [U, A]; None if everything was always allowed.
        here: int64 [S], the situation of each step of all episodes.
        after: int64 [S], the situation after it; -1 where the episode ended.
    """

    observations: NDArray[Any]
    masks: NDArray[np.bool_] | None
    here: NDArray[np.int64]
    after: NDArray[np.int64]


def find_situations(episodes: Iterable[Episode], num_actions: int) -> Situations:
    """Number the situations of some episodes in the order of their first appearance."""
    numbers: dict[tuple[bytes, bytes], int] = {}
    observations: list[NDArray[Any]] = []
    masks: list[bytes] = []
    here, after = [], []

    def number_of(observation: NDArray[Any], mask: bytes) -> int:
        key = (observation.tobytes(), mask)
        if key not in numbers:
            numbers[key] = len(numbers)
            observations.append(observation)
            masks.append(mask)
        return numbers[key]

    for episode in episodes:
        for step in episode.steps:
            here.append(number_of(step.observation, step.action_mask))
            is_end = step.terminated or step.truncated
            after.append(-1 if is_end else number_of(step.next_observation, step.next_action_mask))
    allowed = np.stack([mask_of(mask, num_actions) for mask in masks]) if any(masks) else None
    return Situations(np.stack(observations), allowed, np.array(here), np.array(after))
