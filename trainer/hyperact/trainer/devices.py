"""Where a learner computes: networks, optimiser and updates, and the values that agents act by.

Replay buffers stay in main memory as arrays; a batch goes to the device when it is learned from. Everything that a
learner hands out is on the CPU again: values, states, what is exported.
"""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from hyperact.trainer.config import DeviceName, NetworkConfig

Tensors = TypeVar("Tensors")

cpu = torch.device("cpu")


def find_device(name: DeviceName, network: NetworkConfig) -> torch.device:
    """Return a device by name. ValueError if it is CUDA's and there is none.

    "auto" is CUDA for convolutional torsos where there is such a device: a small network is all overhead there.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ValueError("device: torch finds no CUDA device; say cpu, or auto to use one where there is one")
    is_worthwhile = name == "cuda" or (name == "auto" and network.torso != "mlp")
    return torch.device("cuda") if has_cuda and is_worthwhile else cpu


def on_device(value: Tensors, device: torch.device) -> Tensors:
    """Return a tensor, or a tuple (named or not) of them at any depth, on a device; what is there already stays."""
    if isinstance(value, Tensor):
        return cast("Tensors", value.to(device))
    if isinstance(value, tuple):
        make: Any = getattr(value, "_make", tuple)
        return cast("Tensors", make(on_device(part, device) for part in value))
    return value
