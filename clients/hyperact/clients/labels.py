"""Labelled data as a decision problem: say what a row is, and learn only whether that was right.

A row of a data set that scikit-learn bundles is shown, its features standardised (mean 0, deviation 1 over the data
set; constant ones 0). An action names one of the labels. The reward is 1 for the right one and 0 for any other, and
nobody says which would have been right. Every step is an episode of its own.

Observation: float32 [features]; zeros once the step is over. Actions: Discrete(labels). Ends with `terminated`.

The rows come in passes: each pass shows every row once, in an order drawn anew. A data set of 1797 rows is thus passed
5.6 times in 10,000 decisions.

Source of the setting: contextual bandits from classification, arXiv:1802.04064.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Observation = NDArray[np.float32]

environment_id = "hyperact/Labels-v0"
data_names = ("digits", "breast_cancer", "wine", "iris")


def load_rows(data: str) -> tuple[Observation, NDArray[np.int64]]:
    """Return a data set's standardised features float32 [N, D] and labels int64 [N], from 0; ValueError."""
    from sklearn import datasets

    if data not in data_names:
        raise ValueError(f"data: expected one of {', '.join(data_names)}, got {data!r}")
    features, labels = getattr(datasets, f"load_{data}")(return_X_y=True)
    deviations = features.std(0)
    deviations[deviations == 0] = 1
    return ((features - features.mean(0)) / deviations).astype(np.float32), labels.astype(np.int64)


def row_order(num_rows: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield row numbers, pass after pass, each pass in an order of its own, for ever."""
    while True:
        yield from map(int, rng.permutation(num_rows))


class Labels(gymnasium.Env[Observation, np.int64]):
    """Labelled rows as the module's docstring specifies them.

    Args:
        data: the data set's name, one of `data_names`.
        render_mode: None only.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- gymnasium.Env declares it so

    def __init__(self, data: str = "digits", *, render_mode: str | None = None) -> None:
        self._observations, self._labels = load_rows(data)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-np.inf, np.inf, self._observations.shape[1:], np.float32)
        self.action_space = spaces.Discrete(int(self._labels.max()) + 1)
        self._order: Iterator[int] | None = None
        self._row: int | None = None

    @property
    def optimal_return(self) -> float:
        """The return of whoever knows every label."""
        return 1.0

    @property
    def label(self) -> int:
        """What the row shown now is, for who keeps the score; an agent is not told."""
        if self._row is None:
            raise gymnasium.error.ResetNeeded("no row is shown: call reset() first")
        return int(self._labels[self._row])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Show the next row; with a seed, the first of a new order."""
        super().reset(seed=seed, options=options)
        if self._order is None or seed is not None:
            self._order = row_order(len(self._labels), self.np_random)
        self._row = next(self._order)
        return self._observations[self._row].copy(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take in what the row is said to be."""
        reward = float(int(action) == self.label)
        self._row = None
        return np.zeros_like(self._observations[0]), reward, True, False, {}


gymnasium.register(environment_id, entry_point="hyperact.clients.labels:Labels")
