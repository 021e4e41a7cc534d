"""Estimators: by hand, against the open bandit pipeline, and their errors."""

import importlib
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperact.trainer.off_policy import estimators
from hyperact.trainer.off_policy.estimators import Controls, Estimate
from hyperact.trainer.off_policy.evaluation import weighted_estimators
from hyperact.trainer.off_policy.intervals import Interval, bootstrap_interval
from hyperact.trainer.off_policy.trajectories import Float64s, Trajectories, from_rewards

every_weighted = list(weighted_estimators().values())
Estimator = Callable[[Trajectories, Float64s, Controls], Estimate]


def random_log(num_episodes: int, seed: int, discount: float = 0.9) -> tuple[Trajectories, Float64s, Controls]:
    """Return episodes of one to five steps with weights and controls of a plausible spread."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 6, size=num_episodes)
    num_steps = int(lengths.sum())
    steps = Trajectories(lengths, random.normal(1.0, 1.0, size=num_steps), discount)
    controls = Controls(random.normal(size=num_steps), random.normal(size=num_steps))
    return steps, random.exponential(size=num_steps), controls


def part(steps: Trajectories, episodes: NDArray[np.int64], values: Float64s) -> Float64s:
    """Return the values of some episodes' steps."""
    return np.concatenate([values[steps.starts[i] : steps.lasts[i] + 1] for i in episodes])


class TestByHand:
    steps = from_rewards([[1.0, 2.0], [4.0]], discount=0.5)  # returns 2 and 4
    weights = np.array([0.5, 3.0, 1.0])

    def test_each_is_its_formula(self) -> None:
        """Two episodes, computed on paper."""
        assert estimators.logged_mean(self.steps).value == 3.0
        assert estimators.importance_sampling(self.steps, self.weights).value == (3 * 2 + 1 * 4) / 2
        assert estimators.self_normalised(self.steps, self.weights).value == (3 * 2 + 1 * 4) / 4
        assert estimators.per_decision(self.steps, self.weights).value == (0.5 * 1 + 3 * 0.5 * 2 + 1 * 4) / 2
        # Number 0: (0.5 * 1 + 1 * 4) / 1.5; number 1: 3 * 1 / (3 + 1), for the ended episode keeps its weight.
        expected = 4.5 / 1.5 + 3 / 4
        assert expected == estimators.self_normalised_per_decision(self.steps, self.weights).value

    def test_doubly_robust_adds_what_was_expected_and_takes_what_was_taken(self) -> None:
        """Per step: weighted reward - (w Q) + (w V), discounted."""
        controls = Controls(np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 2.0]))

        found = estimators.doubly_robust(self.steps, self.weights, controls).value

        assert ((0.5 - 1 + 0.5) + 0.5 * (6 - 2 + 1) + (4 - 3 + 2)) / 2 == found

    @pytest.mark.parametrize("estimator", every_weighted)
    def test_a_policy_that_acted_itself_is_worth_what_it_got(self, estimator: Estimator) -> None:
        """Weights of one, and nothing fitted: every estimator is the mean return."""
        steps, weights, _ = random_log(20, seed=0)
        nothing = Controls(np.zeros_like(weights), np.zeros_like(weights))

        found = estimator(steps, np.ones_like(weights), nothing)

        assert estimators.logged_mean(steps).value == pytest.approx(found.value)
        np.testing.assert_allclose(estimators.logged_mean(steps).influences, found.influences, atol=1e-12)

    def test_no_weight_at_all_is_no_division_by_zero(self) -> None:
        """A target that does nothing of what was logged has no value here; the support check says so."""
        for estimator in every_weighted:
            found = estimator(self.steps, np.zeros(3), Controls(np.zeros(3), np.zeros(3)))

            assert found.value == 0.0


class TestErrors:
    @pytest.mark.parametrize("estimator", every_weighted)
    def test_influences_are_what_leaving_an_episode_out_does(self, estimator: Estimator) -> None:
        """Without episode i the value moves by -influence / (N - 1), up to terms of 1 / N^2."""
        num = 400
        steps, weights, controls = random_log(num, seed=1)
        estimate = estimator(steps, weights, controls)
        moved = []
        for left_out in range(0, num, 10):
            others = np.delete(np.arange(num), left_out)
            fewer = Trajectories(steps.lengths[others], part(steps, others, steps.rewards), steps.discount)
            control = Controls(*(part(steps, others, values) for values in controls))
            moved.append(estimator(fewer, part(steps, others, weights), control).value - estimate.value)

        assert abs(estimate.influences.sum()) < 1e-9 * num
        # Influences are of order 1 to 10; the neglected terms are that squared over N^2.
        np.testing.assert_allclose(-estimate.influences[::10] / (num - 1), moved, atol=100 / num**2)

    @pytest.mark.parametrize("estimator", every_weighted)
    def test_the_normal_interval_is_the_bootstrap_s(self, estimator: Estimator) -> None:
        """With many episodes that carry weight both say the same, within the noise of 2000 resamples.

        A quantile of 2000 normal draws at 2.5 percent is uncertain by 0.06 standard deviations; five of those.
        """
        estimate = estimator(*random_log(2000, seed=2))
        interval = Interval(estimate.value, estimate.standard_error, 0.0, 0.95)

        low, high = bootstrap_interval(estimate.influences, estimate.value, 0.95, np.random.default_rng(3), 2000)

        assert interval.low == pytest.approx(low, abs=0.3 * interval.error)
        assert interval.high == pytest.approx(high, abs=0.3 * interval.error)

    def test_the_errors_of_episodes_and_bank_add_as_variances(self) -> None:
        """Two reasons that have nothing to do with each other."""
        interval = Interval(1.0, 3.0, 4.0, 0.95)

        assert interval.error == 5.0
        assert [1.0 - 9.8, 1.0 + 9.8] == pytest.approx([interval.low, interval.high], rel=1e-3)


@cache
def load_obp() -> Any:
    """Return the open bandit pipeline. What it warns of is its own matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("obp.dataset", "obp.ope"):
            importlib.import_module(name)
        return importlib.import_module("obp")


class BanditCase(NamedTuple):
    """Its feedback, a policy to evaluate [N, A], fitted rewards [N, A], and the same in our form."""

    feedback: dict[str, Any]
    policy: Float64s
    fitted: Float64s
    log: tuple[Trajectories, Float64s, Controls]


@cache
def draw_bandit(num_actions: int, reward_type: str) -> BanditCase:
    """Draw from one of its synthetic bandits."""
    obp, num_rounds = load_obp(), 3000
    dataset = obp.dataset.SyntheticBanditDataset(
        n_actions=num_actions,
        dim_context=4,
        reward_type=reward_type,
        reward_function=(
            obp.dataset.logistic_reward_function if reward_type == "binary" else obp.dataset.linear_reward_function
        ),
        behavior_policy_function=obp.dataset.linear_behavior_policy,
        random_state=num_actions,
    )
    feedback = dataset.obtain_batch_bandit_feedback(n_rounds=num_rounds)
    random = np.random.default_rng(num_actions)
    policy = random.dirichlet(np.ones(num_actions), size=num_rounds)
    fitted = feedback["expected_reward"] + random.normal(0, 0.3, size=policy.shape)
    rows = np.arange(num_rounds)
    weights = policy[rows, feedback["action"]] / feedback["pscore"]
    controls = Controls(weights * fitted[rows, feedback["action"]], (policy * fitted).sum(axis=1))
    steps = Trajectories(np.ones(num_rounds, np.int64), np.asarray(feedback["reward"], np.float64))
    return BanditCase(feedback, policy, fitted, (steps, weights, controls))


@pytest.mark.parametrize(("num_actions", "reward_type"), [(2, "binary"), (10, "binary"), (10, "continuous")])
class TestAgainstOpenBanditPipeline:
    """On its synthetic bandits, for the five estimators that both have."""

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            ("InverseProbabilityWeighting", lambda log: estimators.importance_sampling(*log[:2])),
            ("InverseProbabilityWeighting", lambda log: estimators.per_decision(*log[:2])),
            ("SelfNormalizedInverseProbabilityWeighting", lambda log: estimators.self_normalised(*log[:2])),
            (
                "SelfNormalizedInverseProbabilityWeighting",
                lambda log: estimators.self_normalised_per_decision(*log[:2]),
            ),
            ("DirectMethod", lambda log: estimators.direct(log[0], log[2])),
            ("DoublyRobust", lambda log: estimators.doubly_robust(*log)),
            ("SelfNormalizedDoublyRobust", lambda log: estimators.self_normalised_doubly_robust(*log)),
        ],
    )
    def test_both_give_one_number(
        self, num_actions: int, reward_type: str, theirs: str, ours: Callable[[Any], Estimate]
    ) -> None:
        """To 1e-6, however the rewards are distributed; so nothing of ours is peculiar to us."""
        feedback, policy, fitted, log = draw_bandit(num_actions, reward_type)

        expected = getattr(load_obp().ope, theirs)().estimate_policy_value(
            reward=feedback["reward"],
            action=feedback["action"],
            pscore=feedback["pscore"],
            position=None,
            action_dist=policy[:, :, np.newaxis],
            estimated_rewards_by_reg_model=fitted[:, :, np.newaxis],
        )

        assert expected == pytest.approx(ours(log).value, abs=1e-6)
