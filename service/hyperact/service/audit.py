"""Logged decisions computed again, and how well each agrees with its record. Pure.

A step's record says what led to a decision (observation, mask, segment, version) and what was decided (action, margin,
propensity). What the version's graph answers, the index derived from the key and the segment, and `decision` give the
decision a second time:

| grade            | holds when                                                                                       |
|------------------|--------------------------------------------------------------------------------------------------|
| exact            | action, margin and propensity are equal to the last bit, and the segment is the rhythm's          |
| within tolerance | the action is equal, margin and propensity are as near as rounding allows                         |
| tie              | the action is another one, whose value is as near to the logged one's as rounding allows          |
| mismatch         | anything else: the record does not say what this version decides with this index                  |
| not reproducible | it cannot be computed: the version is gone or another one, the key is another one                 |

How far rounding reaches. A graph adds in another order in a batch of another size, on another device or in another
release of its runtime, and what it answers, float32 c, comes out otherwise by at most t = tolerance · max |c|, where
`tolerance` is a setting. Then, for an index z,

    a value q(a) = c[a, 0] + c[a, 1:] · z          is off by at most  t (1 + |z|_1);  t for an indexed graph
    the quantile of values under several indices   as much as the worst of them
    a margin q(a) - q(b)                           is off by at most twice that = the slack of z
    a propensity                                   lies between those that the slack allows (`propensity_range`)

Letters: B steps, A num_actions, M index_dim, n num_indices of the acting rule, L the bank's draws, W a graph's width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperact.service import decision
from hyperact.service.chances import Chances
from hyperact.service.decision import Decisions
from hyperact.service.hypermodel import Hypermodel, Valuations
from hyperact.service.rhythm import Rhythm, make_rhythm
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.errors import FieldError
from hyperact.v1.indices import (
    Float32s,
    derive_indices,
    derive_uniform_action,
    index_key_id,
)
from hyperact.v1.manifests import max_num_actions
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.probabilities import Bools, Reference, bank_values, pair_probability, probabilities, to_masks
from hyperact.v1.steps import StepKey, to_key

default_tolerance = 1e-5
"""About 80 units in the last place of a float32. On a CPU batches of all sizes have given the same bits so far."""
_float32_step = float(np.finfo(np.float32).eps)
_num_indices_kept = 65536


class Grade(StrEnum):
    """How well a logged decision agrees with the one computed again, best first."""

    EXACT = "exact"
    WITHIN_TOLERANCE = "within tolerance"
    TIE = "tie"
    MISMATCH = "mismatch"
    NOT_REPRODUCIBLE = "not reproducible"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step's grade.

    Attributes:
        detail: what differs, or why it cannot be computed; empty if exact.
        action, margin, propensity: computed again (the propensity is the logged action's); None if they could not be.
    """

    grade: Grade
    detail: str = ""
    action: int | None = None
    margin: float | None = None
    propensity: float | None = None


class Case(NamedTuple):
    """A step to grade, and the segment that the step before it has in the log; None if that is not known."""

    step: Step
    segment_before: int | None = None


def not_reproducible(reason: str) -> Finding:
    """Return the finding on a step that cannot be computed again."""
    return Finding(Grade.NOT_REPRODUCIBLE, reason)


def mismatch(detail: str) -> Finding:
    """Return the finding on a step whose record contradicts itself."""
    return Finding(Grade.MISMATCH, detail)


def find_obstacle(step: Step, key: bytes) -> Finding | None:
    """Return why a step cannot be graded whatever its version, or None."""
    if step.index_key_id and step.index_key_id != index_key_id(key):
        return not_reproducible(f"decided with the index key {step.index_key_id.hex()}, not {index_key_id(key).hex()}")
    if step.fallback == bool(step.version):
        return mismatch(f"fallback is {str(step.fallback).lower()}, and the version is {step.version!r}")
    return None


class FallbackJudge:
    """Grades steps that the uniform fallback decided."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def grade(self, cases: Sequence[Case]) -> list[Finding]:
        """Return a finding for each step."""
        return [self._grade(case.step) for case in cases]

    def _grade(self, step: Step) -> Finding:
        num_actions = fallback_num_actions(step)
        if len(step.action_mask) not in (0, num_actions):
            return mismatch(f"the mask has {len(step.action_mask)} entries for {num_actions} actions")
        allowed = [action for action in range(num_actions) if not step.action_mask or step.action_mask[action]]
        if not allowed:
            return mismatch("no action was allowed")
        action = allowed[int(derive_uniform_action(self._key, to_key(step.step_id)) * len(allowed))]
        propensity = float(np.float32(1.0 / len(allowed)))
        computed = {"action": action, "margin": 0.0, "propensity": propensity, "segment": 0}
        problems = [
            f"{name}: logged {getattr(step, name)}, computed {value}"
            for name, value in computed.items()
            if getattr(step, name) != value
        ]
        grade = Grade.MISMATCH if problems else Grade.EXACT
        return Finding(grade, "; ".join(problems), action, 0.0, propensity)


def fallback_num_actions(step: Step) -> int:
    """Return how many actions the fallback had; 0 if the record cannot be read so.

    Steps of before there was that field tell it by their mask, or by a propensity that is one over it.
    """
    if step.num_actions or step.action_mask:
        return step.num_actions or len(step.action_mask)
    return round(1.0 / step.propensity) if step.propensity > 1.0 / (max_num_actions + 1) else 0


class VersionJudge:
    """Grades steps that one version decided."""

    def __init__(self, key: bytes, hypermodel: Hypermodel, tolerance: float = default_tolerance) -> None:
        self.hypermodel = hypermodel
        self.reference = hypermodel.reference
        self.rhythm = make_rhythm(key, hypermodel.spec)
        self._key = key
        self._tolerance = tolerance
        self._derive = lru_cache(maxsize=_num_indices_kept)(self._derive_indices)

    def indices_of(self, step: Step) -> Float32s:
        """Return the indices that a step's segment stands for: float32 [n, M], one but for rules of several."""
        return self._derive(to_key(step.step_id)[:4], step.segment)

    def grade(self, cases: Sequence[Case]) -> list[Finding]:
        """Return a finding for each step; the model is called once, for all of them."""
        observations: list[NDArray[Any]] = []
        findings: list[Finding | None] = []
        for case in cases:
            read = self._read(case.step)
            findings.append(read if isinstance(read, Finding) else None)
            if not isinstance(read, Finding):
                observations.append(read)
        readable = [case for case, finding in zip(cases, findings, strict=True) if finding is None]
        graded = iter(self._grade(readable, observations) if readable else ())
        return [finding or next(graded) for finding in findings]

    def _read(self, step: Step) -> NDArray[Any] | Finding:
        """Return the observation of a step whose record fits the version's spec, or what does not."""
        distribution = self.reference.distribution
        if step.reference_distribution != distribution:
            logged = _distribution_name(step.reference_distribution)
            return mismatch(
                f"reference_distribution: logged {logged}, the version's is {_distribution_name(distribution)}"
            )
        num_actions = self.hypermodel.num_actions
        if len(step.action_mask) not in (0, num_actions) or step.action >= num_actions:
            return mismatch(f"action {step.action}, mask of {len(step.action_mask)}: the version has {num_actions}")
        if step.action_mask and max(step.action_mask) != 1:
            return mismatch("the mask allows nothing, or is not of zeros and ones")
        try:
            return self.hypermodel.checker.to_array(step.observation)
        except FieldError as error:
            return mismatch(f"observation.{error}")

    def _grade(self, cases: Sequence[Case], observations: Sequence[NDArray[Any]]) -> list[Finding]:
        """Grade steps whose records can be read. One that the model fails on fails alone."""
        steps = [case.step for case in cases]
        indices = np.stack([self.indices_of(step) for step in steps])
        try:
            found = self.hypermodel.ask(np.stack(observations), indices)
        except Exception as error:  # noqa: BLE001 - the runtime raises classes of its own making
            if len(cases) > 1:
                pairs = zip(cases, observations, strict=True)
                return [self._grade([case], [observation])[0] for case, observation in pairs]
            return [mismatch(f"the version fails on this observation: {error}")]
        is_finite = np.array([all(bool(np.isfinite(part).all()) for part in row) for row in zip(*found, strict=True)])
        found = Valuations(
            np.where(is_finite[:, None], found.values, np.float32(0)),
            np.where(is_finite[:, None, None], found.beliefs, np.float32(0)),
        )
        computed = self._compute(steps, indices, found)
        findings = []
        for place, case in enumerate(cases):
            if not is_finite[place]:
                findings.append(mismatch("the version's answer to this observation is not finite"))
                continue
            segment_finding = check_segment(self.rhythm, case)
            if segment_finding is not None and segment_finding.grade is Grade.NOT_REPRODUCIBLE:
                findings.append(segment_finding)
                continue
            problems = [segment_finding.detail] if segment_finding is not None else []
            findings.append(self._compare(computed, place, case.step, problems))
        return findings

    def _compute(self, steps: Sequence[Step], indices: Float32s, found: Valuations) -> "_Computed":
        masks = to_masks([step.action_mask for step in steps], self.hypermodel.num_actions)
        epsilon = self.reference.epsilon
        chances = Chances(self._key, [to_key(step.step_id) for step in steps], epsilon)
        explore = chances.explore if epsilon else None
        decisions = decision.decide(*found, masks, self.reference, chances.tie_break, explore)
        logged = np.array([step.action for step in steps], np.intp)
        propensities = decisions.propensities.copy()
        rows = np.flatnonzero(decisions.actions != logged)
        if rows.size:
            some_masks = None if masks is None else masks[rows]
            some = probabilities(found.beliefs[rows], some_masks, self.reference, logged[rows])
            propensities[rows] = np.maximum(some, decision.smallest_propensity)
        return _Computed(found, indices, masks, decisions, propensities)

    def _compare(self, computed: "_Computed", place: int, step: Step, problems: list[str]) -> Finding:
        """Compare what was computed with the record; `problems` are those known already."""
        action, margin = int(computed.decisions.actions[place]), float(computed.decisions.margins[place])
        propensity = float(computed.propensities[place])
        is_same = (step.action, step.margin, step.propensity) == (action, margin, propensity)
        if is_same and not problems:
            return Finding(Grade.EXACT, "", action, margin, propensity)
        row = computed.row(place)
        error = self._tolerance * float(np.abs(row.beliefs).max())
        slack = slack_of(row.indices, error) if self.reference.is_affine else 2.0 * error
        notes: list[str] = []
        if action == step.action:
            _note(abs(margin - step.margin) <= slack, "margin", step.margin, margin, problems, notes)
        else:
            gap = row.value(action) - row.value(step.action)
            is_near = gap <= slack and step.margin <= slack
            text = f"action: logged {step.action}, computed {action}, better by {gap:.3g}"
            (notes if is_near else problems).append(text)
        if step.propensity != propensity:
            low, high = propensity_range(row.beliefs, row.mask, self.reference, step.action, error)
            _note(low <= step.propensity <= high, "propensity", step.propensity, propensity, problems, notes)
        grade = Grade.WITHIN_TOLERANCE if action == step.action else Grade.TIE
        return Finding(Grade.MISMATCH if problems else grade, "; ".join(problems or notes), action, margin, propensity)

    def _derive_indices(self, episode: tuple[str, str, str, int], segment: int) -> Float32s:
        distribution, num_indices = self.reference.distribution, self.reference.num_drawn
        return derive_indices(
            self._key, StepKey(*episode, 0), segment, self.hypermodel.index_dim, distribution, num_indices
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """What one step's decision was computed from: values [A], beliefs [A, W], indices [n, M], mask [A] or None."""

    values: Float32s
    beliefs: Float32s
    indices: Float32s
    mask: Bools | None

    def value(self, action: int) -> float:
        """Return what an action was worth; a forbidden one negative infinity."""
        return float(self.values[action]) if self.mask is None or self.mask[action] else -math.inf


class _Computed(NamedTuple):
    """A batch of decisions and what they were computed from. `propensities` are those of the logged actions."""

    found: Valuations
    indices: Float32s
    masks: Bools | None
    decisions: Decisions
    propensities: Float32s

    def row(self, place: int) -> _Row:
        mask = None if self.masks is None else self.masks[place]
        return _Row(self.found.values[place], self.found.beliefs[place], self.indices[place], mask)


def _note(is_near: bool, name: str, logged: float, computed: float, problems: list[str], notes: list[str]) -> None:
    """Add a difference to the notes if rounding explains it, else to the problems; none if there is none."""
    if logged != computed:
        (notes if is_near else problems).append(f"{name}: logged {logged:.9g}, computed {computed:.9g}")


def _distribution_name(number: int) -> str:
    known: dict[int, str] = {int(value): name for name, value in ReferenceDistribution.items()}
    return known.get(number, f"number {number}")


def slack_of(indices: Float32s, error: float) -> float:
    """Return how far the difference of two values under indices may be off, for coefficients off by `error`."""
    return 2.0 * error * (1.0 + float(np.abs(indices).sum(axis=-1, dtype=np.float64).max()))


def propensity_range(
    beliefs: Float32s, mask: Bools | None, reference: Reference, action: int, error: float
) -> tuple[float, float]:
    """Return the least and the greatest propensity of an action that answers off by at most `error` can give.

    beliefs: float32 [A, W]. In closed form that at the corners of what mean and loadings may be; else from the bank's
    draws that the action surely wins, and those that it may win.
    """
    if mask is not None and not mask[action]:
        return 0.0, 0.0
    others = np.flatnonzero(np.ones(len(beliefs), np.bool_) if mask is None else mask)
    others = others[others != action]
    if not others.size:
        return 1.0, 1.0
    share = 1.0 / (others.size + 1)
    if reference.has_closed_form and others.size == 1:
        difference = beliefs[action].astype(np.float64) - beliefs[others[0]]
        low, high = _pair_range(difference, reference.distribution, 2.0 * error)
    else:
        low, high = _bank_range(beliefs, reference, action, others, error)
        if not reference.is_exact:
            size = reference.num_draws
            low, high = ((chance * size + share) / (size + 1) for chance in (low, high))
    low, high = ((1.0 - reference.epsilon) * chance + reference.epsilon * share for chance in (low, high))
    return low * (1.0 - _float32_step), max(high, decision.smallest_propensity) * (1.0 + _float32_step)


def _pair_range(
    difference: NDArray[np.float64], distribution: "ReferenceDistribution.ValueType", error: float
) -> tuple[float, float]:
    index_dim = len(difference) - 1
    norm, norm_error = float(np.linalg.norm(difference[1:])), error * math.sqrt(index_dim)
    means = np.array([difference[0] - error, difference[0] + error]).repeat(2)
    norms = np.tile([max(0.0, norm - norm_error), norm + norm_error], 2)
    chances = pair_probability(means, norms, index_dim, distribution)
    return float(chances.min()), float(chances.max())


def _bank_range(
    beliefs: Float32s, reference: Reference, action: int, others: NDArray[np.intp], error: float
) -> tuple[float, float]:
    values = bank_values(beliefs[None].astype(np.float64), None, reference, slice(0, reference.num_draws))[:, 0]
    leads = values[action] - values[others].max(axis=0)
    slacks = np.full(len(leads), 2.0 * error)
    if reference.is_affine:
        norms = np.abs(reference.bank).sum(axis=1, dtype=np.float64)
        slacks *= 1.0 + norms.reshape(-1, reference.num_indices).max(axis=1)
    return float((leads > slacks).mean()), float((leads >= -slacks).mean())


def check_segment(rhythm: Rhythm, case: Case) -> Finding | None:
    """Return what is wrong with a step's segment, or None.

    A segment is right if the rhythm derives it from the step's own name, or from the segment of the step before: the
    two differ in an episode that was re-pinned to a version of another index schedule, which goes on with the index
    that it has.
    """
    step, segment = to_key(case.step.step_id), case.step.segment
    if case.segment_before is not None and segment == rhythm.segment_of(step, case.segment_before):
        return None
    derived = rhythm.segment_of(step, None)
    if segment == derived:
        return None
    if case.segment_before is None and not rhythm.is_index_start(step) and segment < step.number:
        return not_reproducible(
            f"its segment {segment}, by itself {derived}, may be that of the step before, which was not read"
        )
    return mismatch(f"segment: logged {segment}, derived {derived}")
