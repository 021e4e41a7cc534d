"""Rewards that come late, and some never: when each is due, in decisions. Pure.

The rules:

1. A reward is due 1 to `max_delay` decisions after its own, each number as probable.
2. A share of them is lost: they are never due.
3. Which and when is decided by the seed and the decision's number alone, whatever was decided.
"""

import heapq
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

NameT = TypeVar("NameT")


@dataclass(frozen=True, slots=True)
class LateReward(Generic[NameT]):
    """A reward that has arrived, and the name of the step that it is for."""

    name: NameT
    reward: float


class LateRewards(Generic[NameT]):
    """Keeps rewards until they are due.

    Args:
        max_delay: in decisions, at least 1.
        lost_share: 0 to 1.
        seed: decides delays and losses.
    """

    def __init__(self, max_delay: int, lost_share: float, seed: int) -> None:
        self._max_delay = max_delay
        self._lost_share = lost_share
        self._rng = np.random.default_rng([seed, 1])
        self._waiting: list[tuple[int, int, NameT, float]] = []
        self._num_added = 0

    def add(self, name: NameT, reward: float) -> bool:
        """Take in the reward of the next decision; return whether it will ever arrive."""
        number, self._num_added = self._num_added, self._num_added + 1
        # Both are drawn for each, so that other losses leave the delays as they are.
        delay, luck = int(self._rng.integers(1, self._max_delay + 1)), self._rng.random()
        if luck < self._lost_share:
            return False
        heapq.heappush(self._waiting, (number + delay, number, name, reward))
        return True

    def due(self) -> list[LateReward[NameT]]:
        """Return what arrives before the next decision, in the order of arrival."""
        arrived = []
        while self._waiting and self._waiting[0][0] <= self._num_added:
            arrived.append(self._pop())
        return arrived

    def rest(self) -> list[LateReward[NameT]]:
        """Return what is still under way, as after the last decision."""
        return [self._pop() for _ in range(len(self._waiting))]

    def _pop(self) -> LateReward[NameT]:
        _, _, name, reward = heapq.heappop(self._waiting)
        return LateReward(name, reward)
