import numpy as np
import pytest

from hyperact.v1.gates import (
    Evidence,
    GateLimits,
    Outcome,
    Policy,
    PolicyChange,
    compare_policies,
    judge,
    measure_change,
    spread,
)
from hyperact.v1.indices import UNIT_SPHERE
from hyperact.v1.model_pb2 import GraphKind
from hyperact.v1.off_policy import Estimate, OffPolicy
from hyperact.v1.probabilities import make_reference
from toys import toy_spec

spec = toy_spec(num_actions=2, index_dim=2)
reference = make_reference(spec, GraphKind.GRAPH_KIND_COEFFICIENTS)


def coefficients(means: tuple[float, float], loadings: float = 0.0, num_observations: int = 3) -> np.ndarray:
    """Return coefficients [N, 2, 3]: given means, and opposite loadings for the two actions."""
    one = np.array([[means[0], loadings, 0.0], [means[1], -loadings, 0.0]], np.float32)
    return np.repeat(one[np.newaxis], num_observations, axis=0)


class TestComparePolicies:
    def test_a_policy_is_like_itself(self) -> None:
        """Nothing flips and nothing diverges."""
        same = coefficients((0.0, 0.5), loadings=1.0)

        assert PolicyChange(0.0, 0.0) == compare_policies(same, reference, same, reference)

    def test_opposite_policies_are_as_far_as_can_be(self) -> None:
        """Every action flips, and the distributions over actions are disjoint."""
        change = compare_policies(coefficients((0.0, 1.0)), reference, coefficients((1.0, 0.0)), reference)

        assert PolicyChange(1.0, 1.0) == change

    def test_a_mirrored_policy_flips_without_diverging(self) -> None:
        """The same chances for both actions, but under each index the other one: only the flip rate shows it."""
        change = compare_policies(coefficients((0.0, 0.0), 1.0), reference, coefficients((0.0, 0.0), -1.0), reference)

        assert change.action_flip_rate == 1.0
        # A share over 256 indices has a standard error of 1 / 32; the divergence is twice its distance from half.
        assert change.divergence < 0.3

    def test_models_that_draw_differently_are_compared_by_their_means(self) -> None:
        """Indices of another distribution cannot be shared; greedy actions can be compared."""
        sphere = toy_spec(num_actions=2, index_dim=2, reference_distribution=UNIT_SPHERE)
        other = make_reference(sphere, GraphKind.GRAPH_KIND_COEFFICIENTS)

        change = compare_policies(coefficients((0.0, 1.0)), reference, coefficients((0.0, 1.0), 0.1), other)

        assert change.action_flip_rate == 0.0


class TestExploration:
    @pytest.mark.parametrize("scale", [0.0, 0.05, 0.5, 1.0, 2.0])
    def test_it_is_the_share_of_how_much_values_vary(self, scale: float) -> None:
        """Loadings a tenth as long explore a tenth as much, whatever the means are."""
        current = Policy(lambda rows: coefficients((0.0, 0.5), 1.0, len(rows)), spec, reference)
        candidate = Policy(lambda rows: coefficients((3.0, -1.0), scale, len(rows)), spec, reference)

        change = measure_change(current, candidate, np.zeros((5, 3), np.float32), np.zeros((2, 3), np.float32))

        assert pytest.approx(scale, abs=1e-6) == change.exploration

    def test_a_candidate_that_learned_what_was_seen_still_explores(self) -> None:
        """Nothing left to explore where it was is not a collapse, as long as it varies where it was not."""
        learned = Policy(lambda rows: coefficients((0.0, 0.5), 1e-3 if rows.any() else 1.0, len(rows)), spec, reference)
        current = Policy(lambda rows: coefficients((0.0, 0.5), 1.0, len(rows)), spec, reference)

        change = measure_change(current, learned, np.ones((5, 3), np.float32), np.zeros((5, 3), np.float32))

        assert pytest.approx(np.sqrt(0.5), abs=1e-3) == change.exploration

    def test_what_all_actions_share_does_not_explore(self) -> None:
        """A value that goes up and down for all actions alike changes no choice."""
        shared = np.ones((3, 2, 3), np.float32)

        assert pytest.approx(0.0, abs=1e-6) == spread(shared, reference)


def worth(gain: Estimate, effective_size: float = 100.0, refusals: tuple[str, ...] = ()) -> OffPolicy:
    """Return what a log says of a candidate."""
    return OffPolicy(gain, gain, effective_size, 200, refusals)


loss, doubt = Estimate(-1.0, -1.5, -0.5), Estimate(-0.2, -0.9, 0.5)
region = GateLimits(max_divergence=0.5)


class TestJudge:
    def test_the_default_limits_let_an_honest_candidate_through(self) -> None:
        """However far it strays."""
        verdict = judge(Evidence(change=PolicyChange(1.0, 1.0)), GateLimits())

        assert verdict.is_promotion
        assert verdict.report == "passed: action flip rate 1.000, divergence 1.000, exploration 1"

    @pytest.mark.parametrize(
        ("evidence", "limits", "reason"),
        [
            (Evidence(parity_problem="differs"), GateLimits(), "differs"),
            (Evidence(spec_differences=["spec.action: 2, 3"]), GateLimits(), "spec.action"),
            (Evidence(is_finite=False), GateLimits(), "not finite"),
            (Evidence(change=PolicyChange(0.5, 0.1)), GateLimits(max_action_flip_rate=0.4), "flip rate 0.500"),
            (Evidence(change=PolicyChange(0.5, 0.1)), GateLimits(max_divergence=0.05), "divergence 0.100"),
            (Evidence(change=PolicyChange(0.0, 0.0, 0.01)), GateLimits(), "exploration is 0.01"),
            (Evidence(change=PolicyChange(0.0, 0.0, float("nan"))), GateLimits(), "exploration is nan"),
            (Evidence(off_policy=worth(loss)), GateLimits(min_off_policy_gain=-0.1), "gain -1 (-1.5 to -0.5) is under"),
            (Evidence(off_policy=worth(doubt, 7.0)), GateLimits(min_effective_size=8), "worth 7.0 of it, under 8"),
            (Evidence(serving_version="1"), GateLimits(min_effective_size=8), "no off-policy estimate"),
            (Evidence(serving_version="1", no_change="nothing logged"), region, "divergence was not measured"),
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

    def test_a_loss_that_is_not_proved_holds_nothing_back(self) -> None:
        """As long as the interval leaves the least gain possible, and where the log says too little."""
        limits = GateLimits(min_off_policy_gain=0.0)

        for found in (worth(doubt), worth(loss, refusals=("too thin",))):
            assert judge(Evidence(off_policy=found), limits).is_promotion

    def test_the_report_has_a_row_for_every_gate(self) -> None:
        """Measured or not, with its limit: whoever reads it sees also what nobody looked at."""
        verdict = judge(Evidence(change=PolicyChange(0.5, 0.1)), GateLimits(max_action_flip_rate=0.4))
        text = verdict.to_markdown("gates of version 7")

        assert 9 == len(verdict.gates)
        assert "| action flips | 0.500 | at most 0.4 | held |" in text
        assert f"| evaluation | no environment | - | {Outcome.NOT_MEASURED} |" in text
        assert text.endswith(f"{verdict.report}\n")
