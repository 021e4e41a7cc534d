"""One logged decision, explained: what the version thought of each action, and how close the call was. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.service import decision
from hyperact.service.audit import Finding, VersionJudge, fallback_num_actions
from hyperact.service.hypermodel import Valuations
from hyperact.service.lineage import Ancestor
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.indices import Float32s
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.probabilities import Bools, pair_probability, to_masks
from hyperact.v1.tensors import to_array


@dataclass(frozen=True, slots=True)
class ActionView:
    """How an action stood.

    Attributes:
        mean, deviation: of its value under one index, over all indices; NaN for the fallback.
        value: under the index used, or what the acting rule makes of several; NaN for the fallback.
        probability: that it is chosen, over all indices; 0 if forbidden.
    """

    action: int
    mean: float
    deviation: float
    value: float
    probability: float
    is_allowed: bool


@dataclass(frozen=True, slots=True)
class Duel:
    """The chosen action against the best other allowed one.

    Attributes:
        margin: the difference of their values under the index used.
        mean, deviation: of that difference, over all indices.
        probability: that the chosen one is the better of the two, over all indices.
    """

    other: int
    margin: float
    mean: float
    deviation: float
    probability: float

    @property
    def num_deviations(self) -> float:
        """The margin in standard deviations of the difference; infinite if there is no spread."""
        return self.margin / self.deviation if self.deviation > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is shown of a decision.

    Attributes:
        actions: by number; empty if the decision cannot be computed again.
        index: float32 [n, M], one but for rules that value actions under several; empty for the fallback.
        duel: None without a second allowed action.
        lineage: the version, what it continues, and so on.
        deployment: the ledger's entry; None if it has none.
    """

    entry: LogEntry
    finding: Finding
    observation: NDArray[Any]
    actions: Sequence[ActionView]
    index: Float32s
    duel: Duel | None
    lineage: Sequence[Ancestor]
    deployment: Deployment | None

    @property
    def step(self) -> Step:
        """The record."""
        return self.entry.step

    def ranked(self, max_actions: int) -> list[ActionView]:
        """Return the actions to show, by number: all, or the chosen, its rival and then the likeliest ones."""
        if len(self.actions) <= max_actions:
            return list(self.actions)
        first = {self.step.action, self.duel.other if self.duel else self.step.action}
        order = sorted(self.actions, key=lambda view: (view.action not in first, -view.probability, view.action))
        return sorted(order[:max_actions], key=lambda view: view.action)


def explain(
    entry: LogEntry,
    finding: Finding,
    judge: VersionJudge | None,
    lineage: Sequence[Ancestor],
    deployment: Deployment | None,
) -> Explanation:
    """Return the explanation of a logged step; `judge` is its version's, None if there is none to be had."""
    step = entry.step
    observation = to_array(step.observation)
    actions: list[ActionView] = []
    index, duel = np.empty(0, np.float32), None
    if not step.version:
        actions = _uniform_views(step)
    elif judge is not None and finding.action is not None:
        index = judge.indices_of(step)
        found = judge.hypermodel.ask(observation[None], index[None])
        masks = to_masks([step.action_mask], judge.hypermodel.num_actions)
        actions = _views(judge, found, masks)
        duel = _duel(judge, found.beliefs[0], actions, step.action)
    return Explanation(entry, finding, observation, actions, index, duel, lineage, deployment)


def _uniform_views(step: Step) -> list[ActionView]:
    num_actions = fallback_num_actions(step)
    mask = step.action_mask or b"\x01" * num_actions
    share = 1.0 / max(1, sum(map(bool, mask)))
    return [
        ActionView(action, math.nan, math.nan, math.nan, share if is_allowed else 0.0, bool(is_allowed))
        for action, is_allowed in enumerate(mask)
    ]


def _views(judge: VersionJudge, valuations: Valuations, masks: Bools | None) -> list[ActionView]:
    found = decision.posteriors(valuations.beliefs, masks, judge.reference)
    values = valuations.values[0]
    allowed = np.ones(len(values), np.bool_) if masks is None else masks[0]
    columns = (found.means[0], found.standard_deviations[0], values, found.probabilities[0], allowed)
    return [ActionView(action, *row) for action, row in enumerate(zip(*(c.tolist() for c in columns), strict=True))]


def _duel(judge: VersionJudge, beliefs: Float32s, actions: Sequence[ActionView], chosen: int) -> Duel | None:
    """Return how the chosen action stood against the best other one under the index used."""
    others = [view for view in actions if view.is_allowed and view.action != chosen]
    if not others:
        return None
    best = max(others, key=lambda view: view.value)
    difference = (beliefs[chosen] - beliefs[best.action])[None, None]
    spread = decision.posteriors(difference, None, judge.reference)
    return Duel(
        other=best.action,
        margin=actions[chosen].value - best.value,
        mean=float(spread.means[0, 0]),
        deviation=float(spread.standard_deviations[0, 0]),
        probability=_duel_probability(judge, difference[0, 0]),
    )


def _duel_probability(judge: VersionJudge, difference: Float32s) -> float:
    """Return P(the difference of two values under one index > 0), a tie counting half."""
    reference = judge.reference
    if reference.has_closed_form:
        wide = difference.astype(np.float64)
        norm = np.sqrt((wide[1:] ** 2).sum(keepdims=True))
        return float(pair_probability(wide[:1], norm, len(wide) - 1, reference.distribution)[0])
    leads = difference[0] + reference.bank @ difference[1:] if reference.is_affine else difference
    return float((leads > 0).mean() + 0.5 * (leads == 0).mean())
