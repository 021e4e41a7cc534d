"""The feature networks of the cases as anybody would write them down, for the peers to learn with."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.networks import convolutions_of


class MinMax(nn.Module):
    """Scales each row to [0, 1], as the papers' Atari torsos do."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the scaled rows."""
        low, high = features.amin(1, keepdim=True), features.amax(1, keepdim=True)
        return (features - low) / (high - low + 1e-8)


def plain_torso(shape: tuple[int, ...], config: NetworkConfig) -> nn.Sequential:
    """Return the network from observations float32 [B, *shape] to features float32 [B, hidden_sizes[-1]]."""
    layers: list[nn.Module] = []
    if config.torso != "mlp":
        num_channels = shape[0]
        for convolution in convolutions_of[config.torso]:
            layers += [nn.Conv2d(num_channels, *convolution), nn.ReLU()]
            num_channels = convolution.num_channels
    layers.append(nn.Flatten())
    num_features = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
    if config.torso != "mlp":
        layers.append(MinMax())
    for pair in pairwise((num_features, *config.hidden_sizes)):
        layers += [nn.Linear(*pair), nn.ReLU()]
    return nn.Sequential(*layers)
