"""How much more probable logged episodes are under a candidate than under what decided them: pure but for the graphs.

    w = P_candidate(a_0 .. a_T) / P_logged(a_0 .. a_T)

Both are joint probabilities over the bank. What decided is computed again from its version; the uniform fallback's
logged propensities stand as they are. An episode that cannot be weighed is left out, with a reason that never depends
on what was done in it. (The trainer, which has more of the log, weighs by the mixture of all versions that decided.)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hyperact.service.recent_log import Episode
from hyperact.v1.gates import Policy
from hyperact.v1.indices import Float32s
from hyperact.v1.joint_probabilities import Sequence as JointSequence
from hyperact.v1.joint_probabilities import default_num_groups, log_prefix_probabilities
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule, ModelSpec
from hyperact.v1.off_policy import OffPolicy, estimate
from hyperact.v1.probabilities import Float64s, to_masks

_batch_size = 256


@dataclass
class WeighedEpisodes:
    """Returns [N] and weights [N, 1 + G] of the episodes that could be weighed, and how many could not, by reason."""

    returns: list[float] = field(default_factory=list)
    weights: list[Float64s] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def estimate_worth(
    episodes: Sequence[Episode], candidate: Policy, policies: Mapping[str, Policy]
) -> tuple[OffPolicy | None, str]:
    """Return what episodes say of a candidate's worth, or why they say nothing.

    `policies` are the versions that decided, as far as they are to be had.
    """
    if not episodes:
        return None, "the log holds no whole episode lately"
    weighed = _weigh(episodes, candidate, policies)
    if not weighed.returns:
        return None, "no episode can be weighed: " + "; ".join(weighed.left_out)
    return estimate(np.array(weighed.returns), np.stack(weighed.weights)), ""


def _weigh(episodes: Sequence[Episode], candidate: Policy, policies: Mapping[str, Policy]) -> WeighedEpisodes:
    weighed = WeighedEpisodes()
    num_groups = _num_groups([candidate, *policies.values()])
    for episode in episodes:
        versions = {step.version for step in episode}
        version = episode[0].version
        policy = policies.get(version)
        segments = _segments(candidate.spec, episode, policy.spec if policy else None)
        if len(versions) > 1:
            weighed.left_out["they changed their version"] += 1
        elif version and policy is None:
            weighed.left_out[f"version {version}, which decided them, is not to be had"] += 1
        elif segments is None:
            weighed.left_out["the log does not tell when the candidate would have drawn its indices"] += 1
        else:
            log_target = _log_probability(candidate, episode, segments, num_groups, is_observed=False)
            weighed.weights.append(np.exp(log_target - _log_logged(policy, episode, num_groups)))
            weighed.returns.append(sum(step.reward for step in episode))
    return weighed


def _num_groups(policies: Sequence[Policy]) -> int:
    """Return how many groups of each bank are left out in turn; 0 where a bank cannot be parted so."""
    counted = [policy.reference.num_draws for policy in policies if not policy.reference.is_exact]
    return 0 if any(num_draws % default_num_groups for num_draws in counted) else default_num_groups


def _log_logged(policy: Policy | None, episode: Episode, num_groups: int) -> Float64s:
    if policy is None:
        log = float(np.log([step.propensity for step in episode]).sum())
        return np.full(1 + num_groups, log)
    segments = np.array([step.segment for step in episode])
    return _log_probability(policy, episode, segments, num_groups, is_observed=True)


def _log_probability(
    policy: Policy, episode: Episode, segments: NDArray[np.int64], num_groups: int, *, is_observed: bool
) -> Float64s:
    """Return the log probability of a whole episode: [1 + G]."""
    spec = policy.spec
    sequence = JointSequence(
        coefficients=_answers(policy, episode),
        masks=to_masks([step.action_mask for step in episode], spec.action.discrete.num_actions),
        actions=np.array([step.action for step in episode], np.intp),
        segments=segments,
    )
    logs = log_prefix_probabilities(sequence, policy.reference, is_observed=is_observed, num_groups=num_groups)
    last: Float64s = logs[-1]
    return last


def _answers(policy: Policy, episode: Episode) -> Float32s:
    observations = np.stack([step.observation for step in episode])
    parts = [policy.graph(observations[start : start + _batch_size]) for start in range(0, len(episode), _batch_size)]
    return np.concatenate(parts)


def _segments(spec: ModelSpec, episode: Episode, decided: ModelSpec | None) -> NDArray[np.int64] | None:
    """Return at which step the candidate's index would have been drawn: [T]; None if chance alone would know."""
    if spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT or spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_STEP:
        return np.arange(len(episode))
    if spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_EPISODE:
        return np.zeros(len(episode), np.int64)
    is_same = decided is not None and (decided.index_schedule, decided.discount) == (spec.index_schedule, spec.discount)
    return np.array([step.segment for step in episode]) if is_same else None
