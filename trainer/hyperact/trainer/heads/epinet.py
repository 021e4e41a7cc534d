"""ENN-DQN: a base network and an epinet beside it, which is not affine in the index.

    f(o, z) = <b_a, phi(o)> + beta_a + g(sg[x], sg[phi(o)], z)_a . z          the learnable summand
    g       = MLP (x, phi, z) -> hidden -> A x M, ReLU between
    p(o, z) = s sum_k z_k P_k(x)          the prior: M small MLPs x -> 5 -> A, affine in z

Letters: x the observation as numbers, phi the features, z the index, sg stops the gradient, A num_actions, M index_dim,
B observations, K indices per observation, H hidden width. The prior has no base of its own.

Shapes:
    observations: the spec's dtype [B, *observation_shape]
    encode:       float32 [B, A + H]: the base's values, and the part of g's first layer that x and phi make
    values:       float32 [B, K, A]

Initial weights: Xavier normal, biases zero. On frames g sees the features and not the 28 224 pixels.
Source: arXiv:2107.08924; github:google-deepmind/enn; github:szrlee/HyperAgent network/enndqn.py; arXiv:2402.10228
equation 14.
"""

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.summand import AffineSummand, Summand
from hyperact.trainer.networks import MlpTorso, ScaledFlatten, make_torso, xavier_linear
from hyperact.v1.model_pb2 import ModelSpec

prior_hidden_size = 5


class Epinet(Summand):
    """The learnable summand."""

    def __init__(self, spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        self._num_actions = spec.action.discrete.num_actions
        self.numbers = ScaledFlatten(spec.observation)
        self._scale = config.posterior_scale
        self.torso = make_torso(spec, config, generator)
        width, hidden = self.torso.feature_dim, config.epinet_hidden_size
        self._sees_observation = isinstance(self.torso, MlpTorso)
        num_inputs = width + (self.numbers.num_features if self._sees_observation else 0)
        self.base = xavier_linear(width, self._num_actions, generator)
        self.inputs = xavier_linear(num_inputs, hidden, generator)
        self.index = xavier_linear(spec.index_dim, hidden, generator, has_bias=False)
        self.outputs = xavier_linear(hidden, self._num_actions * spec.index_dim, generator)

    def encode(self, observations: Tensor) -> Tensor:
        """Return the base's values and the epinet's first layer without the index."""
        features = self.torso(observations)
        seen = features.detach()
        if self._sees_observation:
            seen = torch.cat([self.numbers(observations), seen], dim=-1)
        return torch.cat([self.base(features), self.inputs(seen)], dim=-1)

    def values(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """Return the value of each action under each index."""
        base, inputs = encoded[:, : self._num_actions], encoded[:, self._num_actions :]
        hidden = torch.relu(inputs.unsqueeze(1) + self.index(indices))
        loadings = self.outputs(hidden).reshape(*indices.shape[:2], self._num_actions, indices.shape[-1])
        values: Tensor = base.unsqueeze(1) + (loadings @ indices.unsqueeze(-1)).squeeze(-1)
        return self._scale * values


class EpinetPrior(AffineSummand):
    """The frozen summand."""

    def __init__(self, spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.numbers = ScaledFlatten(spec.observation)
        self._scale = config.prior_scale
        self._shape = (spec.index_dim, prior_hidden_size)
        num_inputs, num_actions = self.numbers.num_features, spec.action.discrete.num_actions
        # Each of the M networks has fans of its own, so they are made apart and laid side by side.
        first = [xavier_linear(num_inputs, prior_hidden_size, generator) for _ in range(spec.index_dim)]
        last = [xavier_linear(prior_hidden_size, num_actions, generator) for _ in range(spec.index_dim)]
        self.first = nn.Parameter(torch.cat([layer.weight.detach() for layer in first]))
        self.last = nn.Parameter(torch.stack([layer.weight.detach() for layer in last]))

    def encode(self, observations: Tensor) -> Tensor:
        """Return the coefficients float32 [B, A, M + 1]; the mean is zero."""
        numbers = self.numbers(observations)
        hidden = torch.relu(nn.functional.linear(numbers, self.first)).reshape(-1, *self._shape)
        answers = torch.einsum("bkh,kah->bak", hidden, self.last)
        return self._scale * nn.functional.pad(answers, (1, 0))


def make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> Epinet:
    """Return the learnable summand."""
    if not spec.index_dim:
        raise ValueError("network.head: an epinet needs an index_dim of at least 1")
    return Epinet(spec, config, generator)


def make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> EpinetPrior:
    """Return the prior."""
    return EpinetPrior(spec, config, generator)
