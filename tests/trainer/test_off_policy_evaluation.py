"""Off-policy evaluation as a whole: true values, weights, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from hyperact.trainer.off_policy import controls
from hyperact.trainer.off_policy.components import make_components
from hyperact.trainer.off_policy.episodes import Episode, EpisodeCollector, find_situations
from hyperact.trainer.off_policy.evaluation import Evaluation, EvaluationOptions, evaluate, weighted_estimators
from hyperact.trainer.off_policy.fitted import FitConfig
from hyperact.trainer.off_policy.report import evaluation_figure, evaluation_table, verdict
from hyperact.trainer.off_policy.trajectories import Trajectories
from hyperact.trainer.off_policy.weights import weigh
from hyperact.v1.indices import GAUSSIAN, ONE_HOT, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.model_pb2 import GraphKind, IndexSchedule, ModelSpec, ReferenceDistribution
from toy_mdp import ToyMdp, draw_coefficients, make_policy, policy_spec
from toy_trainer import transition

EPISODE, GEOMETRIC, STEP = (
    IndexSchedule.INDEX_SCHEDULE_EPISODE,
    IndexSchedule.INDEX_SCHEDULE_GEOMETRIC,
    IndexSchedule.INDEX_SCHEDULE_STEP,
)
mdp = ToyMdp()
acting = draw_coefficients(1)
candidate = draw_coefficients(2, near=acting)
far = draw_coefficients(3, near=acting, distance=30.0)


def judge(
    episodes: list[Episode],
    coefficients: Float32s,
    spec: ModelSpec,
    by: Float32s = acting,
    num_indices: int = 1024,
) -> Evaluation:
    """Evaluate a candidate from what version 1 did."""
    policies = {"1": make_policy(by, spec, "1", num_indices)}
    return evaluate(
        episodes, make_policy(coefficients, spec, "2", num_indices), policies, EvaluationOptions(max_components=256)
    )


def play_exploring(spec: ModelSpec, random: np.random.Generator) -> float:
    """Return what an episode of the candidate earned that took half of its actions at random."""
    index, state, earned = random.normal(size=spec.index_dim), 0, 0.0
    for _ in range(mdp.horizon):
        values = candidate[state, :, 0] + candidate[state, :, 1:] @ index
        is_random = random.random() < spec.acting_rule.epsilon
        action = int(random.integers(3) if is_random else values.argmax())
        earned += mdp.rewards[state, action]
        state = int(random.choice(len(candidate), p=mdp.moves[state, action]))
    return float(earned)


class TestTruth:
    @pytest.mark.parametrize("schedule", [EPISODE, GEOMETRIC, STEP])
    @pytest.mark.parametrize("distribution", [GAUSSIAN, UNIT_SPHERE, ONE_HOT])
    def test_the_true_value_is_within_the_interval(
        self, distribution: "ReferenceDistribution.ValueType", schedule: "IndexSchedule.ValueType"
    ) -> None:
        """However indices are drawn and held, on a stochastic process with noisy rewards.

        Four standard errors, for 9 times 6 estimates are compared; the truth's own error over 40 000 indices is below
        0.01. Of an ensemble only what its members do is ever logged: the candidate is made of three of its four.
        """
        spec = policy_spec(reference_distribution=distribution, index_schedule=schedule)
        target = acting[:, :, [0, 2, 3, 4, 4]] if distribution == ONE_HOT else candidate
        found = judge(mdp.play(acting, spec, 1500, seed=4), target, spec)
        truth = mdp.value(target, spec)

        assert [] == found.refusals
        for name in weighted_estimators():
            interval = found.row(name).interval
            assert abs(interval.value - truth) < 4 * interval.error + 0.02, name

    def test_a_graph_of_values_is_weighed_like_one_of_coefficients(self) -> None:
        """A head that is not affine in the index is as good a target, over the bank that it declares."""
        spec = policy_spec()
        episodes = mdp.play(acting, spec, 500, seed=12)
        bank = index_bank(spec.index_dim, GAUSSIAN)
        values = candidate[:, :, :1] + candidate[:, :, 1:] @ bank.T
        indexed = replace(make_policy(values, spec, "2", 1024), graph_kind=GraphKind.GRAPH_KIND_INDEXED, num_logged=256)
        affine = make_policy(candidate, spec, "2")
        policies = {"1": make_policy(acting, spec, "1")}

        expected = evaluate(episodes, affine, policies, EvaluationOptions(max_components=64))
        found = evaluate(episodes, indexed, policies, EvaluationOptions(max_components=64))

        for name in weighted_estimators():
            one, other = expected.row(name).interval, found.row(name).interval
            # One of 1024 indices may fall on the other side of a tie when the product rounds otherwise.
            assert one.value == pytest.approx(other.value, abs=0.1 * one.error)
            assert one.error == pytest.approx(other.error, rel=0.05)

    def test_exploration_is_weighed_too(self) -> None:
        """What a rule left to chance was possible under any index."""
        spec = policy_spec()
        exploring = ModelSpec()
        exploring.CopyFrom(spec)
        exploring.acting_rule.epsilon = 0.5
        uniformly = mdp.play_uniformly(3000, seed=13)

        found = evaluate(uniformly, make_policy(candidate, exploring, "2"), {}, EvaluationOptions(max_components=64))

        random = np.random.default_rng(14)
        returns = [play_exploring(exploring, random) for _ in range(4000)]
        truth, error = float(np.mean(returns)), float(np.std(returns) / np.sqrt(4000))
        interval = found.row("self-normalised").interval
        assert abs(interval.value - truth) < 4 * (interval.error + error)

    def test_intervals_cover_as_often_as_they_say(self) -> None:
        """Over 20 pairs of policies the 95 percent intervals of all six estimators hold the truth.

        The number of misses of one estimator is binomial(20, 0.05): more than 5 have a probability of 0.0003. The bank
        is the same for all, the policies are not.
        """
        spec = policy_spec()
        misses = dict.fromkeys(weighted_estimators(), 0)
        num_stood = 0
        for pair in range(20):
            first = draw_coefficients(1000 + pair)
            second = draw_coefficients(2000 + pair, near=first, distance=0.2)
            episodes = mdp.play(first, spec, 250, seed=pair)
            policies = {"1": make_policy(first, spec, "1")}
            found = evaluate(episodes, make_policy(second, spec, "2"), policies, EvaluationOptions(max_components=128))
            if found.refusals:
                continue
            num_stood += 1
            truth = mdp.value(second, spec, num_indices=10_000)
            for name in misses:
                interval = found.row(name).interval
                misses[name] += not interval.low <= truth <= interval.high

        assert num_stood >= 15
        assert max(misses.values()) <= 5, misses

    def test_products_of_propensities_would_be_wrong(self) -> None:
        """The same log, read as if every step had an index of its own: far outside of its own interval.

        Even the weights themselves tell: their mean is not 1, and they are refused.
        """
        spec, first = policy_spec(), draw_coefficients(104)
        second = draw_coefficients(204, near=first, distance=0.6)
        episodes = mdp.play(first, spec, 2000, seed=4)
        wrong = [
            Episode(tuple(replace(step, segment=step.key.number) for step in episode.steps)) for episode in episodes
        ]
        every_step = policy_spec(index_schedule=STEP)

        right = judge(episodes, second, spec, first)
        product = judge(wrong, second, every_step, first)

        truth = mdp.value(second, spec)
        for found, is_right in ((right, True), (product, False)):
            interval = found.row("self-normalised").interval
            assert is_right == (abs(interval.value - truth) < 4 * interval.error)
            assert is_right == (not found.refusals)

    def test_the_fallback_s_episodes_can_be_weighed(self) -> None:
        """Uniformly random actions have exact propensities and no index."""
        spec, short = policy_spec(), ToyMdp(horizon=3)
        found = evaluate(short.play_uniformly(4000, seed=6), make_policy(candidate, spec, "2"), {}, EvaluationOptions())

        interval = found.row("per decision").interval
        assert [] == found.refusals
        assert abs(interval.value - short.value(candidate, spec)) < 4 * interval.error + 0.02

    def test_several_versions_are_weighed_as_their_mixture(self) -> None:
        """What the target did itself keeps the weights of what others did small: none is above 1 / its share.

        Without those the log says too little (see the refusals below, which look from the other side).
        """
        spec = policy_spec()
        own, other = make_policy(candidate, spec, "2"), make_policy(far, spec, "1")
        episodes = mdp.play(far, spec, 600, seed=16) + mdp.play(candidate, spec, 200, seed=17, version="2")

        found = evaluate(episodes, own, {"1": other, "2": own}, EvaluationOptions(max_components=256))

        assert [] == found.refusals
        assert found.weights.max() <= 800 / 200 + 1e-9
        truth = mdp.value(candidate, spec)
        for name in weighted_estimators():
            interval = found.row(name).interval
            assert abs(interval.value - truth) < 4 * interval.error + 0.02, name

    def test_a_version_s_own_episodes_count_as_they_are(self) -> None:
        """On-policy every weighted estimator without fitted values is the mean return, to the last digit."""
        spec = policy_spec()
        itself = make_policy(acting, spec, "1")

        found = evaluate(mdp.play(acting, spec, 100, seed=7), itself, {"1": itself}, EvaluationOptions())

        assert found.support is not None
        assert found.support.effective_size == pytest.approx(100)
        expected = found.row("logged mean").interval.value
        for name in ("importance sampling", "self-normalised", "per decision", "self-normalised per decision"):
            assert expected == pytest.approx(found.row(name).interval.value)

    def test_what_was_never_seen_is_not_excluded_with_certainty(self) -> None:
        """What neither the log nor the bank holds may be there: the interval is as wide as one more of each."""
        spec = policy_spec()
        episodes = mdp.play(acting, spec, 99, seed=18)
        always = np.ptp([sum(step.reward for step in episode.steps) for episode in episodes])
        itself = make_policy(acting, spec, "1")

        interval = evaluate(episodes, itself, {"1": itself}, EvaluationOptions()).row("per decision").interval

        assert interval.episode_error >= always / 100
        assert interval.bank_error == pytest.approx(always / 1025)

    def test_more_indices_lessen_the_bank_s_error(self) -> None:
        """Sixteen times as many: about a quarter of it; an error from 16 groups is uncertain by 18 percent."""
        spec = policy_spec()
        episodes = mdp.play(acting, spec, 300, seed=8)

        few = judge(episodes, candidate, spec).row("per decision").interval.bank_error
        many = judge(episodes, candidate, spec, num_indices=16_384).row("per decision").interval.bank_error

        assert many < few / 2


class TestControls:
    def test_any_fitted_value_leaves_the_estimate_where_it_is(self) -> None:
        """What is taken and what is expected have one mean, here for a fit that is as wrong as can be."""
        spec = policy_spec()
        episodes = mdp.play(acting, spec, 3000, seed=9)
        target = make_policy(candidate, spec, "2")
        situations = find_situations(episodes, 3)
        weighed = weigh(episodes, situations, target, {"1": make_policy(acting, spec, "1")}, 16)
        rewards = np.random.default_rng(10).normal(3.0, 10.0, size=len(situations.here))
        steps = Trajectories(np.full(3000, mdp.horizon), rewards)
        actions = np.concatenate([episode.actions for episode in episodes])
        coefficients = target.coefficients(situations.observations, np.arange(len(situations.observations)))
        components = make_components(coefficients, None, spec, target.reference, 64)

        fitted = controls.fit(weighed, steps, actions, situations, components, spec, FitConfig())
        control = controls.weighted(fitted, weighed, 0)
        difference = steps.per_episode(control.expected - control.taken)

        # Four standard errors over episodes, and as much again for the 64 components' and the bank's.
        assert abs(difference.mean()) < 8 * difference.std() / np.sqrt(3000)
        assert control.expected.std() > 0.5


class TestRefusals:
    def test_a_policy_that_the_log_does_not_hold_is_refused(self) -> None:
        """No number is given for what was never tried."""
        spec = policy_spec()
        found = judge(mdp.play(acting, spec, 300, seed=11), far, spec)

        assert found.refusals
        assert any("effective" in reason or "worth" in reason or "mean weight" in reason for reason in found.refusals)

    def test_a_log_that_the_registry_does_not_explain_is_refused(self) -> None:
        """Propensities of another version mean that the weights would be of another version."""
        spec = policy_spec()
        episodes = mdp.play(draw_coefficients(50), spec, 300, seed=12)

        assert any("not those of the registered" in reason for reason in judge(episodes, candidate, spec).refusals)

    @pytest.mark.parametrize(
        ("schedule", "policies", "reason"),
        [
            (EPISODE, False, "version 1, which decided them, is not to be had"),
            (STEP, True, ""),
            (STEP, False, ""),
        ],
    )
    def test_joint_probabilities_need_the_version_that_decided(
        self, schedule: "IndexSchedule.ValueType", policies: bool, reason: str
    ) -> None:
        """Held indices cannot be weighed by propensities alone; indices of every step can."""
        spec = policy_spec(index_schedule=schedule)
        episodes = mdp.play(acting, spec, 100, seed=13)
        known = {"1": make_policy(acting, spec, "1")} if policies else {}

        found = evaluate(episodes, make_policy(candidate, spec, "2"), known, EvaluationOptions())

        assert ({reason: 100} if reason else {}) == found.left_out
        assert (found.support is None) == bool(reason)

    def test_segments_that_the_log_does_not_tell_are_not_guessed(self) -> None:
        """A target that draws by chance within the episode needs to know when it would have."""
        episodes = mdp.play(acting, policy_spec(), 10, seed=14)
        target = make_policy(candidate, policy_spec(index_schedule=GEOMETRIC), "2")

        found = evaluate(episodes, target, {"1": make_policy(acting, policy_spec(), "1")}, EvaluationOptions())

        assert {"the log does not tell when the target would have drawn its indices": 10} == found.left_out

    def test_an_empty_log_says_so(self) -> None:
        """No episode, no estimate, one reason."""
        found = evaluate([], make_policy(candidate, policy_spec(), "2"), {}, EvaluationOptions())

        assert ["the log holds no whole episode"] == found.refusals
        assert evaluation_table(found).row_count == 0


class TestReport:
    def test_what_stands_is_shown_and_what_is_refused_is_not(self) -> None:
        """A refused number is not printed, so nobody copies it."""
        spec = policy_spec()
        good = judge(mdp.play(acting, spec, 800, seed=15), candidate, spec)
        bad = judge(mdp.play(acting, spec, 300, seed=11), far, spec)

        shown = [list(column.cells) for column in evaluation_table(good).columns]
        hidden = [list(column.cells) for column in evaluation_table(bad).columns]

        assert 8 == len(shown[0])
        assert 7 == shown[5].count("stands")
        assert 6 == hidden[5].count("refused") == hidden[1].count("-")
        assert verdict(good).startswith("version 2 is worth ")
        assert 2 == len(evaluation_figure(good).axes)


class TestEpisodes:
    def test_an_episode_is_whole_in_whatever_order_it_comes(self) -> None:
        """Partitions are read one after the other; an episode that changed its worker comes in pieces."""
        steps = [transition(number, terminated=number == 2, episode=7) for number in range(3)]
        collector = EpisodeCollector(max_steps=100)

        collector.push([steps[2], steps[0]])
        assert [] == collector.episodes
        collector.push([steps[1]])

        assert [[0, 1, 2]] == [[step.key.number for step in episode.steps] for episode in collector.episodes]

    def test_the_newest_are_kept(self) -> None:
        """Memory is bounded by steps; an episode that is longer than that is kept alone."""
        collector = EpisodeCollector(max_steps=4)
        for episode in range(5):
            collector.push([transition(number, terminated=number == 1, episode=episode) for number in range(2)])

        assert [3, 4] == [episode.steps[0].key.episode for episode in collector.episodes]

    def test_equal_situations_are_one(self) -> None:
        """An observation under another mask is another situation."""
        steps = (transition(0), transition(1, terminated=True, mask=b"\x01\x00"))
        masked = replace(transition(1, terminated=True), action_mask=b"\x01\x00")

        plain = find_situations([Episode(steps), Episode(steps)], 2)
        other = find_situations([Episode((steps[0], masked))], 2)

        assert ([0, 1, 0, 1], [1, -1, 1, -1]) == (plain.here.tolist(), plain.after.tolist())
        assert plain.masks is None
        assert other.masks is not None
        assert ([0, 2], [1, -1]) == (other.here.tolist(), other.after.tolist())
