"""The losses of HyperAgent, pure. Time stands in the names: an action at t-1 leads to a reward and observation at t.

Letters: B transitions, A num_actions, M index_dim, K indices per transition; z an index, xi the stored perturbation,
sigma its scale, m and v the mean and loadings of the action taken, y the target.
"""

import torch
from torch import Tensor

from hyperact.trainer.reference_distributions import Moments


def action_values(coefficients: Tensor, index: Tensor) -> Tensor:
    """Return q = m + v . z of each action: [B, A] from coefficients [B, A, M + 1] and indices [B, M]."""
    return coefficients[..., 0] + (coefficients[..., 1:] @ index.unsqueeze(-1)).squeeze(-1)


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
    mean_tm1: Tensor,
    loadings_tm1: Tensor,
    target_t: Tensor,
    perturbation_tm1: Tensor,
    perturbation_scale: float,
    indices_tm1: Tensor,
) -> Tensor:
    """Return the squared TD error of each transition, averaged over its own K drawn indices: [B].

    Shapes: as in `expected_td_loss`; indices_tm1 [B, K, M]. Source: arXiv:2402.10228 equation 4.
    """
    residual = (loadings_tm1 - perturbation_scale * perturbation_tm1).unsqueeze(-1)
    errors = (mean_tm1 - target_t).unsqueeze(-1) + (indices_tm1 @ residual).squeeze(-1)
    return (errors**2).mean(-1)


def double_q_target(
    reward_t: Tensor,
    discount_t: Tensor,
    online_coefficients_t: Tensor,
    target_coefficients_t: Tensor,
    index_t: Tensor,
    is_allowed_t: Tensor,
    tie_break_t: Tensor,
) -> Tensor:
    """Return y = r + discount * q_target(o', argmax over allowed a of q_online(o', a, z'), z'): [B].

    One index z' per transition, independent of everything else, serves both networks. Actions of exactly equal value
    are chosen among by the larger tie_break.

    Shapes: reward_t, discount_t [B]; coefficients [B, A, M + 1]; index_t [B, M]; is_allowed_t bool and tie_break_t in
    (0, 1) [B, A]. Source: arXiv:2402.10228 and released code, `_target_q` with is_double.
    """
    online = action_values(online_coefficients_t, index_t).masked_fill(~is_allowed_t, -torch.inf)
    is_best = online == online.amax(-1, keepdim=True)
    action_t = torch.where(is_best, tie_break_t, -1.0).argmax(-1, keepdim=True)
    value_t = action_values(target_coefficients_t, index_t).gather(-1, action_t).squeeze(-1)
    return reward_t + discount_t * value_t
