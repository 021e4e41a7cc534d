"""A hypermodel: a learnable summand and a frozen prior, both functions of an observation and an index."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperact.trainer.config import HeadName, NetworkConfig
from hyperact.trainer.heads import ensemble, epinet, generated_mlp, hyperagent, hyperdqn, linear
from hyperact.trainer.heads.summand import NoPrior, Summand
from hyperact.v1.model_pb2 import GraphKind, ModelSpec

Maker = Callable[[ModelSpec, NetworkConfig, torch.Generator], Summand]


class HeadKind(NamedTuple):
    """How the two summands of one head are made."""

    make_learnable: Maker
    make_prior: Maker


head_kinds: dict[HeadName, HeadKind] = {
    "hyperagent": HeadKind(hyperagent.make_learnable, hyperagent.make_prior),
    "hyperdqn": HeadKind(hyperdqn.make_learnable, hyperdqn.make_prior),
    "linear": HeadKind(linear.make_learnable, linear.make_prior),
    "ensemble": HeadKind(ensemble.make_learnable, ensemble.make_prior),
    "epinet": HeadKind(epinet.make_learnable, epinet.make_prior),
    "generated_mlp": HeadKind(generated_mlp.make_learnable, generated_mlp.make_prior),
}


class Hypermodel(nn.Module):
    """Turns an observation into a distribution over action-value functions.

    With the index held fixed this is an ordinary Q-network; drawing the index from the reference distribution and
    acting greedily is Thompson sampling.

        q(o, a, z) = learnable(o, a, z) + prior(o, a, z)          the scales are inside the summands

    Where both are affine in z this is q = m_a(o) + v_a(o) . z, and the model is asked for its coefficients (m, v);
    where one is not, it must be asked for values under given indices.

    Letters: z the index, B observations, K indices per observation, A num_actions, M index_dim; m_a =
    coefficients[a, 0] the mean of action a over indices of mean zero, v_a = coefficients[a, 1:] its loadings.

    Shapes:
        observations: the spec's dtype [B, *observation_shape]
        indices:      float32 [B, K, M]; none for coefficients
        returns:      float32 [B, A, M + 1] without indices (`graph_kind` COEFFICIENTS only), [B, K, A] with them;
                      in units of discounted reward

    Invariants: the prior is never trained and gets no gradient; the answer for an observation does not depend on the
    others of its batch, the values under an index not on the other indices.
    Source: arXiv:2402.10228 section 2 (equation 1); the heads name theirs.
    """

    def __init__(self, spec: ModelSpec, config: NetworkConfig, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        kind = head_kinds[config.head]
        self.num_actions = spec.action.discrete.num_actions
        self.index_dim = spec.index_dim
        self.learnable = kind.make_learnable(spec, config, generator)
        self.prior: Summand = NoPrior(self.num_actions, self.index_dim)
        if config.prior_scale:
            self.prior = kind.make_prior(spec, config, generator)
        self.prior.requires_grad_(False)

    @property
    def graph_kind(self) -> "GraphKind.ValueType":
        """What an exported graph takes and answers: coefficients if both summands are affine in the index."""
        return max(self.learnable.graph_kind, self.prior.graph_kind)

    def forward(self, observations: Tensor, indices: Tensor | None = None) -> Tensor:
        """Return the coefficients of each action, or its values under indices. ValueError if there are none of them."""
        if indices is None and self.graph_kind != GraphKind.GRAPH_KIND_COEFFICIENTS:
            raise ValueError("indices: required, for the head is not affine in the index")
        learnable: Tensor = self.learnable(observations, indices)
        prior: Tensor = self.prior(observations, indices)
        return learnable + prior
