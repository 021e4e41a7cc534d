"""Ensemble+: whole Q-networks with randomized prior functions. The index chooses one, so the ensemble is affine in it.

    f(o, a, z) = s sum_k z_k Q_k(o, a)          for z = e_k this is member k; there is no mean
    c(o)[a, 0] = 0          c(o)[a, 1 + k] = s Q_k(o, a)

Letters: M members (index_dim), B observations, A num_actions, h feature_dim.

Shapes:
    observations: the spec's dtype [B, *observation_shape]
    encode:       float32 [B, A, M + 1]

Initial weights: each member as a network of its own, Xavier normal, biases zero.
Source: arXiv:1806.03335 (randomized prior functions); bsuite/baselines boot_dqn; arXiv:2402.10228 appendix C.3.
"""

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.last_layer import mean_weights
from hyperact.trainer.heads.summand import AffineSummand
from hyperact.trainer.networks import make_torso
from hyperact.v1.model_pb2 import ModelSpec


class Member(nn.Module):
    """One Q-network: observations to float32 [B, A]."""

    def __init__(self, spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.torso = make_torso(spec, config, generator)
        num_actions = spec.action.discrete.num_actions
        self.weight = nn.Parameter(mean_weights("xavier", num_actions, self.torso.feature_dim, 1.0, generator))
        self.bias = nn.Parameter(torch.zeros(num_actions))

    def forward(self, observations: Tensor) -> Tensor:
        """Return the action values."""
        return nn.functional.linear(self.torso(observations), self.weight, self.bias)


class Ensemble(AffineSummand):
    """M networks side by side."""

    def __init__(self, members: list[Member], scale: float) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._scale = scale

    def encode(self, observations: Tensor) -> Tensor:
        """Return the coefficients."""
        answers = torch.stack([member(observations) for member in self.members], dim=-1)
        return self._scale * nn.functional.pad(answers, (1, 0))


def make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Ensemble:
    """Return the learnable summand."""
    return _make(spec, config, generator, config.posterior_scale)


def make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Ensemble:
    """Return the randomized prior functions."""
    return _make(spec, config, generator, config.prior_scale)


def _make(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator, scale: float) -> Ensemble:
    if not spec.index_dim:
        raise ValueError("network.head: an ensemble needs an index_dim of at least 1, its number of members")
    return Ensemble([Member(spec, config, generator) for _ in range(spec.index_dim)], scale)
