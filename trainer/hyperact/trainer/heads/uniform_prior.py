"""A prior that is equally unsure of everything.

    p(o, a, z) = s <u_a(o), z>,      u_a(o) = A_a' phi(o) / |A_a' phi(o)|

Letters: as in `last_layer.Head`; s = prior_scale. Under a Gaussian index each value of the prior has the standard
deviation s, whatever the observation, the action and their number. HyperAgent's published prior has s |A_a' phi(o)|,
which differs from one observation to the next by a third at M = 4, and over one-hot observations of N x N falls as 1/N
(ALGORITHM 1.2). An optimistic agent then goes for the largest of many uneven bonuses instead of the nearest of many
equal ones: with exact planning on DeepSea-40 the treasure is found after 8 N episodes instead of 2 N.
"""

import torch
from torch import Tensor, nn

from hyperact.trainer.config import NetworkConfig
from hyperact.trainer.heads.last_layer import Head, Part, unit_rows
from hyperact.trainer.heads.summand import AffineSummand
from hyperact.trainer.networks import make_torso
from hyperact.v1.model_pb2 import ModelSpec


class UniformPrior(AffineSummand):
    """Loadings of one norm, without a mean.

    Shapes:
        observations: the spec's dtype [B, *observation_shape]
        encode:       float32 [B, A, M + 1]

    Invariants: coefficient 0 is zero; the norm of the others is the scale, or zero where the features are all zero.
    """

    def __init__(self, part: Part, scale: float) -> None:
        super().__init__()
        self.part = part
        self.scale = scale

    def encode(self, observations: Tensor) -> Tensor:
        """Return the coefficients."""
        loadings: Tensor = nn.functional.normalize(self.part.encode(observations)[..., 1:], dim=-1)
        return nn.functional.pad(self.scale * loadings, (1, 0))


def make_uniform_prior(spec: ModelSpec, config: NetworkConfig, generator: torch.Generator) -> UniformPrior:
    """Return a prior whose directions are those of HyperAgent's."""
    torso = make_torso(spec, config, generator)
    num_actions, width = spec.action.discrete.num_actions, torso.feature_dim
    loadings = unit_rows(num_actions, width, spec.index_dim, 1.0, generator)
    return UniformPrior(Part(torso, Head(torch.zeros(num_actions, width), loadings), 1.0), config.prior_scale)
