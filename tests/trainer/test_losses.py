import numpy as np
import pytest
import torch

from hyperact.trainer.heads.summand import indexed_values
from hyperact.trainer.losses import (
    bootstrapped_target,
    expected_td_loss,
    optimistic_values,
    sampled_td_loss,
    upper_values,
)
from hyperact.trainer.reference_distributions import draw_indices, moments
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE
from hyperact.v1.model_pb2 import ReferenceDistribution

every_distribution = [GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE]


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


class TestExpectedTdLoss:
    @pytest.mark.parametrize("distribution", every_distribution)
    @pytest.mark.parametrize("index_dim", [2, 4])
    def test_its_gradient_is_that_of_the_sampled_loss(
        self, distribution: "ReferenceDistribution.ValueType", index_dim: int
    ) -> None:
        """With 200 000 indices the sampled gradient is the closed form's within one percent.

        A component's error is about its size times sqrt(2 / 200 000) = 0.3 %; the whole vector is measured.
        """
        num_indices = 200_000
        mean, loadings, target, perturbation = tensors(0, (1,), (1, index_dim), (1,), (1, index_dim))
        indices = draw_indices(np.random.default_rng(1), num_indices, index_dim, distribution)
        exact, drawn = ([part.clone().requires_grad_() for part in (mean, loadings)] for _ in range(2))

        closed_loss = expected_td_loss(exact[0], exact[1], target, perturbation, 0.5, moments(index_dim, distribution))
        coefficients = torch.cat([drawn[0][:, None], drawn[1]], dim=1)[:, None]
        drawn_indices = torch.from_numpy(indices)[None]
        values = indexed_values(coefficients, drawn_indices)[..., 0]
        sampled_loss = sampled_td_loss(values, target[:, None], perturbation, 0.5, drawn_indices)

        for closed, sampled in zip(
            torch.autograd.grad(closed_loss.sum(), exact), torch.autograd.grad(sampled_loss.sum(), drawn), strict=True
        ):
            assert (closed - sampled).norm() < 0.01 * closed.norm()

    def test_gaussian_loss_by_hand(self) -> None:
        """(m - y)^2 + |v - sigma xi|^2."""
        loss = expected_td_loss(
            torch.tensor([2.0]),
            torch.tensor([[1.0, 3.0]]),
            torch.tensor([5.0]),
            torch.tensor([[2.0, -2.0]]),
            0.5,
            moments(2, GAUSSIAN),
        )

        torch.testing.assert_close(torch.tensor([9.0 + 0.0 + 16.0]), loss)

    def test_without_an_index_it_is_the_squared_error(self) -> None:
        """M = 0 is plain Double DQN."""
        nothing = torch.zeros(1, 0)

        loss = expected_td_loss(torch.tensor([2.0]), nothing, torch.tensor([5.0]), nothing, 1.0, moments(0, GAUSSIAN))

        torch.testing.assert_close(torch.tensor([9.0]), loss)


class TestBootstrappedTarget:
    online = torch.tensor([[[1.0, 1.0], [0.0, 5.0]]])
    target = torch.tensor([[[10.0, 1.0], [20.0, 2.0]]])

    def call(  # noqa: D102 -- what every test here calls
        self,
        index: float,
        allowed: tuple[bool, bool] = (True, True),
        discount: float = 0.9,
        ties: tuple[float, float] = (0.3, 0.6),
    ) -> float:
        indices = torch.tensor([[[index]]])
        target = bootstrapped_target(
            torch.tensor([1.0]),
            torch.tensor([discount]),
            indexed_values(self.online, indices),
            indexed_values(self.target, indices),
            torch.tensor([allowed]),
            torch.tensor([ties]),
        )
        return float(target[0, 0])

    def test_the_online_network_chooses_and_the_target_network_values(self) -> None:
        """Under index 1 the online values are 2 and 5: action 1, which the target network values at 22."""
        assert pytest.approx(1.0 + 0.9 * 22.0) == self.call(1.0)

    def test_the_index_decides(self) -> None:
        """Under index -1 the online values are 0 and -5: action 0, which the target network values at 9."""
        assert pytest.approx(1.0 + 0.9 * 9.0) == self.call(-1.0)

    def test_forbidden_actions_are_not_bootstrapped_from(self) -> None:
        """The mask of the next step is respected in the maximum."""
        assert pytest.approx(1.0 + 0.9 * 11.0) == self.call(1.0, allowed=(True, False))

    def test_a_terminal_transition_does_not_bootstrap(self) -> None:
        """Discount 0 leaves the reward alone."""
        assert pytest.approx(1.0) == self.call(1.0, discount=0.0)

    @pytest.mark.parametrize(("ties", "expected"), [((0.9, 0.1), 10.25), ((0.1, 0.9), 20.5)])
    def test_ties_are_broken_by_chance(self, ties: tuple[float, float], expected: float) -> None:
        """Under index 1/4 both online values are 1.25: the larger tie-break wins."""
        assert pytest.approx(1.0 + 0.9 * expected) == self.call(0.25, ties=ties)


class TestUpperValues:
    def test_by_hand(self) -> None:
        """Mean 1 and loadings (3, 4): two deviations of 5 make 11; on the unit sphere a deviation is 5 / sqrt(2)."""
        coefficients = torch.tensor([[[1.0, 3.0, 4.0], [2.0, 0.0, 0.0]]])

        torch.testing.assert_close(torch.tensor([[[11.0, 2.0]]]), upper_values(coefficients, 2.0, moments(2, GAUSSIAN)))
        on_sphere = upper_values(coefficients, 2.0, moments(2, UNIT_SPHERE))
        torch.testing.assert_close(torch.tensor([[[1.0 + 50.0**0.5, 2.0]]]), on_sphere)

    @pytest.mark.parametrize("distribution", every_distribution)
    def test_it_is_the_mean_and_deviations_of_the_values_under_drawn_indices(
        self, distribution: "ReferenceDistribution.ValueType"
    ) -> None:
        """With 200 000 indices, five standard errors of mean and deviations are below 2.5 %."""
        (coefficients,) = tensors(3, (2, 3, 5))
        indices = torch.from_numpy(draw_indices(np.random.default_rng(2), 200_000, 4, distribution))

        values = indexed_values(coefficients, indices.expand(2, -1, -1))
        deviations = values.std(1, keepdim=True)
        upper = upper_values(coefficients, 1.5, moments(4, distribution))

        assert ((upper - values.mean(1, keepdim=True) - 1.5 * deviations).abs() < 0.025 * deviations).all()

    def test_it_is_what_the_maximum_over_drawn_indices_comes_to(self) -> None:
        """The greatest of 16 standard normal draws is 1.77 in the mean, which `fast` acts and learns by.

        Over 20 000 sets, each with a deviation of 0.53: five standard errors are 0.019.
        """
        (coefficients,) = tensors(4, (1, 2, 5))
        sets = torch.from_numpy(draw_indices(np.random.default_rng(3), 320_000, 4, GAUSSIAN)).reshape(20_000, 16, 4)

        drawn = optimistic_values(indexed_values(coefficients.expand(20_000, -1, -1), sets), 1.0).mean(0)
        upper = upper_values(coefficients, 1.77, moments(4, GAUSSIAN))[0]

        assert ((drawn - upper).abs() < 0.025 * coefficients[..., 1:].norm(dim=-1)).all()


@pytest.mark.parametrize("distribution", every_distribution)
def test_moments_are_those_of_the_draws(distribution: "ReferenceDistribution.ValueType") -> None:
    """Mean and second moment of 100 000 draws, within five standard errors (each below 2 / sqrt(100 000))."""
    draws = draw_indices(np.random.default_rng(0), 100_000, 3, distribution).astype(np.float64)
    declared = moments(3, distribution)

    np.testing.assert_allclose(draws.mean(0), declared.mean, atol=0.032)
    np.testing.assert_allclose(draws.T @ draws / len(draws), declared.second * np.eye(3), atol=0.032)


def test_values_are_affine_in_the_index() -> None:
    """Values are m + v.z, for every row with its own indices."""
    coefficients, indices = tensors(2, (5, 3, 5), (5, 2, 4))

    values = indexed_values(coefficients, indices)

    expected = coefficients[:, None, :, 0] + torch.einsum("bam,bkm->bka", coefficients[..., 1:], indices)
    torch.testing.assert_close(expected, values)


class TestSampledTdLoss:
    def test_by_hand(self) -> None:
        """Two indices: ((3 - 1 - 0.5 * 2)^2 + (0 - 1 - 0.5 * 4)^2) / 2."""
        loss = sampled_td_loss(
            torch.tensor([[3.0, 0.0]]),
            torch.tensor([[1.0]]),
            torch.tensor([[2.0, 4.0]]),
            0.5,
            torch.eye(2)[None],
        )

        torch.testing.assert_close(torch.tensor([5.0]), loss)

    def test_what_a_mask_hides_is_not_learned_from(self) -> None:
        """A member with weight 0 adds nothing, whatever its error."""
        values = torch.tensor([[3.0, 1e6]], requires_grad=True)

        loss = sampled_td_loss(
            values,
            torch.tensor([[1.0, 0.0]]),
            torch.zeros(1, 2),
            0.0,
            torch.eye(2)[None],
            torch.tensor([[1.0, 0.0]]),
        )
        (gradient,) = torch.autograd.grad(loss.sum(), values)

        torch.testing.assert_close(torch.tensor([2.0]), loss.detach())
        torch.testing.assert_close(torch.tensor([[2.0, 0.0]]), gradient)


class TestOptimisticValues:
    def test_the_maximum_over_indices(self) -> None:
        """Each action has the best value that any index gives it."""
        values = torch.tensor([[[1.0, 5.0], [3.0, 2.0]]])

        assert [[[3.0, 5.0]]] == optimistic_values(values, 1.0).tolist()

    @pytest.mark.parametrize("quantile", [0.0, 0.3, 0.5, 0.8, 1.0])
    def test_the_quantile_is_numpys(self, quantile: float) -> None:
        """Between order statistics it is interpolated."""
        (values,) = tensors(3, (4, 5, 3))

        expected = np.quantile(values.numpy(), quantile, axis=1, keepdims=True)

        np.testing.assert_allclose(optimistic_values(values, quantile).numpy(), expected, rtol=1e-6)
