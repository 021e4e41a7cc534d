import numpy as np
import pytest

from hyperact.trainer.gates import Evidence, GateLimits, PolicyChange, compare_policies, judge
from hyperact.v1.indices import UNIT_SPHERE
from toys import toy_spec

spec = toy_spec(num_actions=2, index_dim=2)


def coefficients(means: tuple[float, float], loadings: float = 0.0, num_observations: int = 3) -> np.ndarray:
    """Return coefficients [N, 2, 3]: given means, and opposite loadings for the two actions."""
    one = np.array([[means[0], loadings, 0.0], [means[1], -loadings, 0.0]], np.float32)
    return np.repeat(one[np.newaxis], num_observations, axis=0)


class TestComparePolicies:
    def test_a_policy_is_like_itself(self) -> None:
        """Nothing flips and nothing diverges."""
        same = coefficients((0.0, 0.5), loadings=1.0)

        assert PolicyChange(0.0, 0.0) == compare_policies(same, spec, same, spec)

    def test_opposite_policies_are_as_far_as_can_be(self) -> None:
        """Every action flips, and the distributions over actions are disjoint."""
        change = compare_policies(coefficients((0.0, 1.0)), spec, coefficients((1.0, 0.0)), spec)

        assert PolicyChange(1.0, 1.0) == change

    def test_a_mirrored_policy_flips_without_diverging(self) -> None:
        """The same chances for both actions, but under each index the other one: only the flip rate shows it."""
        change = compare_policies(coefficients((0.0, 0.0), 1.0), spec, coefficients((0.0, 0.0), -1.0), spec)

        assert change.action_flip_rate == 1.0
        # A share over 256 indices has a standard error of 1 / 32; the divergence is twice its distance from half.
        assert change.divergence < 0.3

    def test_models_that_draw_differently_are_compared_by_their_means(self) -> None:
        """Indices of another distribution cannot be shared; greedy actions can be compared."""
        other = toy_spec(num_actions=2, index_dim=2, reference_distribution=UNIT_SPHERE)

        change = compare_policies(coefficients((0.0, 1.0)), spec, coefficients((0.0, 1.0), 0.1), other)

        assert change.action_flip_rate == 0.0


class TestJudge:
    def test_the_default_limits_let_an_honest_candidate_through(self) -> None:
        """However far it strays."""
        verdict = judge(Evidence(change=PolicyChange(1.0, 1.0)), GateLimits())

        assert verdict.is_promotion
        assert verdict.report == "passed: action flip rate 1.000, divergence 1.000"

    @pytest.mark.parametrize(
        ("evidence", "limits", "reason"),
        [
            (Evidence(parity_problem="differs"), GateLimits(), "differs"),
            (Evidence(spec_differences=["spec.action: 2, 3"]), GateLimits(), "spec.action"),
            (Evidence(is_finite=False), GateLimits(), "not finite"),
            (Evidence(change=PolicyChange(0.5, 0.1)), GateLimits(max_action_flip_rate=0.4), "flip rate 0.500"),
            (Evidence(change=PolicyChange(0.5, 0.1)), GateLimits(max_divergence=0.05), "divergence 0.100"),
            (Evidence(evaluation_return=0.1), GateLimits(min_evaluation_return=0.2), "evaluation return 0.1 is under"),
            (Evidence(evaluation_return=float("nan")), GateLimits(min_evaluation_return=0.2), "nan is under"),
            (Evidence(), GateLimits(min_evaluation_return=0.2), "no evaluation return"),
        ],
    )
    def test_each_gate_holds_back_with_its_reason(self, evidence: Evidence, limits: GateLimits, reason: str) -> None:
        """Whoever reads the tag of a refused version learns why."""
        verdict = judge(evidence, limits)

        assert not verdict.is_promotion
        assert verdict.report.startswith("held: ")
        assert reason in verdict.report

    def test_all_reasons_are_told(self) -> None:
        """Not just the first one."""
        verdict = judge(Evidence(parity_problem="differs", is_finite=False), GateLimits())

        assert len(verdict.reasons) == 2

    def test_a_first_version_has_nothing_to_be_compared_with(self) -> None:
        """With nothing in service, only the candidate's own health is judged."""
        assert judge(Evidence(), GateLimits(max_action_flip_rate=0.0)).is_promotion
