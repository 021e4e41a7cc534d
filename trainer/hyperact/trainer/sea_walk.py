"""Evaluation episodes on a deterministic DeepSea, all at once.

An evaluation is a hundred episodes of N steps, a thousand steps of learning apart, so it must cost next to nothing. All
divers of an evaluation sink in step, so each row of the sea is one call of the network for the few columns that they
stand in. The outcome is exactly that of playing the episodes one after the other in the environment, under the same
indices (a test holds it to that).

Letters: E episodes, A num_actions, N the size; an episode holds one index.
"""

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.agent import ThompsonAgent, seed_key
from hyperact.trainer.environments import Environment
from hyperact.trainer.learner import Learner
from hyperact.v1.indices import Float32s, derive_tie_break
from hyperact.v1.model_pb2 import GraphKind, IndexSchedule
from hyperact.v1.steps import StepKey

_cost_of_right = 0.01


def can_walk(environment: Environment, learner: Learner) -> bool:
    """Tell whether evaluations of a learner in an environment can be played at once."""
    is_held = learner.spec.index_schedule == IndexSchedule.INDEX_SCHEDULE_EPISODE
    is_table = bool(getattr(environment.unwrapped, "is_deterministic", False))
    return is_table and is_held and not learner.config.epsilon.evaluation


class SeaWalk:
    """A deterministic DeepSea as a table: which action goes right in each cell."""

    def __init__(self, environment: Environment) -> None:
        """Take a `hyperact/DeepSea-v0`. ValueError if it is not deterministic."""
        sea = environment.unwrapped
        if not getattr(sea, "is_deterministic", False):
            raise ValueError("environment: expected a deterministic DeepSea")
        self._right: NDArray[np.bool_] = sea.mapping  # type: ignore[attr-defined]  # declared by DeepSea
        self.size = len(self._right)

    def evaluation_returns(self, learner: Learner, model: str, seed: int, num_episodes: int) -> Float32s:
        """Return the returns [E] of the episodes that `train.evaluation_returns` would play, and as it would."""
        spec = learner.spec
        if spec.index_schedule != IndexSchedule.INDEX_SCHEDULE_EPISODE:
            raise ValueError("index_schedule: expected one index per episode")
        key = seed_key(seed, "evaluation")
        agent = ThompsonAgent(spec, learner.values, key)
        first = StepKey(model, "evaluation", f"after-{learner.num_learner_steps}", 0, 0)
        episodes = [first._replace(episode=number) for number in range(num_episodes)]
        indices = np.stack([agent.draw_indices(episode) for episode in episodes])
        columns = np.zeros(num_episodes, np.int64)
        returns = np.zeros(num_episodes)
        for row in range(self.size):
            values = self._values(learner, indices, row, columns)
            steps = [episode._replace(number=row) for episode in episodes]
            columns, rewards = self._sink(row, columns, _best_actions(values, key, steps))
            returns += rewards
        return returns.astype(np.float32)

    def _values(self, learner: Learner, indices: Float32s, row: int, columns: NDArray[np.int64]) -> Float32s:
        """Return the values [E, A] that the divers of a row act by."""
        distinct, place_of = np.unique(columns, return_inverse=True)
        observations = np.zeros((len(distinct), self.size, self.size), np.uint8)
        observations[np.arange(len(distinct)), row, distinct] = 1
        if learner.hypermodel.graph_kind == GraphKind.GRAPH_KIND_COEFFICIENTS:
            coefficients = learner.coefficients(observations)[place_of]
            each = coefficients[:, np.newaxis, :, 0] + np.einsum("ekm,eam->eka", indices, coefficients[..., 1:])
        else:
            each = learner.values(observations[place_of], indices)
        only: Float32s = each[:, 0]
        return only

    def _sink(
        self, row: int, columns: NDArray[np.int64], actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the next columns and the rewards of a step."""
        goes_right = actions.astype(np.bool_) == self._right[row, columns]
        rewards = np.where(goes_right, (columns == self.size - 1) - _cost_of_right / self.size, 0.0)
        return np.clip(columns + np.where(goes_right, 1, -1), 0, self.size - 1), rewards


def _best_actions(values: Float32s, key: bytes, steps: list[StepKey]) -> NDArray[np.int64]:
    """Return the best action of each row of values, choosing among equals as the agent does."""
    actions: NDArray[np.int64] = values.argmax(1)
    is_tied = (values == values.max(1, keepdims=True)).sum(1) > 1
    for place in np.flatnonzero(is_tied):
        best = np.flatnonzero(values[place] == values[place].max())
        actions[place] = best[int(derive_tie_break(key, steps[place]) * len(best))]
    return actions
