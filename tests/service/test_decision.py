"""Decisions: actions, margins and the probabilities of actions over indices."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperact.service import decision
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


def decide(
    coefficients: Float32s,
    indices: Float32s,
    masks: NDArray[np.bool_] | None,
    over: Reference,
    tie_break: Callable[[int], float],
    explore: Callable[[int], float | None] | None = None,
) -> decision.Decisions:
    """Decide from coefficients and one index per row."""
    return decision.decide(decision.index_values(coefficients, indices), coefficients, masks, over, tie_break, explore)


def never(row: int) -> float:
    """Be the tie break of a test in which no two actions are equal."""
    raise AssertionError(f"row {row} is not a tie")


def random_masks(num_rows: int, num_actions: int, seed: int) -> NDArray[np.bool_]:
    """Return masks that each allow something."""
    masks = np.random.default_rng(seed).random((num_rows, num_actions)) < 0.5
    masks[np.arange(num_rows), np.random.default_rng(seed).integers(num_actions, size=num_rows)] = True
    return masks


class TestActions:
    def test_the_action_is_the_best_under_the_row_s_own_index(self) -> None:
        """Each session acts by its own plausible value function, whoever shares its batch."""
        coefficients, indices = random_coefficients(6, 4, 3), draw_indices(6, 3, GAUSSIAN)

        decisions = decide(coefficients, indices, None, reference(3), never)

        values = coefficients[:, :, 0] + np.einsum("bam,bm->ba", coefficients[:, :, 1:], indices)
        ordered = np.sort(values, axis=1)
        assert values.argmax(axis=1).tolist() == decisions.actions.tolist()
        np.testing.assert_allclose(ordered[:, -1] - ordered[:, -2], decisions.margins, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("distribution", EVERY)
    @pytest.mark.parametrize("num_actions", [1, 2, 5])
    def test_a_row_is_decided_alone_as_in_a_batch(self, num_actions: int, distribution: Distribution) -> None:
        """Batch-mates change neither the action nor its numbers."""
        coefficients = random_coefficients(7, num_actions, 3)
        indices = draw_indices(7, 3, distribution)
        masks = random_masks(7, num_actions, seed=1)

        together = decide(coefficients, indices, masks, reference(3, distribution), lambda _: 0.5)
        for row in range(7):
            one = slice(row, row + 1)
            alone = decide(coefficients[one], indices[one], masks[one], reference(3, distribution), lambda _: 0.5)

            assert together.actions[row] == alone.actions[0]
            assert together.margins[row] == alone.margins[0]
            # One of 1024 indices may fall on the other side of a tie when the matrix product rounds otherwise.
            assert together.propensities[row] == pytest.approx(alone.propensities[0], abs=1.5 / 1025)

    def test_a_forbidden_action_is_never_chosen(self) -> None:
        """A mask is a promise to the agent, however good the forbidden action looks."""
        coefficients = random_coefficients(50, 4, 2)
        coefficients[:, 3, 0] = 1e6
        masks = random_masks(50, 4, seed=2)
        masks[:, 3] = False
        masks[np.arange(50), np.arange(50) % 3] = True

        decisions = decide(coefficients, draw_indices(50, 2, GAUSSIAN), masks, reference(2), never)

        assert masks[np.arange(50), decisions.actions].all()
        assert (decisions.margins < 1e5).all()

    def test_the_only_allowed_action_is_sure(self) -> None:
        """One choice is no choice: probability 1, no margin."""
        masks = np.array([[False, True, False]])

        indices = np.ones((1, 2), np.float32)
        decisions = decide(random_coefficients(1, 3, 2), indices, masks, reference(2), never)

        assert (1, 1.0, 0.0) == (decisions.actions[0], decisions.propensities[0], decisions.margins[0])

    def test_exact_ties_are_broken_by_the_given_uniform(self) -> None:
        """Equal actions are chosen equally often and repeatably, and the propensity says so."""
        coefficients = np.zeros((4, 3, 1), np.float32)
        coefficients[:, 1, 0] = -1.0

        uniforms = [0.0, 0.49, 0.51, 0.99]
        decisions = decide(coefficients, np.empty((4, 0), np.float32), None, reference(0), lambda row: uniforms[row])

        assert [0, 0, 2, 2] == decisions.actions.tolist()
        assert [0.5] * 4 == decisions.propensities.tolist()

    def test_a_model_without_an_index_is_sure_of_itself(self) -> None:
        """Plain DQN is the case M = 0: greedy, propensity 1, no uncertainty."""
        coefficients = random_coefficients(5, 4, 0)
        indices = np.empty((5, 0), np.float32)

        decisions = decide(coefficients, indices, None, reference(0), never)

        assert coefficients[:, :, 0].argmax(axis=1).tolist() == decisions.actions.tolist()
        assert [1.0] * 5 == decisions.propensities.tolist()
        assert 0 == decision.posteriors(coefficients, None, reference(0)).standard_deviations.max()


class TestPropensities:
    @pytest.mark.parametrize("distribution", EVERY)
    @pytest.mark.parametrize("is_masked", [False, True])
    @pytest.mark.parametrize("num_actions", [2, 3])
    def test_the_propensity_is_the_posterior_s_entry(
        self, num_actions: int, is_masked: bool, distribution: Distribution
    ) -> None:
        """The number on the answer and the one in the posterior are the same."""
        coefficients = random_coefficients(25, num_actions, 3, seed=7)
        masks = random_masks(25, num_actions, seed=8) if is_masked else None
        indices = draw_indices(25, 3, distribution)

        decisions = decide(coefficients, indices, masks, reference(3, distribution), never)
        chances = decision.posteriors(coefficients, masks, reference(3, distribution)).probabilities

        np.testing.assert_allclose(chances[np.arange(25), decisions.actions], decisions.propensities, rtol=1e-5)


class TestPosteriors:
    @pytest.mark.parametrize("distribution", EVERY)
    def test_mean_and_deviation_are_those_of_the_values(self, distribution: Distribution) -> None:
        """What is returned as uncertainty is the spread of the sampled values."""
        num_draws = 20_000
        coefficients = random_coefficients(1, 3, 4, seed=9)
        values = coefficients[0, :, 0] + draw_indices(num_draws, 4, distribution) @ coefficients[0, :, 1:].T

        found = decision.posteriors(coefficients, None, reference(4, distribution))

        # Five standard errors of a mean and of a deviation (at most as for a normal), from n draws.
        spread = 5 * values.std() / math.sqrt(num_draws)
        np.testing.assert_allclose(found.means[0], values.mean(axis=0), atol=spread)
        np.testing.assert_allclose(found.standard_deviations[0], values.std(axis=0), atol=spread)
