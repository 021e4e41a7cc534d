"""Observations made small enough to look at. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

max_cells = 28
"""Rows and columns of a thumbnail; a frame of 84 x 84 is then a third of itself."""
_shades = " .:-=+*#%@"
_colour_channels = (3, 4)
_max_planes = 16


def to_planes(observation: NDArray[Any]) -> list[NDArray[Any]]:
    """Return an observation as images: [height, width], or [height, width, 3 or 4] for one in colour.

    A stack (its first dimension is small) gives one image for each member; a vector is one row.
    """
    array = np.asarray(observation)
    if array.ndim <= 2:
        return [np.atleast_2d(array)]
    if array.ndim == 3 and array.shape[2] in _colour_channels and array.shape[0] > array.shape[2]:
        return [array]
    if array.ndim == 3 and array.shape[2] == 1:
        return [array[:, :, 0]]
    if array.ndim == 3 and array.shape[0] <= _max_planes:
        return list(array)
    return [array.reshape(-1, array.shape[-1])]


def to_brightness(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Return an image in at most `max_cells` rows and columns, from 0 (its darkest) to 1 (its brightest)."""
    grey = plane.astype(np.float64)
    if grey.ndim == 3:
        grey = grey[:, :, :3].mean(axis=2)
    small = _shrink(_shrink(grey).T).T
    low, high = small.min(), small.max()
    spread: NDArray[np.float64] = (small - low) / (high - low) if high > low else np.zeros_like(small)
    return spread


def to_shade(brightness: float) -> str:
    """Return a character that is as dense as a cell is bright."""
    return _shades[round(brightness * (len(_shades) - 1))]


def _shrink(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means of neighbouring rows, so that at most `max_cells` are left."""
    if len(grey) <= max_cells:
        return grey
    return np.stack([rows.mean(axis=0) for rows in np.array_split(grey, max_cells)])
