"""When a deployment is taken back: certainly harmful, and not by chance."""

import numpy as np
import pytest

from hyperact.service.rollback_rules import RollbackLimits, find_error_problem, find_return_problem

limits = RollbackLimits(max_loss=0.5, min_return=-2.0, max_error_rate=0.01)


def draw(mean: float, number: int, seed: int = 0, noise: float = 1.0) -> list[float]:
    """Return noisy returns."""
    return list(map(float, mean + noise * np.random.default_rng(seed).normal(size=number)))


class TestReturns:
    def test_a_clear_loss_is_found(self) -> None:
        """With both numbers of episodes in the reason."""
        problem = find_return_problem(draw(-1.0, 40), draw(1.0, 100, seed=1), limits)

        assert "of 30 episodes is below" in problem
        assert "of 100 by more than 0.5" in problem

    def test_a_return_under_the_least_is_found_without_a_baseline(self) -> None:
        """The first deployment has nothing beside it."""
        assert "is under -2" in find_return_problem(draw(-3.0, 30), [], limits)

    @pytest.mark.parametrize(
        ("returns", "baseline"),
        [
            (draw(-9.0, 29), draw(1.0, 100)),
            (draw(-1.0, 40), draw(1.0, 29)),
            (draw(0.9, 40), draw(1.0, 100)),
            (draw(0.4, 40), draw(1.0, 100)),
            ([], []),
        ],
        ids=["too few", "too few to be held against", "allowed", "doubtful", "none"],
    )
    def test_what_is_not_certain_is_left_alone(self, returns: list[float], baseline: list[float]) -> None:
        """Too few episodes, a loss within what is allowed, and one that may be chance."""
        assert "" == find_return_problem(returns, baseline, limits)

    def test_noise_triggers_as_seldom_as_declared(self) -> None:
        """400 deployments like their baseline, each watched after every one of a thousand episodes."""
        strict = RollbackLimits(max_loss=0.0, confidence=0.95)
        num_triggered = 0
        for seed in range(400):
            returns, baseline = draw(0.0, 1000, 2 * seed), draw(0.0, 1000, 2 * seed + 1)
            looks = [returns[:number] for number in (30, 60, 120, 240, 480, 960)]
            num_triggered += any(find_return_problem(look, baseline, strict) for look in looks)

        # At most 20 of 400 with a standard deviation of 4.4: three of them up.
        assert num_triggered <= 33

    def test_between_looks_nothing_is_tested(self) -> None:
        """Thirty-one episodes are the look at thirty: else every episode would be a chance to be wrong."""
        at_look, later = draw(0.2, 30), [*draw(0.2, 30), *[-100.0] * 29]

        assert find_return_problem(at_look, draw(0.0, 99), limits) == find_return_problem(later, draw(0.0, 99), limits)

    def test_a_side_that_saw_one_return_only_is_not_known_exactly(self) -> None:
        """Thirty failures of a rare success are no proof of a loss."""
        rare = [1.0 if place % 20 == 0 else 0.0 for place in range(400)]

        assert "" == find_return_problem([0.0] * 30, rare, RollbackLimits(max_loss=0.0))


class TestErrors:
    @pytest.mark.parametrize(
        ("num_steps", "num_errors", "is_found"),
        [(0, 200, True), (180, 20, True), (199, 1, False), (0, 199, False), (19_000, 200, False), (0, 0, False)],
    )
    def test_a_share_that_is_certainly_too_large_is_found(
        self, num_steps: int, num_errors: int, is_found: bool
    ) -> None:
        """One in a hundred is allowed; a single failure early on is not one in a hundred."""
        assert is_found == bool(find_error_problem(num_steps, num_errors, limits))

    def test_undeclared_nothing_is_found(self) -> None:
        """What nobody asked for takes nothing back."""
        assert "" == find_error_problem(0, 1000, RollbackLimits())
