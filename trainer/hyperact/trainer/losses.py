"""The losses and targets of all variants, pure. Time stands in the names: an action at t-1 leads to a reward and
observation at t.

Letters: B transitions, A num_actions, M index_dim, K indices of the loss per transition, J indices of the target per
transition (J is K where the target is under the loss's own indices, else 1); z an index, xi the stored perturbation,
sigma its scale, m and v the mean and loadings of the action taken, y the target.
"""

import torch
from torch import Tensor

from hyperact.trainer.reference_distributions import Moments


def expected_td_loss(
    mean_tm1: Tensor,
    loadings_tm1: Tensor,
    target_t: Tensor,
    perturbation_tm1: Tensor,
    perturbation_scale: float,
    moments: Moments,
) -> Tensor:
    """Return the squared TD error of each transition, averaged over all indices exactly: [B].

    The sampled loss is (m + v.z - y - sigma xi.z)^2. With the target y independent of z and w = v - sigma xi it is
    (m - y)^2 + 2 (m - y) w.z + (w.z)^2, whose mean over indices with E[z] = mean * 1 and E[z z'] = second * I is

        (m - y)^2 + 2 (m - y) * mean * sum(w) + second * |w|^2

    For the Gaussian this is (m - y)^2 + |v - sigma xi|^2: the mean learns as in Double DQN, the loadings regress on
    the perturbations. Source: ALGORITHM 2.4, equation 4*.

    Shapes: mean_tm1, target_t [B]; loadings_tm1, perturbation_tm1 [B, M].
    """
    error = mean_tm1 - target_t
    residual = loadings_tm1 - perturbation_scale * perturbation_tm1
    return error**2 + 2 * moments.mean * error * residual.sum(-1) + moments.second * (residual**2).sum(-1)


def sampled_td_loss(
    values_tm1: Tensor,
    targets_t: Tensor,
    perturbation_tm1: Tensor,
    perturbation_scale: float,
    indices_tm1: Tensor,
    weights_tm1: Tensor | None = None,
) -> Tensor:
    """Return the squared TD error of each transition, averaged over its own K indices: [B].

        (1 / K) sum_k w_k (q_k - y_k - sigma xi . z_k)^2

    Letters: q_k the value of the action taken under index z_k, y_k its target; w_k 1, or 0 where a mask hides the
    transition from a member of an ensemble.

    Shapes: values_tm1 [B, K]; targets_t [B, J]; perturbation_tm1 [B, M]; indices_tm1 [B, K, M]; weights_tm1 [B, K].
    Source: arXiv:2402.10228 equations 2 and 4 (HyperAgent), 13 (HyperDQN), 14 (epinet), 12 (ensembles).
    """
    shift = perturbation_scale * (indices_tm1 @ perturbation_tm1.unsqueeze(-1)).squeeze(-1)
    squares = (values_tm1 - targets_t - shift) ** 2
    return (squares if weights_tm1 is None else weights_tm1 * squares).mean(-1)


def bootstrapped_target(
    reward_t: Tensor,
    discount_t: Tensor,
    chooser_t: Tensor,
    valuer_t: Tensor,
    is_allowed_t: Tensor,
    tie_break_t: Tensor,
) -> Tensor:
    """Return y = r + discount * valuer(o', argmax over allowed a of chooser(o', a)) under each index: [B, J].

    Double DQN: the online network chooses and the target network values. With the target network in both places it is
    the plain maximum. Actions of exactly equal value are chosen among by the larger tie_break.

    Shapes: reward_t, discount_t [B]; chooser_t, valuer_t [B, J, A]; is_allowed_t bool [B, A]; tie_break_t in (0, 1)
    [B, A]. Source: arXiv:2402.10228 and released code, `_target_q`.
    """
    allowed = chooser_t.masked_fill(~is_allowed_t.unsqueeze(1), -torch.inf)
    is_best = allowed == allowed.amax(-1, keepdim=True)
    action_t = torch.where(is_best, tie_break_t.unsqueeze(1), -1.0).argmax(-1, keepdim=True)
    value_t = valuer_t.gather(-1, action_t).squeeze(-1)
    return reward_t.unsqueeze(-1) + discount_t.unsqueeze(-1) * value_t


def optimistic_values(values: Tensor, quantile: float) -> Tensor:
    """Return the quantile over indices of each action's value: [B, 1, A] from [B, J, A].

    1 is the maximum (arXiv:2402.10228 equations 8 and 9); between two order statistics it is interpolated, as in the
    released code, which takes 0.8 of 5.
    """
    last = values.shape[1] - 1
    if quantile >= 1.0 or not last:
        return values.amax(1, keepdim=True)
    ordered = values.sort(dim=1).values
    below = min(int(quantile * last), last - 1)
    share = quantile * last - below
    return torch.lerp(ordered[:, below : below + 1], ordered[:, below + 1 : below + 2], share)


def upper_values(coefficients: Tensor, deviations: float, moments: Moments) -> Tensor:
    """Return each action's mean over all indices plus some standard deviations: [B, 1, A] from [B, A, M + 1].

    A value m + v.z has over indices with E[z] = mean * 1 and E[z z'] = second * I

        the mean m + mean * sum(v) and the variance second * |v|^2 - (mean * sum(v))^2

    so that under Gaussian indices m + c |v| is exactly their quantile Phi(c): what optimistic index sampling estimates
    by drawing, without its noise. Source: ours; ALGORITHM 2.7 has the limit of many draws.
    """
    shift = moments.mean * coefficients[..., 1:].sum(-1)
    variance = moments.second * (coefficients[..., 1:] ** 2).sum(-1) - shift**2
    upper: Tensor = coefficients[..., 0] + shift + deviations * variance.clamp(min=0.0).sqrt()
    return upper.unsqueeze(1)
