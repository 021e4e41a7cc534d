"""Rewards of many episodes, flat: what the estimators compute on. Pure.

Letters: N episodes, S steps of all of them together, T steps of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trajectories:
    """Steps in the order of their episodes, and of their numbers within each.

    Attributes:
        lengths: int64 [N], each at least 1.
        rewards: float64 [S], raw.
        discount: how much less a reward counts one step later, in (0, 1]; 1 sums them up.
    """

    lengths: Ints
    rewards: Float64s
    discount: float = 1.0

    @property
    def num_episodes(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def max_length(self) -> int:
        """T."""
        return int(self.lengths.max())

    @cached_property
    def episodes(self) -> Ints:
        """The episode of each step: [S]."""
        return np.repeat(np.arange(self.num_episodes), self.lengths)

    @cached_property
    def starts(self) -> Ints:
        """The first step of each episode: [N]."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def lasts(self) -> Ints:
        """The last step of each episode: [N]."""
        return self.starts + self.lengths - 1

    @cached_property
    def numbers(self) -> Ints:
        """Each step's number within its episode: [S]."""
        return np.arange(len(self.rewards)) - self.starts[self.episodes]

    @cached_property
    def discounts(self) -> Float64s:
        """What a unit of reward at each step counts for the return: [S]."""
        return np.power(self.discount, self.numbers)

    @cached_property
    def returns(self) -> Float64s:
        """The return of each episode: [N]."""
        return self.per_episode(self.discounts * self.rewards)

    def per_episode(self, values: Float64s) -> Float64s:
        """Sum values of steps over each episode: [S] to [N]."""
        return np.bincount(self.episodes, values, self.num_episodes).astype(np.float64)

    def per_number(self, values: Float64s) -> Float64s:
        """Sum values of steps over episodes, for each step number: [S] to [T]."""
        return np.bincount(self.numbers, values, self.max_length).astype(np.float64)


def from_rewards(rewards: Sequence[Sequence[float]], discount: float = 1.0) -> Trajectories:
    """Return the trajectories with these rewards, one sequence an episode."""
    lengths = np.array([len(episode) for episode in rewards])
    return Trajectories(lengths, np.concatenate([np.asarray(episode, np.float64) for episode in rewards]), discount)
