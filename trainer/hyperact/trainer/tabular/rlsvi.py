"""Randomized least-squares value iteration: noise drawn anew for every episode, state and action.

    w(s, a) ~ N(0, sigma^2 / (N + beta)), independent, in the operator of `bellman`

What HyperAgent stores in M numbers and turns by an index, this draws from scratch: it needs N and nothing else, and no
index can bring a draw back. With an index for each state HyperAgent's noise has the same variance in the mean; what is
left of correlation between the actions of a state goes as M grows.

Letters: as in `bellman`; M the index_dim of HyperAgent, S states, A actions.
Source: arXiv:1703.07608.
"""

from collections.abc import Sequence

import numpy as np

from hyperact.trainer.tabular.bellman import Planning, Prior, solve
from hyperact.trainer.tabular.evidence import Evidence
from hyperact.trainer.tabular.mdp import Float64s, Visit


class Rlsvi:
    """Samples a value function by noise and acts greedily on it."""

    def __init__(self, prior: Prior, planning: Planning) -> None:
        self.evidence = Evidence(*prior.mean.shape)
        self._prior = prior
        self._planning = planning

    def observe(self, visits: Sequence[Visit], rng: np.random.Generator) -> None:  # noqa: ARG002 - others draw here
        """Learn from an episode."""
        self.evidence.add(visits)

    def plan(self, rng: np.random.Generator) -> Float64s:
        """Return a sampled value function: float64 [S, A]."""
        deviations = self._prior.noise_scale / np.sqrt(self.evidence.num_visits + self._prior.weight)
        noise = deviations * rng.standard_normal(deviations.shape)
        return solve(self.evidence, self._prior, noise, self._planning)
