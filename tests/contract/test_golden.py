"""The golden answers beside a version."""

import numpy as np
import pytest

from hyperact.v1.errors import FieldError
from hyperact.v1.golden import Golden, from_bytes, parity_problem

observations = np.arange(12, dtype=np.float32).reshape(4, 3)
coefficients = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
golden = Golden(observations, coefficients, 2.0)


def test_a_file_comes_back_as_it_was_written() -> None:
    """Observations, answers and scale."""
    found = from_bytes(golden.to_bytes())

    np.testing.assert_array_equal(observations, found.observations)
    np.testing.assert_array_equal(coefficients, found.coefficients)
    assert 2.0 == found.scale


@pytest.mark.parametrize("content", [b"", b"no archive", golden.to_bytes()[:100]])
def test_what_is_no_such_file_is_named(content: bytes) -> None:
    """An error of the contract's, whatever is wrong with it."""
    with pytest.raises(FieldError, match=r"golden\.npz"):
        from_bytes(content)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (coefficients, ""),
        (coefficients + np.float32(1e-4), ""),
        (coefficients + np.float32(1e-3), "differ from the learner's by 0.001"),
        (coefficients[:, ::-1], "differ from the learner's"),
        (np.full_like(coefficients, np.nan), "by nan"),
        (coefficients[:, :1], "the graph (4, 1, 5)"),
    ],
    ids=["the same", "rounded", "off", "permuted", "NaN", "shape"],
)
def test_a_graph_that_answers_otherwise_is_told(answers: np.ndarray, expected: str) -> None:
    """Rounding of the size of the largest summand is not a difference."""
    problem = parity_problem(golden, lambda _: answers)

    assert expected in problem
    assert bool(expected) == bool(problem)
