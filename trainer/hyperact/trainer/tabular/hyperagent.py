"""The tabular HyperAgent: equations 5 to 7, in closed form and O(M) a visit.

    f(s, a, z) = mu(s, a) + m(s, a) . z

    m(s, a)  = [sigma sum of the perturbations of its visits + beta sigma_0 xi_0(s, a)] / (N + beta)            (5)
             : with each visit    m <- [(N + beta) m + sigma xi] / (N + 1 + beta),        m = sigma_0 xi_0 before any
    mu(s, a) = [beta mu_0 + sum of the targets r + gamma max_a' f(s', a', z(s')) of its visits] / (N + beta)     (6)
    f(., ., z) is the fixed point of the stochastic Bellman operator with the noise w(s, a) = m(s, a) . z(s)       (7)

Letters: s state, a action, z the index (or one for each state), xi the perturbation of a visit and xi_0 that of the
prior, both uniform on the unit sphere, N visits, M index_dim, S states, A actions; sigma, sigma_0, beta, mu_0 as in
`bellman`. m and mu include their priors.

Invariants: both forms of (5) agree; E |m|^2 = sigma^2 / (N + beta), and it concentrates there as M grows (lemma 5.1).
Source: arXiv:2402.10228 equations 5 to 7; the workshop paper's 6, 7 and 12 to 16.
"""

from collections.abc import Sequence

import numpy as np

from hyperact.trainer.tabular.bellman import Planning, Prior, solve
from hyperact.trainer.tabular.evidence import Evidence
from hyperact.trainer.tabular.mdp import Float64s, Visit


class TabularHyperAgent:
    """Samples a value function by an index and acts greedily on it.

    Attributes:
        noise_head: m, float64 [S, A, M].
        evidence: what was seen.
    """

    def __init__(
        self, prior: Prior, planning: Planning, index_dim: int, rng: np.random.Generator, *, has_state_indices: bool
    ) -> None:
        """Know nothing yet. With `has_state_indices` every state has an index of its own, else all have the same."""
        num_states, num_actions = prior.mean.shape
        self.evidence = Evidence(num_states, num_actions)
        self._prior = prior
        self._planning = planning
        self._index_dim = index_dim
        self._has_state_indices = has_state_indices
        self._prior_perturbations = draw_perturbations(rng, num_states * num_actions, index_dim).reshape(
            num_states, num_actions, index_dim
        )
        self.noise_head = prior.deviation * self._prior_perturbations

    def observe(self, visits: Sequence[Visit], rng: np.random.Generator) -> None:
        """Learn from an episode, each visit with a perturbation drawn now and for good."""
        self.learn(visits, draw_perturbations(rng, len(visits), self._index_dim))

    def learn(self, visits: Sequence[Visit], perturbations: Float64s) -> None:
        """Learn from visits with their perturbations float64 [T, M]: the incremental form."""
        beta, sigma = self._prior.weight, self._prior.noise_scale
        for visit, perturbation in zip(visits, perturbations, strict=True):
            cell = visit.state, visit.action
            before = self.evidence.num_visits[cell] + beta
            self.noise_head[cell] = (before * self.noise_head[cell] + sigma * perturbation) / (before + 1.0)
            self.evidence.add([visit])

    def batch_noise_head(self, visits: Sequence[Visit], perturbations: Float64s) -> Float64s:
        """Return the noise head after these visits and no others, computed at once: the batch form of (5)."""
        beta, sigma = self._prior.weight, self._prior.noise_scale
        sums = beta * self._prior.deviation * self._prior_perturbations
        num_visits = np.zeros(sums.shape[:2])
        cells = tuple(np.array([(visit.state, visit.action) for visit in visits], np.intp).reshape(-1, 2).T)
        np.add.at(sums, cells, sigma * perturbations)
        np.add.at(num_visits, cells, 1.0)
        result: Float64s = sums / (num_visits + beta)[..., np.newaxis]
        return result

    def plan(self, rng: np.random.Generator) -> Float64s:
        """Return a sampled value function: float64 [S, A]."""
        num_indices = len(self.noise_head) if self._has_state_indices else 1
        return self.values(rng.standard_normal((num_indices, self._index_dim)))

    def values(self, indices: Float64s) -> Float64s:
        """Return the value function under one index [1, M], or one for each state [S, M]: float64 [S, A]."""
        return solve(self.evidence, self._prior, self._noise(indices), self._planning)

    def coefficients(self, target_indices: Float64s) -> Float64s:
        """Return mu and m, with the targets of mu under given indices [1, M] or [S, M]: float64 [S, A, 1 + M].

        The deep agent's form of the same: under the targets' own index its value is the fixed point, under others it is
        affine in the index.
        """
        means = self.values(target_indices) - self._noise(target_indices)
        return np.concatenate([means[..., np.newaxis], self.noise_head], axis=2)

    def _noise(self, indices: Float64s) -> Float64s:
        noise: Float64s = (self.noise_head * indices[:, np.newaxis]).sum(axis=2)
        return noise


def draw_perturbations(rng: np.random.Generator, number: int, index_dim: int) -> Float64s:
    """Draw points on the unit sphere: float64 [number, M]."""
    normals = rng.standard_normal((number, index_dim))
    result: Float64s = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return result
