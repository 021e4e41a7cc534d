"""Double DQN: an ordinary Q-network, which is a hypermodel without an index.

    q(o, a) = s (<b_a, phi(o)> + beta_a)

Letters: `last_layer.Head` with M = 0. Initial weights: Xavier normal, biases zero.
Source: arXiv:1509.06461.
"""

import torch

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.last_layer import Head, Part, mean_weights
from hyperact.trainer.networks import make_torso
from hyperact.v1.model_pb2 import ModelSpec


def make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    """Return the learnable summand."""
    return _make(spec, config, generator, config.posterior_scale)


def make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Part:
    """Return a randomized prior function, one for all: it starts values apart from each other and explores nothing."""
    return _make(spec, config, generator, config.prior_scale)


def _make(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator, scale: float) -> Part:
    if spec.index_dim:
        raise ValueError(f"network.head: a linear head has no index, got index_dim {spec.index_dim}")
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    weights = mean_weights("xavier", num_actions, width, 1.0, generator)
    return Part(torso, Head(weights, torch.zeros(num_actions, width, 0), torch.zeros(num_actions, 1)), scale)
