"""Joint probabilities of actions that share an index."""

from itertools import product

import numpy as np
import pytest

from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, index_bank
from hyperact.v1.joint_probabilities import (
    Sequence,
    jackknife_error,
    log_prefix_probabilities,
    stretches,
)
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.probabilities import Float64s, Reference, monte_carlo_error, probabilities

index_dim = 3


def reference(distribution: "ReferenceDistribution.ValueType" = GAUSSIAN) -> Reference:
    """Return a distribution with its bank."""
    return Reference(distribution, index_bank(index_dim, distribution))


def sequence(
    num_steps: int = 4, num_actions: int = 3, seed: int = 0, segments: tuple[int, ...] | None = None
) -> Sequence:
    """Return steps with plausible coefficients, all in one segment unless said otherwise."""
    random = np.random.default_rng(seed)
    return Sequence(
        coefficients=random.normal(size=(num_steps, num_actions, index_dim + 1)).astype(np.float32),
        masks=None,
        actions=random.integers(num_actions, size=num_steps),
        segments=np.array(segments if segments is not None else (0,) * num_steps),
    )


def joint(steps: Sequence, over: Reference | None = None, *, is_observed: bool = False) -> Float64s:
    """Return the probability of each prefix."""
    return np.exp(log_prefix_probabilities(steps, over or reference(), is_observed=is_observed)[:, 0])


class TestHeldIndex:
    def test_it_is_how_often_the_actions_come_together(self) -> None:
        """Redrawn indices find the joint probability, and do not find the product of the propensities."""
        num_draws = 100_000
        steps = sequence(num_steps=3, seed=1)
        indices = np.random.default_rng(2).normal(size=(num_draws, index_dim)).astype(np.float32)
        values = steps.coefficients[:, :, :1] + steps.coefficients[:, :, 1:] @ indices.T
        steps = steps._replace(actions=values.argmax(axis=1)[:, 0])
        together = (values.argmax(axis=1) == steps.actions[:, np.newaxis]).all(axis=0).mean()

        found = joint(steps)[-1]
        of_each = probabilities(steps.coefficients, None, reference(), steps.actions)

        # Five standard errors, of the draws and of the bank.
        spread = 5 * float(monte_carlo_error(together, num_draws) + monte_carlo_error(together))
        assert together == pytest.approx(found, abs=spread)
        assert abs(together - np.prod(of_each)) > 2 * spread

    def test_the_same_step_twice_is_as_probable_as_once(self) -> None:
        """The index that chose the action chooses it again: P(a, a) = P(a), and not P(a) squared."""
        once = sequence(num_steps=1)
        twice = Sequence(np.repeat(once.coefficients, 2, axis=0), None, np.repeat(once.actions, 2), np.zeros(2, int))

        first, second = joint(twice)
        (propensity,) = probabilities(once.coefficients, None, reference(), once.actions)

        assert first == second
        # A propensity counts one more index, of which the action has a third.
        assert propensity == pytest.approx(first, abs=1 / 1025)
        assert abs(second - propensity**2) > 0.05

    @pytest.mark.parametrize("distribution", [GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE])
    @pytest.mark.parametrize("segments", [(0, 0, 0), (0, 1, 1), (0, 1, 2)])
    def test_all_sequences_together_are_sure(
        self, segments: tuple[int, ...], distribution: "ReferenceDistribution.ValueType"
    ) -> None:
        """No probability is made and none is lost."""
        steps = sequence(num_steps=3, num_actions=2, segments=segments)

        total = sum(
            joint(steps._replace(actions=np.array(actions)), over=reference(distribution))[-1]
            for actions in product(range(2), repeat=3)
        )

        assert total == pytest.approx(1.0, rel=1e-6)

    def test_a_prefix_is_at_least_as_probable_as_what_it_begins(self) -> None:
        """Whoever did all of it did its beginning."""
        for is_observed in (False, True):
            assert (np.diff(joint(sequence(num_steps=8, seed=3), is_observed=is_observed)) <= 1e-12).all()

    def test_a_forbidden_action_is_not_counted(self) -> None:
        """What the mask forbids is no rival: a single allowed action is sure at every step."""
        steps = sequence(num_steps=3)
        masks = np.eye(3, dtype=np.bool_)[steps.actions]

        np.testing.assert_allclose(1.0, joint(steps._replace(masks=masks)))


class TestSegments:
    def test_segments_are_independent(self) -> None:
        """A new index knows nothing of the old one: probabilities of segments multiply."""
        steps = sequence(num_steps=5, segments=(0, 0, 2, 2, 2))

        both = 1.0
        for rows in (slice(0, 2), slice(2, 5)):
            part = Sequence(steps.coefficients[rows], None, steps.actions[rows], steps.segments[rows])
            both *= joint(part)[-1]

        assert both == pytest.approx(joint(steps)[-1])

    @pytest.mark.parametrize("num_actions", [1, 2, 3])
    def test_with_an_index_at_every_step_propensities_multiply(self, num_actions: int) -> None:
        """Then, and only then, the log's propensities are enough."""
        steps = sequence(num_steps=4, num_actions=num_actions, segments=(0, 1, 2, 3))

        propensities = probabilities(steps.coefficients, None, reference(), steps.actions)

        # Propensities over the bank count one more index, of which each action has a third.
        np.testing.assert_allclose(np.cumprod(propensities), joint(steps), atol=4 / 1025 if num_actions > 2 else 1e-9)

    def test_stretches_are_the_runs_of_equal_numbers(self) -> None:
        """Neighbours with one number belong together."""
        assert [slice(0, 2), slice(2, 3), slice(3, 6)] == list(stretches(np.array([0, 0, 2, 3, 3, 3])))


class TestMonteCarlo:
    def test_the_inverse_for_what_was_observed_has_the_stated_mean(self) -> None:
        """Over banks, E[(L + 1) / (n + 1)] = (1 - (1 - p)^(L + 1)) / p: weights are right in the mean."""
        num_banks, size = 4000, 64
        random = np.random.default_rng(4)
        steps = sequence(num_steps=2, seed=5)
        many = Reference(GAUSSIAN, random.normal(size=(400_000, index_dim)).astype(np.float32))
        probability = joint(steps, over=many)[-1]
        banks = random.normal(size=(num_banks, size, index_dim)).astype(np.float32)

        inverses = [1 / joint(steps, Reference(GAUSSIAN, bank), is_observed=True)[-1] for bank in banks]

        expected = (1 - (1 - probability) ** (size + 1)) / probability
        # Five standard errors of the mean over banks, and of p from 400 000 indices.
        spread = 5 * (np.std(inverses) / np.sqrt(num_banks) + expected * np.sqrt(1 / (400_000 * probability)))
        assert expected == pytest.approx(np.mean(inverses), abs=spread)

    def test_leaving_groups_out_measures_the_bank_s_luck(self) -> None:
        """The jackknife over 16 parts of one bank is the spread over many banks.

        A variance from 15 degrees of freedom has a relative error of sqrt(2 / 15) = 0.37, its root half that; the mean
        of 200 such errors is within 10 percent.
        """
        random = np.random.default_rng(6)
        steps = sequence(num_steps=2, seed=5)
        found = np.array(
            [
                np.exp(
                    log_prefix_probabilities(
                        steps,
                        Reference(GAUSSIAN, random.normal(size=(256, index_dim)).astype(np.float32)),
                        is_observed=False,
                        num_groups=16,
                    )[-1]
                )
                for _ in range(200)
            ]
        )

        errors = [jackknife_error(row[1:]) for row in found]

        # The spread of 200 values is itself uncertain by 1 / sqrt(400) = 5 percent: five of those.
        assert found[:, 0].std() == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.25)

    def test_what_was_observed_is_possible(self) -> None:
        """Actions that no index of the bank chooses have probability 0, unless they were seen: then 1 / (L + 1)."""
        steps = sequence(num_steps=1)
        steps.coefficients[0, steps.actions[0], 0] = -1e6

        assert 0.0 == joint(steps)[-1]
        assert 1 / 1025 == pytest.approx(joint(steps, is_observed=True)[-1])

    def test_an_exact_bank_has_no_luck(self) -> None:
        """Discrete distributions are counted out: nothing is smoothed and nothing is uncertain."""
        steps = sequence(num_steps=2, seed=7)

        logs = log_prefix_probabilities(steps, reference(ONE_HOT), is_observed=True, num_groups=16)

        assert np.isin(np.exp(logs[:, 0]).round(6), np.round([0, 1 / 3, 2 / 3, 1], 6)).all()
        assert jackknife_error(np.exp(logs[-1, 1:])) == 0.0

    def test_a_longer_bank_begins_with_the_shorter(self) -> None:
        """Whoever needs more indices draws on from the same derivation."""
        np.testing.assert_array_equal(
            index_bank(index_dim, UNIT_SPHERE), index_bank(index_dim, UNIT_SPHERE, 2048)[:1024]
        )
