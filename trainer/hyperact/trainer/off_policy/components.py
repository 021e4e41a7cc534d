"""A version's policy as an equally weighted mixture of components, for what is fitted and not weighed. Pure.

A policy that holds its index is no function of the observation: given the index it is. So its value is the mean over
indices of the values of policies that are, and those can be fitted: one component for each of the bank's first K draws
of an index (of several, if its rule values actions under so many). A policy that draws at every step is one component,
the distribution over actions itself.

Letters: U situations, K components, A num_actions, W width of a graph's answer.
"""

from dataclasses import dataclass

import numpy as np

from hyperact.v1.indices import Float32s
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


def make_components(
    coefficients: Float32s, masks: Bools | None, spec: ModelSpec, reference: Reference, max_components: int
) -> Components:
    """Return the components of a version's policy, from what its graph answers [U, A, W]; exact banks are whole."""
    persistence = index_persistence(spec)
    if persistence == 0.0:
        chances = each_probability(coefficients, masks, reference)[:, np.newaxis]
        return Components(chances.astype(np.float32), persistence)
    return Components(each_win_share(coefficients, masks, reference.first(max_components)), persistence)


def index_persistence(spec: ModelSpec) -> float:
    """Return the probability that a step of an episode has the index of the step before."""
    if spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT or spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_STEP:
        return 0.0
    is_geometric = spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_GEOMETRIC
    return spec.discount if is_geometric else 1.0
