"""Sums of n rewards: transitions of one step in, transitions over up to n steps out.

The rules:

1. A transition over j steps begins at step t, sums the discounted rewards of t to t+j-1, and bootstraps from the
   observation at t+j with discount^j. Its perturbation and its name are those of step t.
2. j is n, unless the episode ends earlier. After termination the discount is 0; after truncation it is discount^j.
3. Steps of an episode may come in any order; a transition waits until its n steps are there or its episode's end is.
4. A step that is missing when its episode ends, or when too much waits behind it, cuts the sums before it: they
   bootstrap at the gap. If it comes later after all, its own sum is whole.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.steps import StepKey
from hyperact.v1.transitions import Transition

EpisodeKey = tuple[str, str, int]  # session, run, episode

max_open_episodes = 4096
# So far behind the newest step of its episode a missing one is given up.
_max_beyond_gap = 1024


@dataclass(frozen=True, slots=True)
class NStepTransition:
    """What is learned from: `reward` is a discounted sum, `discount` the weight of the value that follows."""

    key: StepKey
    observation: NDArray[Any]
    action: int
    reward: float
    discount: float
    next_observation: NDArray[Any]
    next_number: int | None  # the step whose observation the next one is; None if no step has it
    next_action_mask: bytes


@dataclass(slots=True)
class _Episode:
    """A running episode: the steps that may still be needed, which of them wait, and what was emitted.

    Everything before `num_prefix` was emitted or given up; `beyond` are the emitted ones after it.
    """

    steps: dict[int, Transition] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    num_prefix: int = 0
    beyond: set[int] = field(default_factory=set)

    def mark_emitted(self, number: int) -> None:
        """Note that a transition began at a step."""
        self.waiting.remove(number)
        self.beyond.add(number)
        if len(self.beyond) > _max_beyond_gap:
            self.num_prefix = min(self.beyond)
        while self.num_prefix in self.beyond:
            self.beyond.remove(self.num_prefix)
            self.num_prefix += 1

    def forget(self, num_td_steps: int) -> None:
        """Drop the steps that nothing needs which waits or may still come."""
        for number in list(self.steps):
            users = range(max(number - num_td_steps + 1, self.num_prefix), number + 1)
            if self.waiting.isdisjoint(range(number - num_td_steps + 1, number + 1)) and self.beyond.issuperset(users):
                del self.steps[number]


class NStepAssembler:
    """Sums rewards over n steps. What comes out depends on what went in and in which order, and on nothing else."""

    def __init__(self, num_td_steps: int, discount: float, reward_view: Literal["raw", "sign"] = "raw") -> None:
        self._num_td_steps = num_td_steps
        self._discount = discount
        self._reward_view = reward_view
        self._episodes: OrderedDict[EpisodeKey, _Episode] = OrderedDict()

    def push(self, transitions: Iterable[Transition]) -> list[NStepTransition]:
        """Take in transitions of one step and return those that became complete."""
        out: list[NStepTransition] = []
        for transition in transitions:
            self._push_one(transition, out)
        return out

    def _push_one(self, transition: Transition, out: list[NStepTransition]) -> None:
        key = transition.key
        episode_key = (key.session, key.run, key.episode)
        episode = self._episodes.setdefault(episode_key, _Episode())
        self._episodes.move_to_end(episode_key)
        episode.steps[key.number] = transition
        episode.waiting.add(key.number)
        for number in range(key.number - self._num_td_steps + 1, key.number + 1):
            if number in episode.waiting and self._is_complete(self._chain(episode, number)):
                self._emit(episode, number, out)
        if len(episode.waiting) > 2 * self._num_td_steps:
            self._emit(episode, min(episode.waiting), out)
        if _is_end(transition):
            self._emit_waiting(episode, out)
        episode.forget(self._num_td_steps)
        if _is_end(transition) and not episode.beyond:
            del self._episodes[episode_key]
        elif len(self._episodes) > max_open_episodes:
            _, oldest = self._episodes.popitem(last=False)
            self._emit_waiting(oldest, out)

    def _chain(self, episode: _Episode, number: int) -> list[Transition]:
        """Return the consecutive transitions from a step on, up to n of them or the episode's end."""
        chain: list[Transition] = []
        while number in episode.steps and len(chain) < self._num_td_steps:
            chain.append(episode.steps[number])
            if _is_end(chain[-1]):
                break
            number += 1
        return chain

    def _is_complete(self, chain: list[Transition]) -> bool:
        return len(chain) == self._num_td_steps or _is_end(chain[-1])

    def _emit(self, episode: _Episode, number: int, out: list[NStepTransition]) -> None:
        out.append(self._sum(self._chain(episode, number)))
        episode.mark_emitted(number)

    def _emit_waiting(self, episode: _Episode, out: list[NStepTransition]) -> None:
        for number in sorted(episode.waiting):
            self._emit(episode, number, out)

    def _sum(self, chain: list[Transition]) -> NStepTransition:
        first, last = chain[0], chain[-1]
        reward = sum(self._discount**i * self._view(transition.reward) for i, transition in enumerate(chain))
        return NStepTransition(
            key=first.key,
            observation=first.observation,
            action=first.action,
            reward=reward,
            discount=0.0 if last.terminated else self._discount ** len(chain),
            next_observation=first.observation if last.terminated else last.next_observation,
            next_number=first.key.number if last.terminated else None if last.truncated else last.key.number + 1,
            next_action_mask=last.next_action_mask,
        )

    def _view(self, reward: float) -> float:
        return float(np.sign(reward)) if self._reward_view == "sign" else reward


def _is_end(transition: Transition) -> bool:
    return transition.terminated or transition.truncated
