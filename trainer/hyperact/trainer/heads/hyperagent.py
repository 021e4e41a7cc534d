"""HyperAgent: the hypermodel generates the weights of the last layer and nothing else.

    f(o, a, z) = s <A_a z + b_a, phi(o)>          learnable: s = posterior_scale; prior: s = prior_scale, phi its own

Letters and shapes: `last_layer.Head`, without biases.
Initial weights (released code): learnable loadings Xavier normal as one matrix of (h A) x M; the prior's rows of length
M on the sphere of norm `prior_row_norm`; the means one vector on a sphere, or Xavier normal, by `mean_init`. With
`head_deviation` (ours) all learnable weights of the last layer are normal with that deviation instead.
Source: arXiv:2402.10228 equations 1 and 10; github:szrlee/HyperAgent network/hyperagent.py.
"""

import math

import torch

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.last_layer import Head, Part, mean_weights, unit_rows
from hyperact.trainer.heads.summand import AffineSummand
from hyperact.trainer.heads.uniform_prior import make_uniform_prior
from hyperact.trainer.networks import draw_first_layer, make_torso
from hyperact.v1.model_pb2 import ModelSpec


def make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    """Return the learnable summand."""
    torso = make_torso(spec, config, generator)
    if config.first_layer_deviation is not None:
        draw_first_layer(torso, config.first_layer_deviation, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    if config.head_deviation is not None:
        weights = config.head_deviation * torch.randn(num_actions, width, spec.index_dim + 1, generator=generator)
        return Part(torso, Head(weights[..., 0], weights[..., 1:]), config.posterior_scale)
    # The released code keeps the loadings as one matrix of (h * A) x M, whence the fan.
    deviation = math.sqrt(2.0 / (width * num_actions + spec.index_dim))
    loadings = deviation * torch.randn(num_actions, width, spec.index_dim, generator=generator)
    mean = mean_weights(config.mean_init, num_actions, width, 1.0, generator)
    return Part(torso, Head(mean, loadings), config.posterior_scale)


def make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> AffineSummand:
    """Return the prior."""
    if config.prior_form == "uniform":
        return make_uniform_prior(spec, config, generator)
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    loadings = unit_rows(num_actions, width, spec.index_dim, config.prior_row_norm, generator)
    mean = mean_weights(config.mean_init, num_actions, width, config.prior_row_norm, generator)
    return Part(torso, Head(mean, loadings), config.prior_scale)
