"""The loss of a variant: which indices, which targets, which average. Pure but for what it draws from a given stream.

Letters: B transitions, A num_actions, M index_dim, K indices of the loss and J of the target per transition.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.losses import (
    bootstrapped_target,
    expected_td_loss,
    optimistic_values,
    sampled_td_loss,
    upper_values,
)
from hyperact.trainer.reference_distributions import draw_indices, is_discrete, moments
from hyperact.v1.indices import ONE_HOT, Float32s, index_bank
from hyperact.v1.model_pb2 import GraphKind, ModelSpec

# What a network makes of the observations at hand: indices [B, K, M] to values [B, K, A], None to coefficients.
Answer = Callable[[Tensor | None], Tensor]


class Transitions(NamedTuple):
    """A batch as tensors: the fields of `replay.Batch`."""

    observations_tm1: Tensor
    actions_tm1: Tensor
    prior_tm1: Tensor
    perturbations_tm1: Tensor
    masks_tm1: Tensor
    rewards_t: Tensor
    discounts_t: Tensor
    observations_t: Tensor
    prior_t: Tensor
    is_allowed_t: Tensor


class DrawnArrays(NamedTuple):
    """The random numbers of some updates [U]."""

    rows: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]"
    indices_tm1: Float32s
    indices_t: Float32s
    tie_breaks_t: Float32s


class Draws(NamedTuple):
    """The random numbers of one update.

    indices_tm1 float32 [B, K, M] of the loss (K is 0 for the closed form); indices_t [B, J, M] of the targets (J is 0
    if they are the loss's); tie_breaks_t in (0, 1) [B, A].
    """

    indices_tm1: Tensor
    indices_t: Tensor
    tie_breaks_t: Tensor


class Estimate(NamedTuple):
    """The losses [B], and of the actions taken the mean over batch and indices and how far indices spread them."""

    losses: Tensor
    mean_value: Tensor
    loading_norm: Tensor


class TdLoss:
    """How one learner measures its error."""

    def __init__(self, spec: ModelSpec, config: LearnerConfig, hypermodel: Hypermodel) -> None:
        """ValueError if the settings or the spec's index do not go together."""
        _check(spec, config, hypermodel)
        self._spec = spec
        self._config = config
        self._num_actions = spec.action.discrete.num_actions
        self._learnable = hypermodel.learnable
        self._prior = hypermodel.prior
        self._moments = moments(spec.index_dim, spec.reference_distribution)
        self._optimism = config.optimism if config.optimism.is_in_targets else None

    def draw(self, rng: np.random.Generator, num_updates: int) -> DrawnArrays:
        """Draw what some updates need."""
        batch_size = self._config.batch_size
        rows = rng.random((num_updates, batch_size))
        tm1 = self._draw_loss_indices(rng, num_updates)
        t = self._draw_target_indices(rng, num_updates)
        return DrawnArrays(rows, tm1, t, rng.random((num_updates, batch_size, self._num_actions), dtype=np.float32))

    def targets(self, online_t: Answer, target_t: Answer, transitions: Transitions, draws: Draws) -> Tensor:
        """Return the targets [B, J], from what both networks make of the next observations."""
        valuer = self._values_t(target_t, transitions, draws)
        chooser = self._values_t(online_t, transitions, draws) if self._config.is_double else valuer
        return bootstrapped_target(
            transitions.rewards_t,
            transitions.discounts_t,
            chooser,
            valuer if self._config.value_bound is None else valuer.clamp(max=self._config.value_bound),
            transitions.is_allowed_t,
            draws.tie_breaks_t,
        )

    def estimate(self, online_tm1: Answer, targets: Tensor, transitions: Transitions, draws: Draws) -> Estimate:
        """Return the losses, from what the online network makes of the first observations."""
        if self._config.loss == "expected":
            return self._expected(online_tm1, targets, transitions)
        indices = draws.indices_tm1
        values = online_tm1(indices) + self._prior.values(transitions.prior_tm1, indices)
        taken = transitions.actions_tm1.reshape(-1, 1, 1).expand(-1, indices.shape[1], 1)
        values_tm1 = values.gather(-1, taken).squeeze(-1)
        masks = transitions.masks_tm1 if self._config.mask_probability < 1 else None
        losses = sampled_td_loss(
            values_tm1, targets, transitions.perturbations_tm1, self._config.perturbation_scale, indices, masks
        )
        return Estimate(losses, values_tm1.mean(), values_tm1.std(-1, correction=0).mean())

    def penalty(self, num_transitions: Tensor) -> Tensor | float:
        """Return beta / |D| times the mean square of generated weights (ALGORITHM 2.3)."""
        if not self._config.regularisation:
            return 0.0
        return self._config.regularisation / num_transitions * self._learnable.generated_square(self._moments)

    def _expected(self, online_tm1: Answer, targets: Tensor, transitions: Transitions) -> Estimate:
        coefficients = online_tm1(None) + transitions.prior_tm1
        rows = torch.arange(len(coefficients), device=coefficients.device)
        taken = coefficients[rows, transitions.actions_tm1]
        mean, loadings = taken[:, 0], taken[:, 1:]
        losses = expected_td_loss(
            mean,
            loadings,
            targets.squeeze(-1),
            transitions.perturbations_tm1,
            self._config.perturbation_scale,
            self._moments,
        )
        return Estimate(losses, mean.mean(), loadings.norm(dim=1).mean())

    def _draw_loss_indices(self, rng: np.random.Generator, num_updates: int) -> Float32s:
        """Return the loss's indices: float32 [U, B, K, M]."""
        if self._config.loss == "expected":
            return self._draw(rng, num_updates, 0)
        if self._config.loss == "enumerated":
            return self._bank(num_updates)
        if self._config.shares_indices:
            shared = self._draw(rng, num_updates, self._config.num_indices, num_sets=1)
            return np.repeat(shared, self._config.batch_size, axis=1)
        return self._draw(rng, num_updates, self._config.num_indices)

    def _draw_target_indices(self, rng: np.random.Generator, num_updates: int) -> Float32s:
        """Return the targets' own indices, float32 [U, B, J, M]; none if they are under the loss's."""
        if self._optimism and self._optimism.num_indices == 0:
            return self._bank(num_updates)
        if self._optimism and self._optimism.target_deviations is not None:
            return self._draw(rng, num_updates, 0)
        num_indices = self._optimism.num_indices if self._optimism else 1
        is_dependent = self._config.target_index == "dependent" and num_indices == 1
        return self._draw(rng, num_updates, 0 if is_dependent else num_indices)

    def _draw(
        self, rng: np.random.Generator, num_updates: int, num_indices: int, num_sets: int | None = None
    ) -> Float32s:
        index_dim, distribution = self._spec.index_dim, self._spec.reference_distribution
        shape = (num_updates, num_sets or self._config.batch_size, num_indices)
        return draw_indices(rng, int(np.prod(shape)), index_dim, distribution).reshape(*shape, index_dim)

    def _bank(self, num_updates: int) -> Float32s:
        bank = index_bank(self._spec.index_dim, self._spec.reference_distribution)
        return np.tile(bank, (num_updates, self._config.batch_size, 1, 1))

    def _values_t(self, answer_t: Answer, transitions: Transitions, draws: Draws) -> Tensor:
        """Return a network's values of the next observations: [B, J, A], or with optimism [B, 1, A]."""
        if self._optimism and self._optimism.target_deviations is not None:
            coefficients = answer_t(None) + transitions.prior_t
            return upper_values(coefficients, self._optimism.target_deviations, self._moments)
        indices = draws.indices_t if draws.indices_t.shape[1] else draws.indices_tm1
        values = answer_t(indices) + self._prior.values(transitions.prior_t, indices)
        if self._optimism and self._optimism.num_indices != 1:
            return optimistic_values(values, self._optimism.quantile)
        return values


def _check(spec: ModelSpec, config: LearnerConfig, hypermodel: Hypermodel) -> None:
    is_finite = is_discrete(spec.reference_distribution) and spec.index_dim > 0
    if config.loss == "expected" and hypermodel.graph_kind != GraphKind.GRAPH_KIND_COEFFICIENTS:
        raise ValueError(f"loss: the closed form needs a head that is affine in the index, not {config.network.head!r}")
    if config.optimism.target_deviations is not None and hypermodel.graph_kind != GraphKind.GRAPH_KIND_COEFFICIENTS:
        raise ValueError("optimism.target_deviations: the closed form needs a head that is affine in the index")
    if config.loss == "expected" and config.target_index == "dependent":
        raise ValueError("loss: the closed form needs targets under an index of their own")
    if config.loss == "enumerated" and not is_finite:
        raise ValueError("loss: only one-hot and coordinate indices can be enumerated")
    if config.optimism.num_indices == 0 and not is_finite:
        raise ValueError("optimism.num_indices: only one-hot and coordinate indices can all be taken")
    is_ensemble = config.loss == "enumerated" and spec.reference_distribution == ONE_HOT
    if config.mask_probability < 1 and not is_ensemble:
        raise ValueError("mask_probability: masks need one-hot indices and the enumerated loss")
    if config.regularisation:
        hypermodel.learnable.generated_square(moments(spec.index_dim, spec.reference_distribution))
