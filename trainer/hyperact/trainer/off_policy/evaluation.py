"""What a version is worth, by every estimator, with its interval or the reason why nothing can be said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hyperact.trainer.off_policy import controls, estimators
from hyperact.trainer.off_policy.components import make_components
from hyperact.trainer.off_policy.episodes import Episode, find_situations
from hyperact.trainer.off_policy.estimators import Controls, Estimate
from hyperact.trainer.off_policy.fitted import FitConfig
from hyperact.trainer.off_policy.intervals import Interval
from hyperact.trainer.off_policy.policies import Policies, Policy
from hyperact.trainer.off_policy.support import Support, SupportLimits, effective_size, largest_share, refusals
from hyperact.trainer.off_policy.trajectories import Float64s, Trajectories
from hyperact.trainer.off_policy.weights import WeighedEpisodes, weigh
from hyperact.v1.joint_probabilities import default_num_groups, jackknife_error

# A network has a head for each component; a table costs time and memory for each step, component and action.
num_network_components = 16
_max_table_values = 1 << 24
headline = "doubly robust"


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        discount: how much less a reward counts one step later in the return that is estimated.
        confidence: of the intervals.
        num_groups: parts of the bank that are left out in turn to measure its error.
        max_components: the most of the bank's indices whose values are fitted, if that is done by table.
    """

    discount: float = 1.0
    confidence: float = 0.95
    num_groups: int = default_num_groups
    max_components: int = 1024
    limits: SupportLimits = field(default_factory=SupportLimits)
    fit: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True, slots=True)
class Row:
    """One estimator's answer. No interval stands where none would be honest."""

    estimator: str
    interval: Interval
    has_interval: bool = True
    is_weighted: bool = True


@dataclass(frozen=True)
class Evaluation:
    """What was found out about a version.

    Attributes:
        rows: one per estimator.
        gain: the headline's value less the logged mean, both from the same episodes; None if nothing could be weighed.
        support: what is known of the weights; None likewise.
        refusals: why the weighted estimates mean nothing; empty if they stand.
        left_out: episodes that were not weighed, by reason.
        weights: the episodes' weights, for the plot.
    """

    version: str
    confidence: float
    num_steps: int
    rows: Sequence[Row]
    gain: Interval | None
    support: Support | None
    refusals: Sequence[str]
    left_out: dict[str, int] = field(default_factory=dict)
    weights: Float64s = field(default_factory=lambda: np.empty(0))

    def row(self, estimator: str) -> Row:
        """Return one estimator's answer; KeyError if there is none."""
        for row in self.rows:
            if row.estimator == estimator:
                return row
        raise KeyError(estimator)


def evaluate(episodes: Sequence[Episode], target: Policy, policies: Policies, options: EvaluationOptions) -> Evaluation:
    """Estimate the value of `target` from episodes that `policies` (by their versions) or the fallback decided."""
    if not episodes:
        return _nothing(target, options, {})
    situations = find_situations(episodes, target.spec.action.discrete.num_actions)
    weighed = weigh(episodes, situations, target, policies, options.num_groups)
    if not weighed.rows:
        return _nothing(target, options, weighed.left_out)
    rewards = np.array([step.reward for episode in episodes for step in episode.steps])
    actions = np.concatenate([episode.actions for episode in episodes])
    lengths = np.array([rows.stop - rows.start for rows in weighed.rows])
    kept = np.concatenate([np.arange(rows.start, rows.stop) for rows in weighed.rows])
    steps = Trajectories(lengths, rewards[kept], options.discount)
    coefficients = target.coefficients(situations.observations, np.arange(len(situations.observations)))
    num_components = num_network_components
    if controls.is_tabular(situations):
        affordable = _max_table_values // (len(steps.rewards) * coefficients.shape[1])
        num_components = min(
            options.max_components, max(num_components, affordable // options.num_groups * options.num_groups)
        )
    components = make_components(coefficients, situations.masks, target.spec, target.reference, num_components)
    fitted = controls.fit(weighed, steps, actions[kept], situations, components, target.spec, options.fit)
    return _conclude(target, steps, weighed, fitted, options)


def weighted_estimators() -> dict[str, Callable[[Trajectories, Float64s, Controls], Estimate]]:
    """Return the estimators that need weights, by their names in tables."""
    return {
        "importance sampling": lambda steps, weights, _: estimators.importance_sampling(steps, weights),
        "self-normalised": lambda steps, weights, _: estimators.self_normalised(steps, weights),
        "per decision": lambda steps, weights, _: estimators.per_decision(steps, weights),
        "self-normalised per decision": lambda steps, weights, _: estimators.self_normalised_per_decision(
            steps, weights
        ),
        "doubly robust": estimators.doubly_robust,
        "self-normalised doubly robust": estimators.self_normalised_doubly_robust,
    }


def _conclude(
    target: Policy,
    steps: Trajectories,
    weighed: WeighedEpisodes,
    fitted: controls.Fitted,
    options: EvaluationOptions,
) -> Evaluation:
    weights = weighed.weights
    columns = [(weights[:, column], controls.weighted(fitted, weighed, column)) for column in range(weights.shape[1])]
    support = _support(steps, weights, weighed.unexplained, options)
    reach = float(np.ptp(steps.returns))
    least_bank_error = reach / (target.num_indices + 1) if target.is_estimated else 0.0
    least = Interval(0.0, reach / (support.effective_size + 1), least_bank_error, options.confidence)
    least_logged = Interval(0.0, reach / (steps.num_episodes + 1), 0.0, options.confidence)
    logged = estimators.logged_mean(steps)
    rows = [Row("logged mean", _interval(logged, (), least_logged), is_weighted=False)]
    gain = None
    for name, estimator in weighted_estimators().items():
        estimate, *others = (estimator(steps, column, control) for column, control in columns)
        rows.append(Row(name, _interval(estimate, others, least)))
        if name == headline:
            gain = _interval(_difference(estimate, logged), [_difference(other, logged) for other in others], least)
    direct = _interval(estimators.direct(steps, columns[0][1]), (), least)
    rows.append(Row("direct", direct, has_interval=False, is_weighted=False))
    return Evaluation(
        version=target.version,
        confidence=options.confidence,
        num_steps=len(steps.rewards),
        rows=rows,
        gain=gain,
        support=support,
        refusals=refusals(support, options.limits),
        left_out=weighed.left_out,
        weights=weights[steps.lasts, 0],
    )


def _support(steps: Trajectories, weights: Float64s, unexplained: float, options: EvaluationOptions) -> Support:
    of_episode = weights[steps.lasts]
    means = [
        Estimate(float(column.mean()), column - column.mean()) for column in np.moveaxis(weights[steps.lasts], 1, 0)
    ]
    return Support(
        num_episodes=steps.num_episodes,
        effective_size=effective_size(of_episode[:, 0]),
        mean_weight=_interval(means[0], means[1:], Interval(0.0, 0.0, 0.0, options.confidence)),
        largest_share=largest_share(of_episode[:, 0]),
        unexplained=unexplained,
    )


def _interval(estimate: Estimate, others: Sequence[Estimate], least: Interval) -> Interval:
    """Return an estimate's interval, its errors and the least ones together, of the confidence of the latter."""
    bank_error = jackknife_error(np.array([other.value for other in others]))
    return Interval(
        estimate.value,
        float(np.hypot(estimate.standard_error, least.episode_error)),
        float(np.hypot(bank_error, least.bank_error)),
        least.confidence,
    )


def _difference(first: Estimate, second: Estimate) -> Estimate:
    return Estimate(first.value - second.value, first.influences - second.influences)


def _nothing(target: Policy, options: EvaluationOptions, left_out: dict[str, int]) -> Evaluation:
    reason = "no episode can be weighed" if left_out else "the log holds no whole episode"
    return Evaluation(target.version, options.confidence, 0, [], None, None, [reason], left_out)
