"""The gates before a promotion, pure: evidence in, a verdict with its reasons out.

The idea is BREMEN's trust region (arXiv:2006.03647) at the deployment boundary: a candidate may be asked not to stray
too far from what is serving. The default limits let every honest candidate through.

Letters: N observations, A num_actions, M index_dim, L indices of the bank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import Float32s, index_bank
from hyperact.v1.model_pb2 import ModelSpec

# Of the bank's 1024 indices; the error of a rate over 256 indices and hundreds of observations is far below any limit.
_num_indices = 256


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a candidate may do at most (or must do at least) to be promoted."""

    max_action_flip_rate: float = 1.0
    max_divergence: float = 1.0
    min_evaluation_return: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """How the candidate's policy differs from the current one on recent observations.

    Attributes:
        action_flip_rate: the share of (observation, index) pairs for which another action is best, 0 to 1.
        divergence: the total variation between the distributions over actions, averaged over observations, 0 to 1.
    """

    action_flip_rate: float
    divergence: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a candidate. `change` is None if nothing serves, `evaluation_return` if none was measured."""

    parity_problem: str = ""
    spec_differences: Sequence[str] = ()
    is_finite: bool = True
    change: PolicyChange | None = None
    evaluation_return: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to promote. `report` is one line for the ledger and the version's tag."""

    is_promotion: bool
    reasons: tuple[str, ...]
    report: str


def judge(evidence: Evidence, limits: GateLimits) -> Verdict:
    """Return whether a candidate may be promoted, and every reason why not."""
    reasons = tuple(_reasons(evidence, limits))
    measured = _measured(evidence)
    report = f"held: {'; '.join(reasons)}" if reasons else f"passed{': ' if measured else ''}{measured}"
    return Verdict(not reasons, reasons, report)


def compare_policies(
    current: Float32s, current_spec: ModelSpec, candidate: Float32s, candidate_spec: ModelSpec
) -> PolicyChange:
    """Return how the policies differ, from their coefficients [N, A, M + 1] of the same observations.

    Actions flip under the same index if both draw theirs alike, else between the greedy actions of the means.
    """
    current_actions = _best_actions(current, current_spec)
    candidate_actions = _best_actions(candidate, candidate_spec)
    if _draws_alike(current_spec, candidate_spec):
        flips = current_actions != candidate_actions
    else:
        flips = current[..., 0].argmax(-1) != candidate[..., 0].argmax(-1)
    num_actions = current.shape[1]
    difference = _probabilities(current_actions, num_actions) - _probabilities(candidate_actions, num_actions)
    return PolicyChange(
        action_flip_rate=float(flips.mean()),
        divergence=float(np.abs(difference).sum(-1).mean() / 2),
    )


def _reasons(evidence: Evidence, limits: GateLimits) -> list[str]:
    reasons = [evidence.parity_problem] if evidence.parity_problem else []
    reasons.extend(evidence.spec_differences)
    if not evidence.is_finite:
        reasons.append("coefficients of recent observations are not finite")
    change = evidence.change
    if change and change.action_flip_rate > limits.max_action_flip_rate:
        reasons.append(f"action flip rate {change.action_flip_rate:.3f} is over {limits.max_action_flip_rate:.3f}")
    if change and change.divergence > limits.max_divergence:
        reasons.append(f"divergence {change.divergence:.3f} is over {limits.max_divergence:.3f}")
    if limits.min_evaluation_return is not None:
        if evidence.evaluation_return is None:
            reasons.append("no evaluation return was measured, and a least one is demanded")
        elif not evidence.evaluation_return >= limits.min_evaluation_return:
            reasons.append(
                f"evaluation return {evidence.evaluation_return:.4g} is under {limits.min_evaluation_return:.4g}"
            )
    return reasons


def _measured(evidence: Evidence) -> str:
    parts = []
    if evidence.change:
        parts.append(f"action flip rate {evidence.change.action_flip_rate:.3f}")
        parts.append(f"divergence {evidence.change.divergence:.3f}")
    if evidence.evaluation_return is not None:
        parts.append(f"evaluation return {evidence.evaluation_return:.4g}")
    return ", ".join(parts)


def _draws_alike(current: ModelSpec, candidate: ModelSpec) -> bool:
    return (
        current.index_dim == candidate.index_dim and current.reference_distribution == candidate.reference_distribution
    )


def _best_actions(coefficients: Float32s, spec: ModelSpec) -> NDArray[np.int64]:
    """Return the best action of each observation under each index: [N, L]."""
    bank = index_bank(spec.index_dim, spec.reference_distribution)[:_num_indices]
    values: Float32s = coefficients[..., :1] + coefficients[..., 1:] @ bank.T
    best: NDArray[np.int64] = values.argmax(1)
    return best


def _probabilities(actions: NDArray[np.int64], num_actions: int) -> NDArray[np.float64]:
    """Return how often each action is best: [N, A]."""
    counts = np.stack([(actions == action).mean(1) for action in range(num_actions)], axis=1)
    return counts.astype(np.float64)
