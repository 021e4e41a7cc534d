"""HyperModel: every layer's weights are generated from the index, in the learnable summand and in the prior.

    W_l(z) = B_l + sum_i z_i A_{l,i}          f(o, z) = s W_L(z) relu(... relu(W_1(z) x))

Letters: x the observation as numbers [D], z the index, l layers of widths D, h_1, ..., A, M index_dim, B observations,
K indices per observation. No layer has a bias. Learnable parameters: M + 1 times the base network's.

Shapes:
    observations: the spec's dtype [B, *observation_shape]
    weights[l]:   float32 [M + 1, out, in], the means B_l first
    encode:       float32 [B, M + 1, h_1]: what each component of the first layer makes of x
    values:       float32 [B, K, A]

Initial weights: means and loadings normal, so that a layer generated from a standard normal index has Xavier's
variance, half of it from the mean (no source gives them).
Source: arXiv:2006.07464; github:szrlee/HyperAgent network/hypermodel.py.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.summand import Summand
from hyperact.trainer.networks import ScaledFlatten
from hyperact.v1.model_pb2 import ModelSpec


class GeneratedMlp(Summand):
    """An MLP all of whose weights are affine in the index."""

    def __init__(self, spec: ModelSpec, config: NetworkConfig, generator: torch.Generator, scale: float) -> None:
        super().__init__()
        self.numbers = ScaledFlatten(spec.observation)
        self._scale = scale
        sizes = (self.numbers.num_features, *config.hidden_sizes, spec.action.discrete.num_actions)
        self.weights = nn.ParameterList(
            _initial_weight(spec.index_dim, *pair, generator=generator) for pair in pairwise(sizes)
        )

    def encode(self, observations: Tensor) -> Tensor:
        """Return what the first layer's components make of the observations."""
        first = self.weights[0]
        flat = nn.functional.linear(self.numbers(observations), first.flatten(0, 1))
        return flat.reshape(-1, *first.shape[:2])

    def values(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """Return the value of each action under each index."""
        shares = nn.functional.pad(indices, (1, 0), value=1.0)
        outputs = shares @ encoded
        for weight in list(self.weights)[1:]:
            flat = nn.functional.linear(torch.relu(outputs), weight.flatten(0, 1))
            components = flat.reshape(*outputs.shape[:2], *weight.shape[:2])
            outputs = (shares.unsqueeze(-2) @ components).squeeze(-2)
        return self._scale * outputs


def make_learnable(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> GeneratedMlp:
    """Return the learnable summand."""
    if config.torso != "mlp":
        raise ValueError(f"network.torso: only an MLP can be generated whole, got {config.torso!r}")
    return GeneratedMlp(spec, config, generator, config.posterior_scale)


def make_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> GeneratedMlp:
    """Return the prior."""
    return GeneratedMlp(spec, config, generator, config.prior_scale)


def _initial_weight(index_dim: int, num_inputs: int, num_outputs: int, *, generator: torch.Generator) -> nn.Parameter:
    deviations = torch.full((index_dim + 1, 1, 1), math.sqrt(1.0 / max(index_dim, 1)))
    deviations[0] = 1.0
    normals = torch.randn(index_dim + 1, num_outputs, num_inputs, generator=generator)
    return nn.Parameter(normals * deviations * math.sqrt(1.0 / (num_inputs + num_outputs)))
