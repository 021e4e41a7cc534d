"""Summands of one torso and one linear last layer: what HyperAgent, HyperDQN and Double DQN share."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hyperact.trainer.heads.summand import AffineSummand
from hyperact.trainer.networks import Torso
from hyperact.trainer.reference_distributions import Moments


class Head(nn.Module):
    """Maps features to the coefficients of every action: its mean and its M loadings.

        c(o)[a, 0] = <b_a, phi(o)> + beta_a[0]          c(o)[a, 1 + i] = <A_a[:, i], phi(o)> + beta_a[1 + i]

    Letters: B observations, A num_actions, M index_dim, h feature_dim; b_a in R^h the mean weights and A_a in R^{h x M}
    the loading weights of action a, beta_a in R^{M + 1} its biases (which HyperAgent has not), phi the features.

    Shapes:
        weight:   float32 [A, M + 1, h]
        bias:     float32 [A, M + 1], or None
        features: float32 [B, h]
        returns:  float32 [B, A, M + 1]
    """

    def __init__(self, mean: Tensor, loadings: Tensor, bias: Tensor | None = None) -> None:
        """Take the mean weights float32 [A, h], the loading weights float32 [A, h, M] and the biases."""
        super().__init__()
        self.weight = nn.Parameter(torch.cat([mean.unsqueeze(1), loadings.transpose(1, 2)], dim=1).contiguous())
        self.bias = None if bias is None else nn.Parameter(bias.contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Return the coefficients."""
        num_actions, num_coefficients, _ = self.weight.shape
        bias = None if self.bias is None else self.bias.flatten()
        flat = nn.functional.linear(features, self.weight.flatten(0, 1), bias)
        return flat.reshape(-1, num_actions, num_coefficients)

    def generated_square(self, moments: Moments) -> Tensor:
        """Return the mean over generated weights w = b + A z of E[w^2] = b^2 + 2 b mean sum(A) + second |A|^2."""
        weights = [self.weight.transpose(1, 2).flatten(0, 1)]
        if self.bias is not None:
            weights.append(self.bias)
        rows = torch.cat(weights)
        mean, loadings = rows[:, 0], rows[:, 1:]
        squares = mean**2 + 2 * moments.mean * mean * loadings.sum(-1) + moments.second * (loadings**2).sum(-1)
        return squares.mean()


class Part(AffineSummand):
    """A torso and a head of its own, scaled: one of the two summands of a hypermodel."""

    def __init__(self, torso: Torso, head: Head, scale: float) -> None:
        super().__init__()
        self.torso = torso
        self.head = head
        self.scale = scale

    def encode(self, observations: Tensor) -> Tensor:
        """Return this part's coefficients: float32 [B, A, M + 1]."""
        return self.encode_features(self.torso(observations))

    def encode_features(self, features: Tensor) -> Tensor:
        """Return this part's coefficients from the torso's features float32 [B, h]."""
        coefficients: Tensor = self.head(features)
        return self.scale * coefficients

    def generated_square(self, moments: Moments) -> Tensor:
        """Return the mean square of the generated last-layer weights."""
        return self.head.generated_square(moments)


def mean_weights(
    init: Literal["sphere", "xavier"], num_actions: int, width: int, norm: float, generator: torch.Generator
) -> Tensor:
    """Return mean weights float32 [A, h]: one vector of the given norm over all of them, or Xavier normal."""
    normals = torch.randn(num_actions, width, generator=generator)
    if init == "sphere":
        return normals * (norm / float(normals.norm()))
    return normals * math.sqrt(2.0 / (num_actions + width))


def unit_rows(num_actions: int, width: int, index_dim: int, norm: float, generator: torch.Generator) -> Tensor:
    """Return loading weights float32 [A, h, M] whose rows of length M are uniform on the sphere of a norm."""
    rows = torch.randn(num_actions, width, index_dim, generator=generator)
    return norm * nn.functional.normalize(rows, dim=2)
