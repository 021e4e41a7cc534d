"""A ring of observations in which stacks of frames share their frames.

The rules:

1. An observation of `num_stacked` frames along its first axis stores its newest frame, and of the older ones those that
   the observation one step before does not hold already. Of any other kind the whole observation is its one frame.
2. Sharing is found by comparing, never assumed: what comes out is what went in, bit for bit.
3. Slots are numbered forever, and the ring forgets the oldest. An observation's number is the slot of its newest frame.
   All frames of an observation lie within `window` slots before the slot that was next when it was stored.

Letters: N observations, S num_stacked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensors import numpy_dtype

Observations = NDArray[Any]


class ObservationRing:
    """Stores observations under numbers that count slots."""

    def __init__(self, spec: ModelSpec, size: int, window: int, num_stacked: int = 1) -> None:
        """Make room for `size` frames. ValueError if the spec's observations are no stacks of `num_stacked` frames."""
        shape = tuple(spec.observation.shape)
        if num_stacked > 1 and shape[:1] != (num_stacked,):
            raise ValueError(f"expected observations of {num_stacked} stacked frames, got the shape {shape}")
        self._shape = shape
        self._size = size
        self._window = window
        self._num_stacked = num_stacked
        frame_shape = shape[1:] if num_stacked > 1 else shape
        # Zeros take memory only when they are written.
        self._frames: Observations = np.zeros((size, *frame_shape), numpy_dtype(spec.observation.dtype))
        self._frames_of = np.zeros((size, num_stacked), np.int64)
        self.num_slots = 0

    @property
    def size(self) -> int:
        """How many frames the ring holds."""
        return self._size

    @property
    def num_bytes(self) -> int:
        """How much memory the full ring takes."""
        return self._frames.nbytes + self._frames_of.nbytes

    def store(self, observation: Observations, before: int | None = None) -> int:
        """Store an observation and return its number; `before` is the number of the one a step earlier, if known."""
        if self._num_stacked == 1:
            number = self._append(observation)
            self._frames_of[number % self._size, 0] = number
            return number
        older = None if before is None else self._shared(observation, before)
        number = self._append(observation[-1])
        if older is None:
            older = self._append_older(observation, number)
        self._frames_of[number % self._size, :-1] = older
        self._frames_of[number % self._size, -1] = number
        return number

    def is_fresh(self, number: int) -> bool:
        """Tell whether an observation may be used by a transition that is stored now."""
        # Two more observations may be stored before that transition's life is reckoned.
        limit = self.num_slots + 2 * self._num_stacked - self._window
        return bool(number >= limit and self._frames_of[number % self._size].min() >= limit)

    def take(self, numbers: NDArray[np.int64]) -> Observations:
        """Return copies of observations: [N, *shape]."""
        if self._num_stacked == 1:
            return self._frames[numbers % self._size]
        return self._frames[self._frames_of[numbers % self._size] % self._size]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return what the ring holds, as views on it."""
        used = min(self.num_slots, self._size)
        return {
            "frames": self._frames[:used],
            "frames_of": self._frames_of[:used],
            "num_slots": np.array(self.num_slots, np.int64),
        }

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Take on what a ring of the same size held."""
        used = len(state["frames"])
        self._frames[:used] = state["frames"]
        self._frames_of[:used] = state["frames_of"]
        self.num_slots = int(state["num_slots"])

    def _append(self, frame: Observations) -> int:
        number = self.num_slots
        self._frames[number % self._size] = frame
        self.num_slots += 1
        return number

    def _shared(self, observation: Observations, before: int) -> Sequence[int] | None:
        """Return the numbers of the older frames if the observation before holds them, else None."""
        numbers = self._frames_of[before % self._size, 1:]
        is_near = numbers.min() >= self.num_slots + 1 - self._window
        if is_near and np.array_equal(self._frames[numbers % self._size], observation[:-1]):
            return list(numbers)
        return None

    def _append_older(self, observation: Observations, newest: int) -> Sequence[int]:
        """Store the older frames; one that equals its successor, as at an episode's start, shares its slot."""
        numbers = [newest]
        for place in range(self._num_stacked - 2, -1, -1):
            is_same = np.array_equal(observation[place], observation[place + 1])
            numbers.append(numbers[-1] if is_same else self._append(observation[place]))
        return numbers[:0:-1]
