"""Feature networks: observations in, features out. Letters: B observations, h feature_dim."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig, TorsoName
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensor_pb2 import TensorSpec

# A feature map that is constant must become zeros and not a division by zero (released code).
_min_range = 1e-8


class ScaledFlatten(nn.Module):
    """Turns observations into rows of numbers, float32 [B, D]; bounds wider than 2 are brought to [0, 1]."""

    def __init__(self, observation: TensorSpec) -> None:
        super().__init__()
        self.scale, self.shift = _scaling(observation)
        self.num_features = math.prod(observation.shape)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the numbers."""
        # Not flatten: observations may be scalars.
        numbers: Tensor = observations.reshape(observations.shape[0], -1).float() * self.scale + self.shift
        return numbers


class MlpTorso(nn.Module):
    """Flattens an observation, scales it and passes it through fully connected ReLU layers.

    Shapes:
        observations: any dtype [B, *observation_shape]
        returns:      float32 [B, h]
    """

    def __init__(
        self,
        observation: TensorSpec,
        hidden_sizes: tuple[int, ...],
        generator: torch.Generator,
        *,
        has_biases: bool = True,
    ) -> None:
        super().__init__()
        self.inputs = ScaledFlatten(observation)
        sizes = (self.inputs.num_features, *hidden_sizes)
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=has_biases) for pair in pairwise(sizes))
        self.feature_dim = sizes[-1]
        _initialise(self, generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self.inputs(observations)
        for layer in self.layers:
            features = torch.relu(layer(features))
        return features


class Convolution(NamedTuple):
    """The shape of a convolution without padding."""

    num_channels: int
    kernel_size: int
    stride: int


_nature = (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1))
convolutions_of: dict[TorsoName, tuple[Convolution, ...]] = {
    "atari": _nature,
    "nature": _nature,
    "data_efficient": (Convolution(32, 5, 5), Convolution(64, 5, 5)),
}


class AtariTorso(nn.Module):
    """Convolutions over raw pixels, min-max normalised per observation, and fully connected ReLU layers.

    Pixels stay 0 to 255: the normalisation makes their scale irrelevant. Source: released code (ALGORITHM 3.5) for the
    normalisation; the names of convolutions have theirs in `config.atari_networks`.

    Shapes:
        observations: uint8 [B, 4, 84, 84]
        returns:      float32 [B, h]

    Invariants: the features of an observation do not depend on the others of its batch.
    """

    def __init__(self, observation: TensorSpec, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        shapes = convolutions_of[config.torso]
        num_inputs = (observation.shape[0], *(shape.num_channels for shape in shapes))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(num_channels, *shape) for num_channels, shape in zip(num_inputs, shapes, strict=False)
        )
        sizes = (_num_conv_features(observation, shapes), *config.hidden_sizes)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.feature_dim = sizes[-1]
        _initialise(self, generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features."""
        features = observations.float()
        if torch.is_grad_enabled():
            # Backward through convolutions is faster by a quarter in this layout; forward alone is not.
            features = features.contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            features = torch.relu(convolution(features))
        features = min_max(features.flatten(1))
        for layer in self.layers:
            features = torch.relu(layer(features))
        return features


Torso = MlpTorso | AtariTorso


def make_torso(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Torso:
    """Return a freshly initialised feature network for a model's observations."""
    if config.torso == "mlp":
        return MlpTorso(spec.observation, config.hidden_sizes, generator, has_biases=config.has_biases)
    return AtariTorso(spec.observation, config, generator)


def draw_first_layer(torso: Torso, deviation: float, generator: torch.Generator) -> None:
    """Draw an MLP's first weights anew, normal with a deviation; leave any other torso as it is."""
    if isinstance(torso, MlpTorso):
        nn.init.normal_(torso.layers[0].get_parameter("weight"), std=deviation, generator=generator)


def xavier_linear(num_inputs: int, num_outputs: int, generator: torch.Generator, *, has_bias: bool = True) -> nn.Linear:
    """Return a linear layer with Xavier normal weights and zero biases."""
    layer = nn.Linear(num_inputs, num_outputs, bias=has_bias)
    _initialise(layer, generator)
    return layer


def min_max(features: Tensor) -> Tensor:
    """Scale each row to [0, 1]; a constant row becomes zeros."""
    low = features.amin(1, keepdim=True)
    high = features.amax(1, keepdim=True)
    # A floor and no summand: graph optimisers take a summand of 1e-8 for zero and leave 0/0.
    return (features - low) / (high - low).clamp(min=_min_range)


def _num_conv_features(observation: TensorSpec, shapes: Sequence[Convolution]) -> int:
    height, width = observation.shape[1:]
    for _, kernel, stride in shapes:
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return int(shapes[-1].num_channels * height * width)


def _scaling(observation: TensorSpec) -> tuple[float, float]:
    """Return (scale, shift) that bring wide bounded observations into [0, 1]; others are taken as they are."""
    if not (observation.HasField("minimum") and observation.HasField("maximum")):
        return 1.0, 0.0
    width = observation.maximum - observation.minimum
    if not (math.isfinite(width) and width > 2.0):
        return 1.0, 0.0
    return 1.0 / width, -observation.minimum / width


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Xavier normal weights with gain 1, zero biases (released code: both the learnable and the prior network)."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
