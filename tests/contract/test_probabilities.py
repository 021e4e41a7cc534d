"""The probabilities of actions over indices."""

import math
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hyperact.v1 import probabilities
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.probabilities import Reference

Distribution: TypeAlias = "ReferenceDistribution.ValueType"
CONTINUOUS = [GAUSSIAN, UNIT_SPHERE]
EVERY = [GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE]


def reference(index_dim: int, distribution: Distribution = GAUSSIAN) -> Reference:
    """Return a distribution with its bank."""
    return Reference(distribution, index_bank(index_dim, distribution))


def random_coefficients(num_rows: int, num_actions: int, index_dim: int, seed: int = 0) -> Float32s:
    """Return coefficients of a plausible spread."""
    return np.random.default_rng(seed).normal(size=(num_rows, num_actions, index_dim + 1)).astype(np.float32)


def draw_indices(num: int, index_dim: int, distribution: Distribution, seed: int = 0) -> Float32s:
    """Draw indices from a reference distribution, by another road than the contract's hash."""
    random = np.random.default_rng(seed)
    if distribution in CONTINUOUS:
        normals = random.normal(size=(num, index_dim))
        scale = np.linalg.norm(normals, axis=1, keepdims=True) if distribution == UNIT_SPHERE else 1.0
        return (normals / scale).astype(np.float32)
    values = index_bank(index_dim, distribution)
    return values[random.integers(len(values), size=num)]


def random_masks(num_rows: int, num_actions: int, seed: int) -> NDArray[np.bool_]:
    """Return masks that each allow something."""
    masks = np.random.default_rng(seed).random((num_rows, num_actions)) < 0.5
    masks[np.arange(num_rows), np.random.default_rng(seed).integers(num_actions, size=num_rows)] = True
    return masks


class TestPropensities:
    @pytest.mark.parametrize("distribution", EVERY)
    @pytest.mark.parametrize("num_actions", [2, 4])
    @pytest.mark.parametrize("index_dim", [1, 2, 5])
    def test_they_are_how_often_the_action_is_chosen(
        self, num_actions: int, index_dim: int, distribution: Distribution
    ) -> None:
        """An auditor who redraws indices finds the frequencies that the log promised."""
        num_draws = 20_000
        coefficients = random_coefficients(1, num_actions, index_dim, seed=index_dim)
        indices = draw_indices(num_draws, index_dim, distribution)
        values = coefficients[0, :, 0] + indices @ coefficients[0, :, 1:].T
        frequencies = np.bincount(values.argmax(axis=1), minlength=num_actions) / num_draws

        chances = probabilities.each_probability(coefficients, None, reference(index_dim, distribution))[0]

        # Five standard errors: of n draws here, and, where the bank stands for the distribution, of its 1024 indices.
        is_bank = num_actions > 2 and distribution in CONTINUOUS
        spread = 5 * math.sqrt(0.25 / num_draws) + (5 * math.sqrt(0.25 / 1024) if is_bank else 0.0)
        np.testing.assert_allclose(chances, frequencies, atol=spread)

    @pytest.mark.parametrize("distribution", CONTINUOUS)
    @pytest.mark.parametrize("index_dim", [1, 2, 3, 8, 16])
    def test_the_closed_form_agrees_with_the_bank(self, index_dim: int, distribution: Distribution) -> None:
        """Two roads to one number: 1024 fixed indices stay within five standard errors of the exact probability."""
        coefficients = random_coefficients(20, 2, index_dim, seed=3)
        exact = probabilities.each_probability(coefficients, None, reference(index_dim, distribution))[:, 0]
        bank = index_bank(index_dim, distribution)
        values = coefficients[:, :, :1] + coefficients[:, :, 1:] @ bank.T

        shares = (values[:, 0] > values[:, 1]).mean(axis=1)

        np.testing.assert_allclose(exact, shares, atol=5 * math.sqrt(0.25 / 1024))

    @pytest.mark.parametrize("index_dim", [2, 3, 4, 7, 32])
    def test_the_sphere_s_recursion_is_the_beta_distribution(self, index_dim: int) -> None:
        """One coordinate of a uniform point on the sphere: (t + 1) / 2 is Beta((M - 1) / 2, (M - 1) / 2)."""
        x = np.linspace(-1, 1, 41)
        half = (index_dim - 1) / 2

        found = probabilities.pair_probability(x, np.ones_like(x), index_dim, UNIT_SPHERE)

        np.testing.assert_allclose(stats.beta.cdf((x + 1) / 2, half, half), found, atol=1e-12)

    @pytest.mark.parametrize("distribution", EVERY)
    @pytest.mark.parametrize("num_actions", [1, 2, 3, 18])
    def test_every_allowed_action_is_possible_and_the_sum_is_one(
        self, num_actions: int, distribution: Distribution
    ) -> None:
        """Importance weights stay finite: under an unbounded index nothing allowed is impossible."""
        coefficients = random_coefficients(30, num_actions, 4, seed=5)
        masks = random_masks(30, num_actions, seed=6)

        chances = probabilities.each_probability(coefficients, masks, reference(4, distribution))

        np.testing.assert_allclose(1.0, chances.sum(axis=1), rtol=1e-9)
        assert not chances[~masks].any()
        if distribution == GAUSSIAN:
            assert (chances[masks] > 0).all()

    def test_portions_of_the_bank_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ten thousand actions are decided in bounded memory, with the same result."""
        coefficients = random_coefficients(5, 6, 3)
        whole = probabilities.each_probability(coefficients, None, reference(3))
        actions = whole.argmax(axis=1)

        monkeypatch.setattr(probabilities, "_max_bank_values", 600)

        np.testing.assert_allclose(whole, probabilities.each_probability(coefficients, None, reference(3)), atol=1e-12)
        one = probabilities.probabilities(coefficients, None, reference(3), actions)
        np.testing.assert_allclose(whole.max(axis=1), one, atol=1e-12)


class TestMasks:
    def test_no_mask_at_all_costs_nothing(self) -> None:
        """A batch without masks is decided without them."""
        assert probabilities.to_masks([b"", b""], 3) is None

    def test_an_absent_mask_allows_everything(self) -> None:
        """One masked row does not constrain its mates."""
        masks = probabilities.to_masks([b"", b"\x00\x01\x00"], 3)

        assert masks is not None
        assert [[True, True, True], [False, True, False]] == masks.tolist()
