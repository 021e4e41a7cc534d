"""HyperDQN: the hypermodel generates the last layer's weights and its biases.

    f(o, a, z) = s (<A_a z + b_a, phi(o)> + alpha_a . z + beta_a)

Letters: as in `last_layer.Head`, whose bias is (beta_a, alpha_a). HyperAgent does without the last two terms, and
learns from targets under another index than the loss's; here both are under the same one (see `variants`).
Initial weights: learnable maps from the index truncated normal of deviation 1 / (2 sqrt(M)), their biases zero; the
prior as HyperAgent's, its biases' rows on the same sphere.
Source: arXiv:2402.10228 equations 11 and 13; github:liziniu/HyperDQN.
"""

import math

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.last_layer import Head, Part, mean_weights, unit_rows
from hyperact.trainer.networks import make_torso
from hyperact.v1.model_pb2 import ModelSpec


def make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    """Return the learnable summand."""
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    loadings = _truncated_normals((num_actions, width, spec.index_dim), generator)
    bias = torch.cat([torch.zeros(num_actions, 1), _truncated_normals((num_actions, spec.index_dim), generator)], dim=1)
    return Part(torso, Head(torch.zeros(num_actions, width), loadings, bias), config.posterior_scale)


def make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    """Return the prior."""
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    loadings = unit_rows(num_actions, width, spec.index_dim, config.prior_row_norm, generator)
    mean = mean_weights(config.mean_init, num_actions, width, config.prior_row_norm, generator)
    row = unit_rows(num_actions, 1, spec.index_dim, config.prior_row_norm, generator).squeeze(1)
    bias = torch.cat([torch.zeros(num_actions, 1), row], dim=1)
    return Part(torso, Head(mean, loadings, bias), config.prior_scale)


def _truncated_normals(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    deviation = 1.0 / (2.0 * math.sqrt(max(shape[-1], 1)))
    return nn.init.trunc_normal_(
        torch.empty(shape), std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator
    )
