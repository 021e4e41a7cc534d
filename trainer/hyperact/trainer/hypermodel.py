"""The HyperAgent hypermodel: a Q-network whose last layer is an affine function of an index."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.networks import make_torso
from hyperact.v1.model_pb2 import ModelSpec


class Head(nn.Module):
    """Maps features to the coefficients of every action: its mean and its M loadings, all without bias.

        c(o)[a, 0] = <b_a, phi(o)>          c(o)[a, 1 + i] = <A_a[:, i], phi(o)>

    Letters: B observations, A num_actions, M index_dim, h feature_dim; b_a in R^h the mean weights and A_a in R^{h x M}
    the loading weights of action a, phi the features.

    Shapes:
        weight:   float32 [A, M + 1, h]
        features: float32 [B, h]
        returns:  float32 [B, A, M + 1]

    Source: arXiv:2402.10228 equation 10 (the hypermodel generates last-layer weights only).
    """

    def __init__(self, mean: Tensor, loadings: Tensor) -> None:
        """Take the mean weights float32 [A, h] and the loading weights float32 [A, h, M]."""
        super().__init__()
        self.weight = nn.Parameter(torch.cat([mean.unsqueeze(1), loadings.transpose(1, 2)], dim=1).contiguous())

    def forward(self, features: Tensor) -> Tensor:
        """Return the coefficients."""
        num_actions, num_coefficients, _ = self.weight.shape
        flat = nn.functional.linear(features, self.weight.flatten(0, 1))
        return flat.reshape(-1, num_actions, num_coefficients)


class Part(nn.Module):
    """A torso and a head of its own, scaled: one of the two summands of a hypermodel."""

    def __init__(self, torso: nn.Module, head: Head, scale: float) -> None:
        super().__init__()
        self.torso = torso
        self.head = head
        self._scale = scale

    def forward(self, observations: Tensor) -> Tensor:
        """Return this part's coefficients: float32 [B, A, M + 1]."""
        coefficients: Tensor = self.head(self.torso(observations))
        return self._scale * coefficients


class Hypermodel(nn.Module):
    """Turns an observation into the coefficients of a distribution over action-value functions.

    With the index held fixed this is an ordinary Q-network; drawing the index from the reference distribution and
    acting greedily is Thompson sampling.

        q(o, a, z) = m_a(o) + v_a(o) . z
        (m, v)(o)  = posterior_scale * learnable(o) + prior_scale * prior(o)

    Letters: z the index, B observations, A num_actions, M index_dim; m_a = coefficients[a, 0] the mean of action a over
    indices of mean zero, v_a = coefficients[a, 1:] its loadings.

    Shapes:
        observations: the spec's dtype [B, *observation_shape]
        returns:      float32 [B, A, M + 1], in units of discounted reward

    Invariants: the prior has its own features, is never trained and gets no gradient; the coefficients of an
    observation do not depend on the others of its batch.
    Source: arXiv:2402.10228 section 2 (equation 1) and github:szrlee/HyperAgent network/hyperagent.py.
    """

    def __init__(self, spec: ModelSpec, config: NetworkConfig, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.num_actions = spec.action.discrete.num_actions
        self.index_dim = spec.index_dim
        self.learnable = _make_learnable(spec, config, generator)
        self.prior = _make_prior(spec, config, generator)
        self.prior.requires_grad_(False)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the coefficients of each action."""
        learnable: Tensor = self.learnable(observations)
        prior: Tensor = self.prior(observations)
        return learnable + prior


def _make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    # The released code keeps the loadings as one matrix of (h * A) x M, whence the fan.
    deviation = math.sqrt(2.0 / (width * num_actions + spec.index_dim))
    loadings = deviation * torch.randn(num_actions, width, spec.index_dim, generator=generator)
    mean = _mean_weights(config.mean_init, num_actions, width, 1.0, generator)
    return Part(torso, Head(mean, loadings), config.posterior_scale)


def _make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    rows = torch.randn(num_actions, width, spec.index_dim, generator=generator)
    loadings = config.prior_row_norm * nn.functional.normalize(rows, dim=2)
    mean = _mean_weights(config.mean_init, num_actions, width, config.prior_row_norm, generator)
    return Part(torso, Head(mean, loadings), config.prior_scale)


def _mean_weights(
    init: Literal["sphere", "xavier"], num_actions: int, width: int, norm: float, generator: torch.Generator
) -> Tensor:
    """Return mean weights float32 [A, h]: one vector of the given norm over all of them, or Xavier normal."""
    normals = torch.randn(num_actions, width, generator=generator)
    if init == "sphere":
        return normals * (norm / float(normals.norm()))
    return normals * math.sqrt(2.0 / (num_actions + width))
