"""The agent of the papers' protocol: it acts in the process that learns, by the same rule as the service."""

import hashlib
from collections.abc import Callable

import numpy as np

from hyperact.trainer.replay import Observations
from hyperact.v1.indices import Float32s, derive_index, derive_tie_break, derive_uniform_action, is_segment_start
from hyperact.v1.model_pb2 import IndexSchedule, ModelSpec
from hyperact.v1.steps import StepKey

Coefficients = Callable[[Observations], Float32s]


def seed_key(seed: int, purpose: str) -> bytes:
    """Return an index key for a seed; purposes ("train", "evaluation") have different streams."""
    return hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=32, person=b"hyperact.seedkey").digest()


class ThompsonAgent:
    """Takes the best action under the index of the episode or segment; uniformly random ones while it warms up."""

    def __init__(self, spec: ModelSpec, coefficients: Coefficients, index_key: bytes) -> None:
        self._spec = spec
        self._coefficients = coefficients
        self._key = index_key
        self._segment = 0
        self.is_warming_up = False

    def act(self, observation: Observations, step: StepKey) -> int:
        """Return the action of a step. Steps of an episode must come in order."""
        self._segment = self._next_segment(step)
        num_actions = self._spec.action.discrete.num_actions
        if self.is_warming_up:
            return int(derive_uniform_action(self._key, step) * num_actions)
        coefficients = self._coefficients(observation[np.newaxis])[0]
        index = derive_index(self._key, step, self._segment, self._spec.index_dim, self._spec.reference_distribution)
        values = coefficients[:, 0] + coefficients[:, 1:] @ index
        best = np.flatnonzero(values == values.max())
        return int(best[0] if len(best) == 1 else best[int(derive_tie_break(self._key, step) * len(best))])

    def _next_segment(self, step: StepKey) -> int:
        if step.number == 0:
            return 0
        schedule = self._spec.index_schedule
        if schedule == IndexSchedule.INDEX_SCHEDULE_STEP:
            return step.number
        if schedule == IndexSchedule.INDEX_SCHEDULE_GEOMETRIC:
            return step.number if is_segment_start(self._key, step, self._spec.discount) else self._segment
        return 0
