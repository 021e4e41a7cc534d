"""The agent of the papers' protocol: it acts in the process that learns, by the same rule as the service.

Two things it draws from streams of its own: the second and further indices of optimistic acting, and whether a step is
random, whose share may fall from step to step. Both are functions of ids, like everything else that it draws.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import torch

from hyperact.trainer.config import EpsilonConfig, OptimismConfig
from hyperact.trainer.losses import optimistic_values
from hyperact.trainer.observations import Observations
from hyperact.v1.indices import (
    Float32s,
    derive_index,
    derive_tie_break,
    derive_uniform_action,
    index_bank,
    is_segment_start,
)
from hyperact.v1.model_pb2 import IndexSchedule, ModelSpec
from hyperact.v1.steps import StepKey

# Observations [N, *shape] and indices [N, K, M] to values [N, K, A].
Values = Callable[[Observations, Float32s], Float32s]


def seed_key(seed: int, purpose: str) -> bytes:
    """Return an index key for a seed; purposes ("train", "evaluation") have different streams."""
    return hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=32, person=b"hyperact.seedkey").digest()


class ThompsonAgent:
    """Takes the best action under the index of the episode or segment; uniformly random ones while it warms up.

    Args:
        spec: the model's.
        values: the model's values.
        index_key: everything random follows from it and the steps' names.
        optimism: acts by a quantile over several held indices if it says so.
        epsilon: the share of random actions, by how often the agent acted (`num_steps`).
    """

    def __init__(
        self,
        spec: ModelSpec,
        values: Values,
        index_key: bytes,
        optimism: OptimismConfig | None = None,
        epsilon: EpsilonConfig | None = None,
    ) -> None:
        self._spec = spec
        self._values = values
        self._optimism = optimism if optimism and optimism.is_acting else OptimismConfig()
        self._epsilon = epsilon or EpsilonConfig()
        # One key per index that is held at the same time; the first is the agent's own, as in a service.
        self._keys = [_subkey(index_key, f"index {number}") for number in range(1, self._optimism.num_indices)]
        self._keys.insert(0, index_key)
        self._random_key = _subkey(index_key, "random actions")
        self._held: tuple[StepKey, Float32s] | None = None
        self._segment = 0
        self.num_steps = 0
        self.is_warming_up = False

    def act(self, observation: Observations, step: StepKey) -> int:
        """Return the action of a step. Steps of an episode must come in order."""
        self._segment = self._next_segment(step)
        self.num_steps += 1
        num_actions = self._spec.action.discrete.num_actions
        if self.is_warming_up or self._is_random(step):
            return int(derive_uniform_action(self._keys[0], step) * num_actions)
        each = self._values(observation[np.newaxis], self._indices(step)[np.newaxis])
        values = each[0, 0] if each.shape[1] == 1 else self._optimistic(each)
        best = np.flatnonzero(values == values.max())
        return int(best[0] if len(best) == 1 else best[int(derive_tie_break(self._keys[0], step) * len(best))])

    def draw_indices(self, segment: StepKey) -> Float32s:
        """Return the indices that are held from a step on, the first of its segment: float32 [K, M]."""
        index_dim, distribution = self._spec.index_dim, self._spec.reference_distribution
        if self._optimism.num_indices == 0:
            return index_bank(index_dim, distribution).copy()
        return np.stack([derive_index(key, segment, segment.number, index_dim, distribution) for key in self._keys])

    def _optimistic(self, values: Float32s) -> Float32s:
        chosen: Float32s = optimistic_values(torch.from_numpy(values), self._optimism.quantile)[0, 0].numpy()
        return chosen

    def _indices(self, step: StepKey) -> Float32s:
        """Return the indices of a step's segment: float32 [K, M]."""
        segment = step._replace(number=self._segment)
        if self._held is None or self._held[0] != segment:
            self._held = (segment, self.draw_indices(segment))
        return self._held[1]

    def _is_random(self, step: StepKey) -> bool:
        epsilon = self._epsilon
        if not (epsilon.begin or epsilon.end):
            return False
        progress = min(self.num_steps / epsilon.num_steps, 1.0) if epsilon.num_steps else 1.0
        share = epsilon.begin + progress * (epsilon.end - epsilon.begin)
        return derive_uniform_action(self._random_key, step) < share

    def _next_segment(self, step: StepKey) -> int:
        if step.number == 0:
            return 0
        schedule = self._spec.index_schedule
        if schedule == IndexSchedule.INDEX_SCHEDULE_STEP:
            return step.number
        if schedule == IndexSchedule.INDEX_SCHEDULE_GEOMETRIC:
            return step.number if is_segment_start(self._keys[0], step, self._spec.discount) else self._segment
        return 0


def _subkey(key: bytes, purpose: str) -> bytes:
    return hashlib.blake2b(purpose.encode(), key=key, digest_size=32, person=b"hyperact.agent.k").digest()
