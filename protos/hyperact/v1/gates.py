"""The gates before a promotion, pure: evidence in, a verdict with its reasons out.

Whoever promotes, the trainer or a person by a command, measures what it can and has it judged here.

| gate            | holds a candidate back when                                                                 |
|-----------------|---------------------------------------------------------------------------------------------|
| parity          | its graph does not answer what its learner answered                                         |
| spec            | agents would have to send or expect something else                                          |
| finite          | it answers NaN or infinity                                                                  |
| exploration     | its values vary less over indices than `min_exploration` of the serving version's do        |
| action flips    | another action is best under more than `max_action_flip_rate` of (observation, index)       |
| divergence      | its distributions over actions are further than `max_divergence` from the serving version's |
| off-policy gain | all of the interval of its gain over what was logged is under `min_off_policy_gain`         |
| effective size  | the log holds too little of what it would do, or under `min_effective_size` episodes of it  |
| evaluation      | its mean return in the environment is under `min_evaluation_return`                         |

The first four are always on; the limits of the others are declared: the two in the middle are a trust region around
what serves (BREMEN's idea, arXiv:2006.03647, at the deployment boundary). What a declared limit needs and nobody could
measure holds back, too.

Letters: N observations, A num_actions, L draws of the bank, W the width of a graph's answer.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.off_policy import OffPolicy
from hyperact.v1.probabilities import Reference, bank_values, each_win_share

passed, held = "passed", "held"
# Of the bank's; the error of a rate over 256 draws and hundreds of observations is far below any limit.
_num_draws = 256


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a candidate may do at most, or must do at least. The defaults let honest learning through."""

    max_action_flip_rate: float = 1.0
    max_divergence: float = 1.0
    min_exploration: float = 0.1
    min_off_policy_gain: float | None = None
    min_effective_size: float = 0.0
    min_evaluation_return: float | None = None

    @property
    def is_region_declared(self) -> bool:
        """Whether there is a trust region at all."""
        return min(self.max_action_flip_rate, self.max_divergence) < 1.0


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """How the candidate's policy differs from the serving one on recent observations.

    Attributes:
        action_flip_rate: the share of (observation, index) pairs for which another action is best, 0 to 1.
        divergence: the total variation between the distributions over actions, averaged over observations, 0 to 1.
        exploration: how much its values vary over indices, as a share of how much the serving version's do.
        divergences: that of each observation: [N].
    """

    action_flip_rate: float
    divergence: float
    exploration: float = 1.0
    divergences: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a candidate. None stands for what was not measured.

    Attributes:
        serving_version: what it is compared with; empty if nothing serves.
        no_change: why there is no `change`.
        no_off_policy: why there is no `off_policy`.
    """

    parity_problem: str = ""
    spec_differences: Sequence[str] = ()
    is_finite: bool = True
    serving_version: str = ""
    change: PolicyChange | None = None
    no_change: str = ""
    off_policy: OffPolicy | None = None
    no_off_policy: str = ""
    evaluation_return: float | None = None


class Outcome(StrEnum):
    """What one gate says."""

    PASSED = "passed"
    HELD = "held"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Gate:
    """One row of the report. `limit` is empty if none was declared."""

    name: str
    measured: str
    limit: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether to promote.

    Attributes:
        gates: one row each.
        report: one line for the ledger and the version's tag; it begins with "passed" or "held".
    """

    gates: tuple[Gate, ...]
    report: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason not to promote."""
        return tuple(gate.reason for gate in self.gates if gate.outcome is Outcome.HELD)

    @property
    def is_promotion(self) -> bool:
        """Whether no gate holds it back."""
        return not self.reasons

    def to_markdown(self, title: str) -> str:
        """Return the report as a table for people."""
        rows = [f"| {gate.name} | {gate.measured} | {gate.limit or '-'} | {gate.outcome} |" for gate in self.gates]
        lines = [f"# {title}", "", "| gate | measured | limit | outcome |", "|---|---|---|---|", *rows, "", self.report]
        return "\n".join(lines) + "\n"


def judge(evidence: Evidence, limits: GateLimits) -> Verdict:
    """Return whether a candidate may be promoted, and every reason why not."""
    gates = tuple(_gates(evidence, limits))
    reasons = [gate.reason for gate in gates if gate.outcome is Outcome.HELD]
    measured = _measured(evidence)
    report = f"{held}: {'; '.join(reasons)}" if reasons else f"{passed}{': ' if measured else ''}{measured}"
    return Verdict(gates, report)


class Policy(NamedTuple):
    """A version as the gates see it.

    Attributes:
        graph: observations [N, *shape] to answers float32 [N, A, W]: coefficients, or values under the bank.
        spec: what it expects and returns.
        reference: how it acts, and its bank.
    """

    graph: Callable[[NDArray[Any]], Float32s]
    spec: ModelSpec
    reference: Reference


def measure_change(
    current: Policy, candidate: Policy, observations: NDArray[Any], made_up: NDArray[Any]
) -> PolicyChange:
    """Return how the candidate differs on recent observations [N, *shape], N at least 1.

    Exploration is compared on both kinds, with the same weight: on recent observations much was learned and little may
    be left to explore, on made-up ones a prior goes on varying. A policy that collapsed varies on neither.
    """
    answers = [(policy.graph(observations), policy.graph(made_up)) for policy in (candidate, current)]
    change = compare_policies(answers[1][0], current.reference, answers[0][0], candidate.reference)
    spreads = [
        math.hypot(*(spread(answer, policy.reference) for answer in found))
        for policy, found in zip((candidate, current), answers, strict=True)
    ]
    return replace(change, exploration=_ratio(*spreads))


def compare_policies(
    current: Float32s, current_reference: Reference, candidate: Float32s, candidate_reference: Reference
) -> PolicyChange:
    """Return how the policies differ, from their answers [N, A, W] to the same observations.

    Actions flip under the same draw of the bank if both draw alike, else between the greedy actions of the means.
    Action masks are passed over: every action counts.
    """
    references = current_reference.first(_num_draws), candidate_reference.first(_num_draws)
    before, after = (_values(answer, of) for answer, of in zip((current, candidate), references, strict=True))
    if before.shape == after.shape and current_reference.distribution == candidate_reference.distribution:
        flips = before.argmax(0) != after.argmax(0)
    else:
        flips = before.mean(-1).argmax(0) != after.mean(-1).argmax(0)
    shares = [
        each_win_share(_cut(answer, of), None, of).mean(axis=1, dtype=np.float64)
        for answer, of in zip((current, candidate), references, strict=True)
    ]
    divergences = np.abs(shares[0] - shares[1]).sum(-1) / 2
    return PolicyChange(
        action_flip_rate=float(flips.mean()),
        divergence=float(divergences.mean()),
        exploration=_ratio(spread(candidate, candidate_reference), spread(current, current_reference)),
        divergences=divergences,
    )


def spread(answers: Float32s, reference: Reference) -> float:
    """Return how much the differences among an observation's actions vary over indices, in units of value.

    The root mean square, over observations and actions, of the standard deviation over the bank of an action's value
    less the mean of all actions' values: what all actions share does not explore.
    """
    values = _values(answers, reference.first(_num_draws))
    return float(np.sqrt((values - values.mean(axis=0)).var(axis=2, dtype=np.float64).mean()))


def _gates(evidence: Evidence, limits: GateLimits) -> Iterator[Gate]:
    yield _gate("parity", evidence.parity_problem or "agrees", "", evidence.parity_problem)
    differences = "; ".join(evidence.spec_differences)
    yield _gate("spec", differences or "the same", "", differences)
    finite_reason = "" if evidence.is_finite else "coefficients of recent observations are not finite"
    yield _gate("finite", "yes" if evidence.is_finite else "no", "", finite_reason)
    yield from _change_gates(evidence, limits)
    yield from _off_policy_gates(evidence, limits)
    yield _evaluation_gate(evidence.evaluation_return, limits.min_evaluation_return)


def _gate(name: str, measured: str, limit: str, reason: str) -> Gate:
    return Gate(name, measured, limit, Outcome.HELD if reason else Outcome.PASSED, reason)


def _change_gates(evidence: Evidence, limits: GateLimits) -> Iterator[Gate]:
    change = evidence.change
    limit_of = {
        "exploration": f"at least {limits.min_exploration:g}" if limits.min_exploration else "",
        "action flips": _at_most(limits.max_action_flip_rate),
        "divergence": _at_most(limits.max_divergence),
    }
    if change is None:
        is_missing = bool(evidence.serving_version) and limits.is_region_declared and not evidence.spec_differences
        for name, limit in limit_of.items():
            is_held = is_missing and bool(limit) and name != "exploration"
            why = evidence.no_change or "nothing serves"
            outcome = Outcome.HELD if is_held else Outcome.NOT_MEASURED
            yield Gate(name, why, limit, outcome, f"{name} was not measured ({why}), and a limit is declared")
        return
    is_collapsed = not change.exploration >= limits.min_exploration
    yield _gate(
        "exploration",
        f"{change.exploration:.3f}",
        limit_of["exploration"],
        f"exploration is {change.exploration:.3g} of the serving version's, at least {limits.min_exploration:g} is due"
        if is_collapsed
        else "",
    )
    rate, divergence = change.action_flip_rate, change.divergence
    too_many = f"action flip rate {rate:.3f} is over {limits.max_action_flip_rate:.3f}"
    yield _gate(
        "action flips", f"{rate:.3f}", limit_of["action flips"], too_many if rate > limits.max_action_flip_rate else ""
    )
    too_far = f"divergence {divergence:.3f} is over {limits.max_divergence:.3f}"
    yield _gate(
        "divergence", f"{divergence:.3f}", limit_of["divergence"], too_far if divergence > limits.max_divergence else ""
    )


def _off_policy_gates(evidence: Evidence, limits: GateLimits) -> Iterator[Gate]:
    found = evidence.off_policy
    gain_limit = "" if limits.min_off_policy_gain is None else f"at least {limits.min_off_policy_gain:g}"
    size_limit = f"at least {limits.min_effective_size:g}" if limits.min_effective_size else ""
    if found is None:
        why = evidence.no_off_policy or "nothing was logged"
        reason = f"no off-policy estimate ({why}), and an effective size of {limits.min_effective_size:g} is demanded"
        yield Gate("off-policy gain", why, gain_limit, Outcome.NOT_MEASURED)
        is_due = bool(evidence.serving_version) and bool(size_limit)
        yield Gate("effective size", why, size_limit, Outcome.HELD if is_due else Outcome.NOT_MEASURED, reason)
        return
    if found.refusals:
        yield Gate("off-policy gain", "; ".join(found.refusals), gain_limit, Outcome.NOT_MEASURED)
    else:
        is_loss = limits.min_off_policy_gain is not None and found.gain.high < limits.min_off_policy_gain
        reason = f"off-policy gain {found.gain} is under {limits.min_off_policy_gain:g}" if is_loss else ""
        yield _gate("off-policy gain", str(found.gain), gain_limit, reason)
    reason = ""
    if size_limit and not found.effective_size >= limits.min_effective_size:
        size = f"{found.effective_size:.1f} of it, under {limits.min_effective_size:g}"
        reason = f"{found.num_episodes} episodes are worth {size}"
    elif size_limit and not found.is_supported:
        reason = "the log holds too little of what it would do"
    yield _gate("effective size", f"{found.effective_size:.1f} of {found.num_episodes}", size_limit, reason)


def _evaluation_gate(found: float | None, least: float | None) -> Gate:
    limit = "" if least is None else f"at least {least:.4g}"
    if found is None:
        reason = "no evaluation return was measured, and a least one is demanded"
        outcome = Outcome.NOT_MEASURED if least is None else Outcome.HELD
        return Gate("evaluation", "no environment", limit, outcome, reason)
    is_less = least is not None and not found >= least
    return _gate(
        "evaluation", f"{found:.4g}", limit, f"evaluation return {found:.4g} is under {least:.4g}" if is_less else ""
    )


def _at_most(limit: float) -> str:
    return f"at most {limit:g}" if limit < 1.0 else ""


def _measured(evidence: Evidence) -> str:
    parts = []
    if evidence.change:
        parts.append(f"action flip rate {evidence.change.action_flip_rate:.3f}")
        parts.append(f"divergence {evidence.change.divergence:.3f}")
        parts.append(f"exploration {evidence.change.exploration:.3g}")
    if evidence.off_policy and not evidence.off_policy.refusals:
        parts.append(f"off-policy gain {evidence.off_policy.gain}")
        parts.append(f"effective size {evidence.off_policy.effective_size:.1f}")
    if evidence.evaluation_return is not None:
        parts.append(f"evaluation return {evidence.evaluation_return:.4g}")
    return ", ".join(parts)


def _ratio(candidate: float, current: float) -> float:
    """Return how much of the one the other is; a policy without exploration has none to lose."""
    return candidate / current if current > 0.0 else 1.0


def _values(answers: Float32s, reference: Reference) -> Float32s:
    """Return what each action is worth under each draw of a bank: [A, N, L]."""
    return bank_values(_cut(answers, reference), None, reference, slice(0, reference.num_draws))


def _cut(answers: Float32s, reference: Reference) -> Float32s:
    """Return answers for a bank that was cut short: the values under what is left of it, or all coefficients."""
    return answers if reference.is_affine else answers[:, :, : len(reference.bank)]
