"""DeepSea: the hardest small exploration problem, as a Gymnasium environment.

A diver starts at the top left of an N x N grid and sinks one row a step; an episode is exactly N steps. In each cell
one of the two actions goes right and the other left: which one is drawn once per *cell* from `mapping_seed`, so that
nothing can be generalised from one cell to the next.

    right:  column <- min(column + 1, N - 1)      reward -0.01 / N
    left:   column <- max(column - 1, 0)          reward 0
    right while standing in the last column:      reward +1 more (only the last row can be reached there)

The one policy that always goes right returns 0.99; every other one returns at most 0; uniformly random actions find the
treasure with probability 2^-N.

Observation: uint8 [N, N], one at the diver's cell and zero elsewhere; all zeros once the episode has ended.
Actions: Discrete(2). The episode ends with `terminated`, never with `truncated`.

The stochastic variant (`deterministic=False`), bsuite's: right fails to move with probability 1 / N (its cost is paid
all the same), and the last row's first and last column add a standard normal to the reward. The optimal return is then
(1 - 1/N)^(N-1) - 0.01 in the mean.

Two randomnesses have two names: `mapping_seed` is the sea, `reset(seed=...)` is the weather. `mapping_seed` means what
it means in bsuite (the same NumPy generator, the same call), so equal sizes and mapping seeds give equal seas; a
mapping can also be given outright.

Solved, by the papers' criterion: the mean return of 100 evaluation episodes with fresh indices is at least
0.99 - 1e-6, which is to say that all of them are optimal.

Source: arXiv:1703.07608; bsuite/environments/deep_sea.py (bsuite 0.3.6).
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Observation = NDArray[np.uint8]

environment_id = "hyperact/DeepSea-v0"
cost_of_right = 0.01
return_tolerance = 1e-6
cell_pixels = 16


def draw_mapping(size: int, mapping_seed: int) -> NDArray[np.bool_]:
    """Return for each cell [row, column] the action that goes right, as bsuite draws it."""
    # RandomState, not default_rng: the same mapping_seed then means bsuite's sea.
    return np.random.RandomState(mapping_seed).binomial(1, 0.5, (size, size)).astype(np.bool_)


class DeepSea(gymnasium.Env[Observation, np.int64]):
    """DeepSea as the module's docstring specifies it.

    Args:
        size: N, at least 2.
        mapping_seed: decides the action that goes right in each cell. 42 in bsuite's sweep.
        deterministic: False for the stochastic variant.
        mapping: bool or 0/1 [N, N], used instead of `mapping_seed`.
        render_mode: "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 -- gymnasium.Env declares it so

    def __init__(
        self,
        size: int = 10,
        mapping_seed: int = 42,
        *,
        deterministic: bool = True,
        mapping: NDArray[Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if size < 2:
            raise ValueError(f"size: expected at least 2, got {size}")
        drawn = draw_mapping(size, mapping_seed) if mapping is None else np.asarray(mapping).astype(np.bool_)
        if drawn.shape != (size, size):
            raise ValueError(f"mapping: expected shape {(size, size)}, got {drawn.shape}")
        self.size = size
        self.mapping = drawn
        self.is_deterministic = deterministic
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 1, (size, size), np.uint8)
        self.action_space = spaces.Discrete(2)
        self._row = self._column = 0

    @property
    def optimal_return(self) -> float:
        """The mean return of the best policy."""
        probability = 1.0 if self.is_deterministic else (1 - 1 / self.size) ** (self.size - 1)
        return probability - cost_of_right

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Put the diver at the top left."""
        super().reset(seed=seed, options=options)
        self._row = self._column = 0
        return self._observe(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Sink one row."""
        if self._row >= self.size:
            raise gymnasium.error.ResetNeeded("the episode has ended: call reset() first")
        goes_right = bool(action) == self.mapping[self._row, self._column]
        reward = self._reward(goes_right)
        self._move(goes_right)
        return self._observe(), reward, self._row == self.size, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the sea as an image, uint8 [16 N, 16 N, 3]: the diver white, the treasure golden."""
        if self.render_mode != "rgb_array":
            return None
        image = np.full((self.size, self.size, 3), (16, 60, 120), np.uint8)
        image[-1, -1] = (240, 190, 40)
        if self._row < self.size:
            image[self._row, self._column] = (255, 255, 255)
        return image.repeat(cell_pixels, axis=0).repeat(cell_pixels, axis=1)

    def _reward(self, goes_right: bool) -> float:
        reward = 1.0 if goes_right and self._column == self.size - 1 else 0.0
        if not self.is_deterministic and self._row == self.size - 1 and self._column in (0, self.size - 1):
            reward += float(self.np_random.standard_normal())
        return reward - (cost_of_right / self.size if goes_right else 0.0)

    def _move(self, goes_right: bool) -> None:
        if not goes_right:
            self._column = max(self._column - 1, 0)
        elif self.is_deterministic or self.np_random.random() > 1 / self.size:
            self._column = min(self._column + 1, self.size - 1)
        self._row += 1

    def _observe(self) -> Observation:
        observation = np.zeros((self.size, self.size), np.uint8)
        if self._row < self.size:
            observation[self._row, self._column] = 1
        return observation


gymnasium.register(environment_id, entry_point="hyperact.clients.deep_sea:DeepSea")
