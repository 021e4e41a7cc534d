"""How much less than the best an agent earns while it learns, exactly: each policy's value is computed, not played."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from hyperact.trainer.tabular.mdp import Float64s, Mdp, Visit


class TabularAgent(Protocol):
    """Plans before an episode and learns after it."""

    def plan(self, rng: np.random.Generator) -> Float64s:
        """Return the values to act greedily on in the next episode: float64 [S, A]."""

    def observe(self, visits: Sequence[Visit], rng: np.random.Generator) -> None:
        """Learn from an episode."""


def regrets(agent: TabularAgent, mdp: Mdp, num_episodes: int, rng: np.random.Generator) -> Iterator[float]:
    """Let an agent play; yield, for each episode, what it was worth less than the best, in units of reward."""
    best = mdp.best_return()
    for _ in range(num_episodes):
        policy = agent.plan(rng).argmax(axis=1)
        yield best - mdp.expected_return(policy)
        agent.observe(mdp.play(policy, rng), rng)
