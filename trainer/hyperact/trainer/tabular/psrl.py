"""Posterior sampling: a whole decision process is drawn from the posterior, and solved.

    P(s, a) ~ Dirichlet(alpha + moves seen, over the states that can follow)
    r(s, a) ~ N(mean, variance) of the conjugate normal posterior with known reward noise

It knows more than the others: the structure (which states may follow) and the reward's noise. The reference that they
are measured against.

Letters: S states, A actions.
Source: arXiv:1306.0940.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperact.trainer.tabular.bellman import Planning
from hyperact.trainer.tabular.evidence import Evidence
from hyperact.trainer.tabular.mdp import Float64s, Visit


@dataclass(frozen=True)
class ProcessPrior:
    """What is believed of the process before anything was seen.

    Attributes:
        can_follow: bool [S, A, S].
        move_weight: the Dirichlet's parameter of each state that can follow.
        reward_mean, reward_deviation: of a reward's mean.
        reward_noise: the deviation of a reward around its mean.
    """

    can_follow: np.ndarray[tuple[int, int, int], np.dtype[np.bool_]]
    move_weight: float = 1.0
    reward_mean: float = 0.5
    reward_deviation: float = 0.3
    reward_noise: float = 0.5


class Psrl:
    """Samples a process and acts optimally in it."""

    def __init__(self, prior: ProcessPrior, planning: Planning) -> None:
        num_states, num_actions, _ = prior.can_follow.shape
        self.evidence = Evidence(num_states, num_actions)
        self._prior = prior
        self._planning = planning

    def observe(self, visits: Sequence[Visit], rng: np.random.Generator) -> None:  # noqa: ARG002 - others draw here
        """Learn from an episode."""
        self.evidence.add(visits)

    def plan(self, rng: np.random.Generator) -> Float64s:
        """Return the value function of a sampled process: float64 [S, A]."""
        moves, rewards = self._draw_moves(rng), self._draw_rewards(rng)
        values = np.zeros_like(rewards)
        for _ in range(self._planning.num_iterations):
            values = rewards + self._planning.discount * moves @ values.max(axis=1)
        return values

    def _draw_moves(self, rng: np.random.Generator) -> Float64s:
        """Return Dirichlet draws as normalised gammas; zero where nothing can follow."""
        shapes = np.where(self._prior.can_follow, self._prior.move_weight + self.evidence.num_moves, 0.0)
        gammas = rng.standard_gamma(shapes)
        sums = gammas.sum(axis=2, keepdims=True)
        result: Float64s = np.divide(gammas, sums, out=np.zeros_like(gammas), where=sums > 0.0)
        return result

    def _draw_rewards(self, rng: np.random.Generator) -> Float64s:
        prior, noise = 1.0 / self._prior.reward_deviation**2, 1.0 / self._prior.reward_noise**2
        precision = prior + noise * self.evidence.num_visits
        means = (prior * self._prior.reward_mean + noise * self.evidence.reward_sums) / precision
        return rng.normal(means, 1.0 / np.sqrt(precision))
