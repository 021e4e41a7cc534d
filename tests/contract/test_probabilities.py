"""The probabilities of actions over indices."""

import math
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hyperact.v1 import probabilities
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.model_pb2 import ActingRule, GraphKind, ReferenceDistribution
from hyperact.v1.probabilities import Reference
from toys import toy_spec

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


class TestActingRules:
    @pytest.mark.parametrize("quantile", [0.0, 0.5, 0.8, 1.0])
    def test_several_values_are_worth_their_quantile(self, quantile: float) -> None:
        """Interpolated as NumPy, and torch, do by default."""
        values = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
        rule = reference(2)._replace(num_indices=5, quantile=quantile)

        found = probabilities.combine(values, rule)

        np.testing.assert_allclose(found, np.quantile(values, quantile, axis=-1), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("distribution", EVERY)
    @pytest.mark.parametrize("num_actions", [2, 4])
    def test_propensities_of_optimistic_choices_are_frequencies(
        self, num_actions: int, distribution: Distribution
    ) -> None:
        """The best by the 0.8 quantile of five indices, as often as it is said to be."""
        num_draws, num_indices = 10_000, 5
        spec = toy_spec(
            num_actions, 3, reference_distribution=distribution, acting_rule=ActingRule(num_indices=5, quantile=0.8)
        )
        over = probabilities.make_reference(spec, GraphKind.GRAPH_KIND_COEFFICIENTS)
        coefficients = random_coefficients(1, num_actions, 3, seed=4)
        indices = draw_indices(num_draws * num_indices, 3, distribution).reshape(num_draws, num_indices, 3)
        values = coefficients[0, :, 0] + indices @ coefficients[0, :, 1:].T
        best = np.quantile(values, 0.8, axis=1)
        # Discrete indices repeat, so values tie; equal ones share, which rounding must not hide.
        is_best = best >= best.max(axis=1, keepdims=True) - 1e-5
        frequencies = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)

        chances = probabilities.each_probability(coefficients, None, over)[0]

        spread = 5 * math.sqrt(0.25 / num_draws) + 5 * math.sqrt(0.25 / 1024)
        np.testing.assert_allclose(chances, frequencies, atol=spread)
        assert (chances > 0).all()

    def test_exploration_adds_its_share_to_every_allowed_action(self) -> None:
        """(1 - epsilon) pi + epsilon / K, of the one action, of each, and of each draw of the bank."""
        coefficients, masks = random_coefficients(30, 4, 3), random_masks(30, 4, seed=1)
        plain, exploring = reference(3), reference(3)._replace(epsilon=0.25)
        actions = masks.argmax(axis=1)
        uniform = masks / masks.sum(axis=1, keepdims=True)

        each = probabilities.each_probability(coefficients, masks, exploring)
        shares = probabilities.win_shares(coefficients, masks, actions, exploring)
        all_shares = probabilities.each_win_share(coefficients, masks, exploring)

        expected = 0.75 * probabilities.each_probability(coefficients, masks, plain) + 0.25 * uniform
        np.testing.assert_allclose(expected, each)
        np.testing.assert_allclose(
            each[np.arange(30), actions], probabilities.probabilities(coefficients, masks, exploring, actions)
        )
        np.testing.assert_allclose(shares, all_shares[np.arange(30), :, actions])
        # The smoothing counts one draw more; two allowed actions have a closed form instead.
        is_counted = masks.sum(axis=1) != 2
        np.testing.assert_allclose(
            shares.mean(axis=1)[is_counted], each[np.arange(30), actions][is_counted], atol=1 / 1025
        )

    @pytest.mark.parametrize("distribution", EVERY)
    def test_values_under_the_bank_say_what_coefficients_do(self, distribution: Distribution) -> None:
        """An indexed graph that is affine after all has the propensities of its coefficients, but for closed forms."""
        coefficients, masks = random_coefficients(20, 5, 3), random_masks(20, 5, seed=2)
        affine = reference(3, distribution)
        table = coefficients[:, :, :1] + coefficients[:, :, 1:] @ affine.bank.T
        indexed = affine._replace(is_affine=False)
        is_counted = masks.sum(axis=1) != 2 if distribution in CONTINUOUS else np.full(20, True)

        found = probabilities.each_probability(table, masks, indexed)

        expected = probabilities.each_probability(coefficients, masks, affine)
        np.testing.assert_allclose(expected[is_counted], found[is_counted], atol=1.5 / 1025)
        np.testing.assert_allclose(expected, found, atol=0.1)

    def test_portions_of_several_indices_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Large batches are computed in parts, draws kept together."""
        over = reference(3)._replace(num_indices=4, quantile=0.7)
        coefficients = random_coefficients(5, 3, 3)
        whole = probabilities.each_probability(coefficients, None, over)
        table = (coefficients[:, :, :1] + coefficients[:, :, 1:] @ over.bank.T).astype(np.float32)
        monkeypatch.setattr(probabilities, "_max_bank_values", 100)

        parts = probabilities.each_probability(coefficients, None, over)
        of_table = probabilities.each_probability(table, None, over._replace(is_affine=False))

        assert 256 == over.num_draws
        np.testing.assert_allclose(whole, parts, atol=1.5 / 257)
        np.testing.assert_allclose(whole, of_table, atol=1.5 / 257)

    def test_two_gaussian_actions_are_phi(self) -> None:
        """P(the first is better) = Phi((m1 - m2) / |v1 - v2|), by SciPy's."""
        coefficients = random_coefficients(100, 2, 5)
        wide = coefficients.astype(np.float64)
        difference = wide[:, 0] - wide[:, 1]

        found = probabilities.probabilities(coefficients, None, reference(5), np.zeros(100, np.intp))

        expected = stats.norm.cdf(difference[:, 0] / np.linalg.norm(difference[:, 1:], axis=1))
        np.testing.assert_allclose(expected, found, rtol=1e-12)
