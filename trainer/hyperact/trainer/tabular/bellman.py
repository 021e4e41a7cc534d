"""The stochastic Bellman operator that HyperAgent and RLSVI share; they differ in the noise that they put into it.

    F Q(s, a) = [beta mu_0(s, a) + N_sa (r_sa + gamma V_Q . P_sa)] / (N_sa + beta) + w(s, a),   V_Q(s) = max_a Q(s, a)

Letters: N visits, r and P the empirical mean reward and distribution of the next state, mu_0 the prior mean, beta the
prior's weight in visits, gamma the discount, w the noise, sigma its scale per visit, sigma_0 the prior's deviation.

F is a contraction with modulus gamma in the largest absolute value. With a fixed horizon and gamma = 1, as many
applications as there are steps give its fixed point.

Source: arXiv:2402.10228 equation 7 and lemma C.1.
"""

from dataclasses import dataclass

import numpy as np

from hyperact.trainer.tabular.evidence import Evidence
from hyperact.trainer.tabular.mdp import Float64s


@dataclass(frozen=True)
class Prior:
    """What is believed of every value before anything was seen.

    Attributes:
        mean: mu_0, float64 [S, A].
        deviation: sigma_0, in units of value.
        noise_scale: sigma, how far the value of one visit may be from its mean.
    """

    mean: Float64s
    deviation: float
    noise_scale: float

    @property
    def weight(self) -> float:
        """Beta = sigma^2 / sigma_0^2: as many visits as the prior is worth."""
        return self.noise_scale**2 / self.deviation**2


@dataclass(frozen=True)
class Planning:
    """How values are computed: the discount, and how often the operator is applied."""

    num_iterations: int
    discount: float = 1.0


def apply(values: Float64s, evidence: Evidence, prior: Prior, noise: Float64s, discount: float) -> Float64s:
    """Return F Q for values Q float64 [S, A] and noise float64 [S, A]."""
    beta = prior.weight
    sums = evidence.reward_sums + discount * evidence.num_moves @ values.max(axis=1)
    result: Float64s = (beta * prior.mean + sums) / (evidence.num_visits + beta) + noise
    return result


def solve(evidence: Evidence, prior: Prior, noise: Float64s, planning: Planning) -> Float64s:
    """Return what the operator leads to from zero: float64 [S, A]."""
    values = np.zeros_like(noise)
    for _ in range(planning.num_iterations):
        values = apply(values, evidence, prior, noise, planning.discount)
    return values
