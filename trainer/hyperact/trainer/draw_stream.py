"""The random numbers of updates, drawn for many at a time: one call for 32 costs hardly more than one for one."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperact.trainer.td_loss import DrawnArrays, Draws, TdLoss

block_size = 32


class DrawStream:
    """A stream of draws; its state is the generator's at the block's beginning and the place in the block."""

    def __init__(self, td_loss: TdLoss, seed: np.random.SeedSequence) -> None:
        self._td_loss = td_loss
        self._rng = np.random.default_rng(seed)
        self._place = 0
        self._begin_block()

    def next(self) -> tuple["np.ndarray[tuple[int, ...], np.dtype[np.float64]]", Draws]:
        """Return uniforms in [0, 1) that say which transitions are drawn [B], and the other numbers of one update."""
        if self._place == block_size:
            self._begin_block()
        place, self._place = self._place, self._place + 1
        return self._arrays.rows[place], Draws(*(tensor[place] for tensor in self._tensors))

    def get_state(self) -> dict[str, Any]:
        """Return what the next draws depend on, as JSON would have it."""
        return {"rng": self._block_state, "place": self._place}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        self._rng.bit_generator.state = state["rng"]
        self._begin_block()
        self._place = state["place"]

    def _begin_block(self) -> None:
        self._block_state = self._rng.bit_generator.state
        self._arrays: DrawnArrays = self._td_loss.draw(self._rng, block_size)
        self._tensors: tuple[Tensor, ...] = tuple(map(torch.from_numpy, self._arrays[1:]))
        self._place = 0
