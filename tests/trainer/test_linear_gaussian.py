"""On fixed features the loadings are Bayesian linear regression: what the perturbations are for.

    A = G^-1 (sigma sum phi_i xi_i' + beta A_0),        G = sum phi_i phi_i' + beta I,        beta = sigma^2 / sigma_0^2
    E A A' = sigma^2 G^-1                               the posterior covariance of the weights

Letters: phi_i in R^h the features of transition i, xi_i its perturbation on the unit sphere in R^M, A in R^{h x M} the
loading weights, A_0 the prior's, whose rows have norm sigma_0.
"""

import numpy as np
import torch

from hyperact.trainer.losses import expected_td_loss
from hyperact.trainer.reference_distributions import moments
from hyperact.v1.indices import GAUSSIAN

num_transitions, width, index_dim = 30, 4, 8
sigma, sigma_0 = 0.7, 1.3
beta = sigma**2 / sigma_0**2
features = np.random.default_rng(0).normal(size=(num_transitions, width))
gram = features.T @ features + beta * np.eye(width)


def draw_sphere(rng: np.random.Generator, *shape: int) -> np.ndarray:
    normals = rng.normal(size=shape)
    return np.asarray(normals / np.linalg.norm(normals, axis=-1, keepdims=True))


def closed_form(perturbations: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return A for perturbations [..., n, M] and priors [..., h, M]."""
    return np.asarray(np.linalg.solve(gram, sigma * features.T @ perturbations + beta * prior))


def test_it_is_where_the_loss_is_least() -> None:
    """The gradient of the closed-form loss with the penalty beta |A - A_0|^2 is zero there and nowhere near."""
    rng = np.random.default_rng(1)
    perturbations, prior = draw_sphere(rng, num_transitions, index_dim), sigma_0 * draw_sphere(rng, width, index_dim)

    def gradient(weights: np.ndarray) -> float:
        loadings = torch.from_numpy(weights).requires_grad_()
        nothing = torch.zeros(num_transitions, dtype=torch.float64)
        losses = expected_td_loss(
            nothing,
            torch.from_numpy(features) @ loadings,
            nothing,
            torch.from_numpy(perturbations),
            sigma,
            moments(index_dim, GAUSSIAN),
        )
        total = losses.sum() + beta * ((loadings - torch.from_numpy(prior)) ** 2).sum()
        (slope,) = torch.autograd.grad(total, loadings)
        return float(slope.abs().max())

    found = closed_form(perturbations, prior)

    assert gradient(found) < 1e-10
    assert gradient(found + 1e-3) > 1e-3


def test_its_spread_over_perturbations_is_the_posteriors() -> None:
    """E A A' is sigma^2 G^-1, so that the variance of a value is that of Bayesian linear regression."""
    num_draws = 20_000
    rng = np.random.default_rng(2)
    perturbations = draw_sphere(rng, num_draws, num_transitions, index_dim)
    priors = sigma_0 * draw_sphere(rng, num_draws, width, index_dim)
    weights = closed_form(perturbations, priors)

    found = np.einsum("nim,njm->ij", weights, weights) / num_draws

    expected = sigma**2 * np.linalg.inv(gram)
    # An entry deviates over draws by sqrt((E_ii E_jj + E_ij^2) / M) for normal weights, here by less; five of those.
    diagonal = np.diag(expected)
    errors = np.sqrt((np.outer(diagonal, diagonal) + expected**2) / index_dim / num_draws)
    assert (np.abs(found - expected) < 5 * errors).all()
