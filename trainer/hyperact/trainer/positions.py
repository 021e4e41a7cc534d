"""One-hot observations as positions, in replay and for the frozen prior.

A one-hot observation (a single one, or none at all, among zeros) is named by the place of its one, a blank one by the
number of places. Letters: N observations, D numbers in an observation.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.observations import Observations
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensors import numpy_dtype


class NotOneHotError(Exception):
    """An observation is not one-hot."""


def one_hot_position(observation: Observations) -> int | None:
    """Return where the single one of an observation stands, D if it is blank, None if it is not one-hot."""
    flat = observation.reshape(-1)
    num_nonzero = np.count_nonzero(flat)
    if num_nonzero == 0:
        return len(flat)
    place = int(flat.argmax())
    return place if num_nonzero == 1 and flat[place] == 1 else None


def from_positions(positions: NDArray[np.int64], spec: ModelSpec) -> Observations:
    """Return the observations at positions [N]: [N, *shape]."""
    shape = tuple(spec.observation.shape)
    size = math.prod(shape)
    flat = np.zeros((len(positions), size), numpy_dtype(spec.observation.dtype))
    rows = np.flatnonzero(positions < size)
    flat[rows, positions[rows]] = 1
    return flat.reshape(len(positions), *shape)


class PriorTable:
    """What the prior says of each one-hot observation, asked once: float32 [D + 1, *prior_shape]."""

    def __init__(
        self, spec: ModelSpec, prior: Callable[[Observations], Float32s], prior_shape: tuple[int, ...]
    ) -> None:
        size = math.prod(spec.observation.shape)
        self._spec = spec
        self._prior = prior
        self._is_known = np.zeros(size + 1, np.bool_)
        self._answers = np.zeros((size + 1, *prior_shape), np.float32)

    def answers(self, positions: NDArray[np.int64]) -> Float32s:
        """Return the answers at positions [N]."""
        if not self._is_known[positions].all():
            # One by one: the answer at a position then does not depend on what it was asked with.
            for position in np.unique(positions[~self._is_known[positions]]):
                self._answers[position] = self._prior(from_positions(np.array([position]), self._spec))[0]
                self._is_known[position] = True
        return self._answers[positions]


class PositionRing:
    """Stores one-hot observations under numbers that count slots, as `ObservationRing` does any other ones."""

    def __init__(self, spec: ModelSpec, size: int, window: int) -> None:
        self._spec = spec
        self._window = window
        self._positions = np.zeros(size, np.int64)
        self.num_slots = 0

    @property
    def num_bytes(self) -> int:
        """How much memory the full ring takes."""
        return self._positions.nbytes

    def store(self, observation: Observations, _: int | None = None) -> int:
        """Store an observation and return its number. Raises NotOneHotError."""
        position = one_hot_position(observation)
        if position is None:
            raise NotOneHotError
        number = self.num_slots
        self._positions[number % len(self._positions)] = position
        self.num_slots += 1
        return number

    def is_fresh(self, number: int) -> bool:
        """Tell whether an observation may be used by a transition that is stored now."""
        return number >= self.num_slots + 2 - self._window

    def positions(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of observations [N]."""
        return self._positions[numbers % len(self._positions)]

    def take(self, numbers: NDArray[np.int64]) -> Observations:
        """Return observations as they were stored: [N, *shape]."""
        return from_positions(self.positions(numbers), self._spec)

    def get_state(self) -> dict[str, NDArray[np.int64]]:
        """Return what the ring holds, as views on it."""
        used = min(self.num_slots, len(self._positions))
        return {"positions": self._positions[:used], "num_slots": np.array(self.num_slots, np.int64)}

    def set_state(self, state: dict[str, NDArray[np.int64]]) -> None:
        """Take on what a ring of the same size held."""
        self._positions[: len(state["positions"])] = state["positions"]
        self.num_slots = int(state["num_slots"])
