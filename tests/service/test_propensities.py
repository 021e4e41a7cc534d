"""Propensities in the log against how often actions are chosen, through the whole of the decision."""

import numpy as np
import pytest

from calibration import calibrate, count_actions, derive_indices, draw_question, key, logged_propensities
from hyperact.service import decision
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, derive_index, index_bank
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.probabilities import Reference
from hyperact.v1.steps import StepKey

num_draws, index_dim = 20_000, 4
every_distribution = [GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE]
# 24 cases: together they fail by chance once in ten thousand times. The draws are fixed, so in truth never or always.
least_p_value = 1e-4 / 24


@pytest.fixture(scope="module", params=every_distribution)
def drawn(request: pytest.FixtureRequest) -> "tuple[ReferenceDistribution.ValueType, np.ndarray]":
    """Return a distribution and indices derived from it."""
    return request.param, derive_indices(num_draws, index_dim, request.param)


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("num_actions", [2, 3, 18])
def test_propensities_are_frequencies(
    num_actions: int, is_masked: bool, drawn: "tuple[ReferenceDistribution.ValueType, np.ndarray]"
) -> None:
    """What the log calls the probability of an action is how often episodes with derived indices choose it.

    benchmarks/ope.py does the same over a million draws.
    """
    distribution, indices = drawn
    question = draw_question(distribution, num_actions, index_dim, is_masked, seed=1)

    found = calibrate(question, count_actions(question, indices))

    assert found.p_value > least_p_value, found


@pytest.mark.parametrize("num_actions", [2, 3])
def test_the_test_would_notice(num_actions: int) -> None:
    """Propensities of other values do not pass: of draws alone, and of draws and a bank."""
    question = draw_question(GAUSSIAN, num_actions, index_dim, False, seed=1)
    indices = derive_indices(num_draws, index_dim, GAUSSIAN)
    shifted = question.coefficients.copy()
    shifted[:, 0] += np.linspace(0.0, 1.0, num_actions, dtype=np.float32)

    counts = count_actions(question._replace(coefficients=shifted), indices)

    assert calibrate(question, counts).p_value < least_p_value


@pytest.mark.parametrize("distribution", every_distribution)
def test_the_decision_logs_what_is_tested_here(distribution: "ReferenceDistribution.ValueType") -> None:
    """The action of an episode's first step and its propensity, as the service computes them."""
    question = draw_question(distribution, 3, index_dim, False, seed=2)
    index = derive_index(key, StepKey("default", "agent-7", "run", 0, 0), 0, index_dim, distribution)
    reference = Reference(distribution, index_bank(index_dim, distribution))

    coefficients = question.coefficients[np.newaxis]
    values = decision.index_values(coefficients, index[np.newaxis])
    decided = decision.decide(values, coefficients, None, reference, tie_break=lambda _: 0.5)

    action = int(decided.actions[0])
    assert 1 == count_actions(question, index[np.newaxis])[action]
    assert logged_propensities(question)[action] == pytest.approx(decided.propensities[0], rel=1e-6)
