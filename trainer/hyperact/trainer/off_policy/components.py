"""A version's policy as an equally weighted mixture of components, for what is fitted and not weighed. Pure.

A policy that holds its index is no function of the observation: given the index it is. So its value is the mean over
indices of the values of policies that are, and those can be fitted: one component for each of the bank's first K
indices. A policy that draws an index at every step is one component, the distribution over actions itself.

Letters: U situations, K components, A num_actions, M index_dim.
"""

from dataclasses import dataclass

import numpy as np

from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule, ModelSpec
from hyperact.v1.probabilities import Bools, Reference, each_probability, each_win_share


@dataclass(frozen=True, slots=True)
class Components:
    """How the components act.

    Attributes:
        shares: float32 [U, K, A], each component's distribution over actions in each situation.
        persistence: the probability that the next step is decided by the same component, 0 to 1.
    """

    shares: Float32s
    persistence: float


def make_components(coefficients: Float32s, masks: Bools | None, spec: ModelSpec, max_components: int) -> Components:
    """Return the components of a version's policy, from its coefficients [U, A, M + 1]; exact banks are whole."""
    persistence = index_persistence(spec)
    bank = index_bank(spec.index_dim, spec.reference_distribution)
    if persistence == 0.0:
        reference = Reference(spec.reference_distribution, bank)
        chances = each_probability(coefficients, masks, reference)[:, np.newaxis]
        return Components(chances.astype(np.float32), persistence)
    if spec.reference_distribution in (GAUSSIAN, UNIT_SPHERE):
        bank = bank[:max_components]
    return Components(each_win_share(coefficients, masks, bank), persistence)


def index_persistence(spec: ModelSpec) -> float:
    """Return the probability that a step of an episode has the index of the step before."""
    if spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT or spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_STEP:
        return 0.0
    is_geometric = spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_GEOMETRIC
    return spec.discount if is_geometric else 1.0
