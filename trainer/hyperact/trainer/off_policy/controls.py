"""The control variates of the doubly robust estimators: what was fitted, weighted as the rewards are.

With C_k(t) the probability that component k does what was done from its segment's first step to step t, P_before the
target's probability of all segments before, and P_logged that of what decided,

    (w Q)_t = P_before mean over k of C_k(t)     Q_k(s_t, a_t)                             / P_logged(a_0 .. a_t)
    (w V)_t = P_before mean over k of C_k(t - 1) sum over a of pi_k(a | s_t) Q_k(s_t, a)    / P_logged(a_0 .. a_t-1)

Given the past, the expectation of the first under what decided is the second, for each component by itself. So any
number of components will do, and the more there are the more they take of the variance. Components are the bank's
indices: where a group of those is left out to measure the bank's error, it is left out here too.

Each episode's values are fitted without it: on the other half of the episodes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.off_policy.components import Components
from hyperact.trainer.off_policy.episodes import Situations
from hyperact.trainer.off_policy.estimators import Controls
from hyperact.trainer.off_policy.fitted import ActionValues, FitConfig, Transitions, fit_network, fit_table
from hyperact.trainer.off_policy.trajectories import Float64s, Trajectories
from hyperact.trainer.off_policy.weights import WeighedEpisodes
from hyperact.v1.joint_probabilities import stretches
from hyperact.v1.model_pb2 import ModelSpec

num_folds = 2


@dataclass(frozen=True)
class Fitted:
    """What was fitted, before it is weighted.

    Attributes:
        taken: float64 [S, 1 + G], mean over components of C_k(t) Q_k(s_t, a_t).
        expected: float64 [S, 1 + G], mean over components of C_k(t - 1) U_k(s_t).
        log_before: of each episode, log P_before of each step: [T, 1 + G].
    """

    taken: Float64s
    expected: Float64s
    log_before: list[Float64s]


def is_tabular(situations: Situations) -> bool:
    """Tell whether situations come back often enough to be told apart one by one: four times in the mean."""
    return 4 * len(situations.observations) <= len(situations.here)


def fit(
    weighed: WeighedEpisodes,
    steps: Trajectories,
    actions: NDArray[np.int64],
    situations: Situations,
    components: Components,
    spec: ModelSpec,
    config: FitConfig,
) -> Fitted:
    """Fit the components' values and evaluate them along the episodes. `actions` are those of all steps: [S]."""
    here = np.concatenate([situations.here[rows] for rows in weighed.rows])
    after = np.concatenate([situations.after[rows] for rows in weighed.rows])
    values = np.empty((len(here), *components.shares.shape[1:]))
    folds = steps.episodes % num_folds
    for fold in range(num_folds):
        rows = folds != fold if steps.num_episodes >= num_folds else folds == fold
        data = Transitions(here[rows], actions[rows], steps.rewards[rows], after[rows])
        if (folds == fold).any():
            values[folds == fold] = _fit_one(data, steps, situations, components, spec, config)(here[folds == fold])
    return _along(weighed, steps, values, components.shares[here], actions)


def weighted(fitted: Fitted, weighed: WeighedEpisodes, column: int) -> Controls:
    """Return the control variates under the weights of one column (0: the whole bank)."""
    before = np.concatenate([log[:, column] for log in fitted.log_before])
    logged = [log[:, column] for log in weighed.log_logged]
    until = np.concatenate(logged)
    until_before = np.concatenate([np.concatenate([[0.0], log[:-1]]) for log in logged])
    return Controls(
        fitted.taken[:, column] * np.exp(before - until), fitted.expected[:, column] * np.exp(before - until_before)
    )


def _fit_one(
    data: Transitions,
    steps: Trajectories,
    situations: Situations,
    components: Components,
    spec: ModelSpec,
    config: FitConfig,
) -> ActionValues:
    if is_tabular(situations):
        return fit_table(data, components, steps.discount, steps.max_length)
    return fit_network(data, situations.observations, components, steps.discount, spec, config)


def _along(
    weighed: WeighedEpisodes,
    steps: Trajectories,
    values: Float64s,
    shares: NDArray[np.float32],
    actions: NDArray[np.int64],
) -> Fitted:
    """Follow each component along each episode. `values` and `shares`: [S, K, A]."""
    rows = np.arange(len(actions))
    done, of_done = shares[rows, :, actions].astype(np.float64), values[rows, :, actions]
    of_next = np.einsum("ska,ska->sk", shares, values)
    num_columns = weighed.log_target[0].shape[1]
    taken, expected = np.empty((len(actions), num_columns)), np.empty((len(actions), num_columns))
    log_before = []
    for start, segments, log_target in zip(steps.starts, weighed.target_segments, weighed.log_target, strict=True):
        before = np.zeros_like(log_target)
        for stretch in stretches(segments):
            if stretch.start:
                before[stretch] = log_target[stretch.start - 1]
            here = slice(start + stretch.start, start + stretch.stop)
            held = np.cumprod(done[here], axis=0)
            taken[here] = _means(held * of_done[here], num_columns)
            held_before = np.concatenate([np.ones_like(held[:1]), held[:-1]])
            expected[here] = _means(held_before * of_next[here], num_columns)
        log_before.append(before)
    return Fitted(taken, expected, log_before)


def _means(values: Float64s, num_columns: int) -> Float64s:
    """Return the mean over components [T, K], and the means without each group of them: [T, 1 + G].

    Components that are no sample of the bank, or too few to be parted, are not left out.
    """
    num_steps, num_components = values.shape
    num_groups = num_columns - 1
    whole = values.mean(axis=1, keepdims=True)
    if not num_groups or num_components % num_groups or num_components == num_groups:
        return np.repeat(whole, num_columns, axis=1)
    of_group = values.reshape(num_steps, -1, num_groups).mean(axis=1)
    return np.concatenate([whole, (num_groups * whole - of_group) / (num_groups - 1)], axis=1)
