"""What decides: one lane per version, and one for the uniform fallback. A batch runs in one lane.

A lane is pure but for its model call: rows and their tie breaks in, one `Decided` per row out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hyperact.service import decision
from hyperact.service.chances import Chances
from hyperact.service.errors import DecisionError, UnavailableError
from hyperact.service.hypermodel import Hypermodel, Valuations
from hyperact.service.rhythm import Rhythm, make_rhythm
from hyperact.v1.decision_pb2 import Posterior
from hyperact.v1.indices import Float32s, derive_uniform_action
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.probabilities import Bools, Reference, to_masks
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import TensorChecker


class Question(Protocol):
    """What a lane needs to know of a row; `content` holds the observation's elements."""

    step: StepKey
    content: bytes
    action_mask: bytes
    indices: Float32s
    wants_posterior: bool


class Decided(NamedTuple):
    """What a row is answered."""

    action: int
    margin: float
    propensity: float
    posterior: Posterior | None = None


class Lane(Protocol):
    """One way to decide, and what requests are checked against."""

    version: str
    digest: bytes
    rhythm: Rhythm
    checker: TensorChecker | None
    num_actions: int
    index_dim: int
    num_indices: int
    distribution: "ReferenceDistribution.ValueType"

    def decide(self, rows: Sequence[Question]) -> "list[Decided | DecisionError]":
        """Decide every row; an error is that row's alone."""
        ...


@dataclass(slots=True)
class FallbackLane:
    """Chooses uniformly among the allowed actions, by a function of the step.

    `num_actions` 0: not known; then every row has a mask.
    """

    key: bytes
    num_actions: int
    rhythm: Rhythm
    checker: TensorChecker | None = None
    version: str = ""
    digest: bytes = b""
    index_dim: int = 0
    num_indices: int = 1
    distribution: "ReferenceDistribution.ValueType" = ReferenceDistribution.REFERENCE_DISTRIBUTION_UNSPECIFIED

    def decide(self, rows: Sequence[Question]) -> "list[Decided | DecisionError]":
        """Decide every row."""
        return [self._decide(row) for row in rows]

    def _decide(self, row: Question) -> Decided:
        allowed: Sequence[int] = range(self.num_actions)
        if row.action_mask:
            allowed = [action for action, is_allowed in enumerate(row.action_mask) if is_allowed]
        place = int(derive_uniform_action(self.key, row.step) * len(allowed))
        return Decided(allowed[place], 0.0, 1.0 / len(allowed))


@dataclass(slots=True)
class VersionLane:
    """Decides with one version's hypermodel."""

    key: bytes
    version: str
    hypermodel: Hypermodel
    digest: bytes = field(init=False)
    rhythm: Rhythm = field(init=False)
    checker: TensorChecker | None = field(init=False)
    num_actions: int = field(init=False)
    index_dim: int = field(init=False)
    num_indices: int = field(init=False)
    distribution: "ReferenceDistribution.ValueType" = field(init=False)
    _reference: Reference = field(init=False)

    def __post_init__(self) -> None:
        model = self.hypermodel
        self.digest = model.digest
        self.rhythm = make_rhythm(self.key, model.spec)
        self.checker = model.checker
        self.num_actions = model.num_actions
        self.index_dim = model.index_dim
        self.num_indices = model.reference.num_drawn
        self.distribution = model.spec.reference_distribution
        self._reference = model.reference

    def decide(self, rows: Sequence[Question]) -> "list[Decided | DecisionError]":
        """Decide every row. A row that the model fails on, or answers with no finite numbers, fails alone."""
        try:
            found = self.hypermodel.ask(self._observations(rows), _stack([row.indices for row in rows]))
        except Exception as error:  # noqa: BLE001 - the runtime raises classes of its own making
            if len(rows) > 1:
                return [self.decide([row])[0] for row in rows]
            return [self._failure(f"the model call failed: {error}")]
        if all(np.isfinite(part).all() for part in found):
            return list(self._decide(rows, found))
        good = [place for place in range(len(rows)) if all(np.isfinite(part[place]).all() for part in found)]
        results: list[Decided | DecisionError] = [self._failure("its answer is not finite") for _ in rows]
        if good:
            some = Valuations(*(part[good] for part in found))
            for place, decided in zip(good, self._decide([rows[row] for row in good], some), strict=True):
                results[place] = decided
        return results

    def _observations(self, rows: Sequence[Question]) -> NDArray[Any]:
        """Return the observations as one array, of one copy of their bytes; of none for a row alone."""
        checker = self.hypermodel.checker
        content = b"".join([row.content for row in rows]) if len(rows) > 1 else rows[0].content
        return np.frombuffer(content, checker.dtype).reshape(len(rows), *checker.shape)

    def _decide(self, rows: Sequence[Question], found: Valuations) -> list[Decided]:
        masks = to_masks([row.action_mask for row in rows], self.num_actions)
        epsilon = self._reference.epsilon
        chances = Chances(self.key, [row.step for row in rows], epsilon)
        explore = chances.explore if epsilon else None
        decisions = decision.decide(*found, masks, self._reference, chances.tie_break, explore)
        posteriors = self._posteriors(rows, found.beliefs, masks)
        columns = (decisions.actions, decisions.margins, decisions.propensities)
        if posteriors is None:
            return list(map(Decided, *(column.tolist() for column in columns)))
        return list(map(Decided, *(column.tolist() for column in columns), posteriors))

    def _posteriors(
        self, rows: Sequence[Question], beliefs: Float32s, masks: Bools | None
    ) -> list[Posterior | None] | None:
        """Return the posterior of each row that wants one; None if none does."""
        wanting = [place for place, row in enumerate(rows) if row.wants_posterior]
        if not wanting:
            return None
        some_masks = None if masks is None else masks[wanting]
        found = decision.posteriors(beliefs[wanting], some_masks, self._reference)
        messages: list[Posterior | None] = [None] * len(rows)
        for place, means, deviations, chances in zip(wanting, *found, strict=True):
            messages[place] = Posterior(means=means, standard_deviations=deviations, probabilities=chances)
        return messages

    def _failure(self, problem: str) -> DecisionError:
        return UnavailableError(
            f"version {self.version} cannot decide this observation: {problem}", reason="BAD_OUTPUT"
        )


def _stack(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return contiguous arrays of one shape and dtype as the rows of one: np.stack, but faster on small ones."""
    first = arrays[0]
    if len(arrays) == 1:
        return first[np.newaxis]
    return np.frombuffer(b"".join(array.data for array in arrays), first.dtype).reshape(len(arrays), *first.shape)
