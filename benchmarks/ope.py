"""Whether logged propensities are frequencies, and whether off-policy estimates hold the truth.

Three tables, each also as a file in benchmarks/results:

- propensities: a million indices per reference distribution, derived as the service derives them; chi-square of logged
  propensities against how often each action is best (tests/calibration.py says how the bank's error enters).
- estimators: many pairs of policies on a small stochastic process and on DeepSea; bias, error, coverage of the 95
  percent intervals, refusals. The truth is exact for each of 40 000 indices, or played with 20 000 on DeepSea.
- bandits: the largest difference from the open bandit pipeline on its synthetic bandits.

    PYTHONPATH=tests nice python benchmarks/ope.py propensities
    PYTHONPATH=tests nice python benchmarks/ope.py estimators --pairs 100
    PYTHONPATH=tests nice python benchmarks/ope.py bandits
"""

import argparse
import csv
import importlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration import calibrate, count_actions, derive_indices, draw_question, logged_propensities
from hyperact.clients.deep_sea import DeepSea
from hyperact.trainer.config import preset
from hyperact.trainer.environments import spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.n_step import NStepAssembler
from hyperact.trainer.off_policy import estimators
from hyperact.trainer.off_policy.episodes import Episode
from hyperact.trainer.off_policy.estimators import Controls
from hyperact.trainer.off_policy.evaluation import Evaluation, EvaluationOptions, evaluate
from hyperact.trainer.off_policy.policies import Policy
from hyperact.trainer.off_policy.trajectories import Trajectories
from hyperact.v1.indices import COORDINATE, GAUSSIAN, ONE_HOT, UNIT_SPHERE, Float32s, index_bank
from hyperact.v1.model_pb2 import IndexSchedule, ModelSpec, ReferenceDistribution
from hyperact.v1.probabilities import Reference, each_probability, monte_carlo_error
from hyperact.v1.steps import StepKey
from hyperact.v1.transitions import Transition
from toy_mdp import ToyMdp, draw_coefficients, draw_indices, make_policy, policy_spec

results = Path(__file__).parent / "results"
Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["propensities", "estimators", "bandits"])
    parser.add_argument("--draws", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.table == "propensities":
        write("propensities", list(propensities(arguments.draws)))
    elif arguments.table == "estimators":
        write("off_policy", list(all_estimators(arguments.pairs, arguments.episodes)))
    else:
        write("bandits", bandits())


def write(name: str, rows: Rows) -> None:
    """Save rows, and show them as docs/trust.md has them."""
    results.mkdir(exist_ok=True)
    with (results / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")


# Propensities.


def propensities(num_draws: int, index_dim: int = 4) -> Iterator[dict[str, Any]]:
    for distribution in (GAUSSIAN, UNIT_SPHERE, ONE_HOT, COORDINATE):
        indices = derive_indices(num_draws, index_dim, distribution)
        for num_actions in (2, 3, 18):
            for is_masked in (False, True):
                question = draw_question(distribution, num_actions, index_dim, is_masked, seed=2)
                found = calibrate(question, count_actions(question, indices))
                error = monte_carlo_error(logged_propensities(question)).max() if found.is_counted else 0.0
                yield {
                    "distribution": ReferenceDistribution.Name(distribution)
                    .removeprefix("REFERENCE_DISTRIBUTION_")
                    .lower(),
                    "actions": num_actions,
                    "allowed": int(question.mask.sum()),
                    "propensity": "counted" if found.is_counted else "exact",
                    "chi-square": f"{found.statistic:.2f}",
                    "degrees": found.degrees,
                    "p": f"{found.p_value:.3f}",
                    "largest difference": f"{found.largest_difference:.4f}",
                    "its standard error": f"{np.hypot(error, 0.5 / num_draws**0.5):.4f}",
                }


# Estimators.


@dataclass
class Score:
    """How one estimator did over many pairs of policies."""

    errors: list[float] = field(default_factory=list)
    stated: list[float] = field(default_factory=list)
    bank: list[float] = field(default_factory=list)
    is_covered: list[bool] = field(default_factory=list)


def all_estimators(num_pairs: int, num_episodes: int) -> Iterator[dict[str, Any]]:
    schedules = {"held": IndexSchedule.INDEX_SCHEDULE_EPISODE, "geometric": IndexSchedule.INDEX_SCHEDULE_GEOMETRIC}
    for name, schedule in schedules.items():
        spec = policy_spec(index_schedule=schedule)
        yield from table(f"stochastic, {name}", partial(mdp_case, spec, num_episodes), num_pairs)
    yield from table("DeepSea-5", partial(deep_sea_case, num_episodes), num_pairs)


def table(name: str, case: Callable[[int], tuple[Evaluation, float]], num_pairs: int) -> Rows:
    """Return one row per estimator over many cases."""
    scores: dict[str, Score] = defaultdict(Score)
    sizes, num_refused = [], 0
    for pair in range(num_pairs):
        found, truth = case(pair)
        if found.refusals or found.support is None:
            num_refused += 1
            continue
        sizes.append(found.support.effective_size)
        for row in found.rows:
            score, interval = scores[row.estimator], row.interval
            score.errors.append(interval.value - truth)
            score.stated.append(interval.error)
            score.bank.append(interval.bank_error)
            score.is_covered.append(interval.low <= truth <= interval.high)
    return [
        {
            "environment": name,
            "estimator": estimator,
            "pairs": len(score.errors),
            "refused": num_refused,
            "effective size": f"{np.mean(sizes):.0f}",
            "bias": f"{np.mean(score.errors):+.4f}",
            "root mean square error": f"{root_mean_square(score.errors):.4f}",
            "stated error": f"{root_mean_square(score.stated):.4f}" if estimator != "direct" else "-",
            "of it the bank's": f"{root_mean_square(score.bank):.4f}" if estimator != "direct" else "-",
            "coverage of 95 %": f"{np.mean(score.is_covered):.2f}" if estimator != "direct" else "-",
        }
        for estimator, score in scores.items()
        if estimator != "logged mean"
    ]


def root_mean_square(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def mdp_case(spec: ModelSpec, num_episodes: int, pair: int) -> tuple[Evaluation, float]:
    mdp = ToyMdp(horizon=5, seed=pair)
    first = draw_coefficients(10_000 + pair)
    second = draw_coefficients(20_000 + pair, near=first)
    episodes = mdp.play(first, spec, num_episodes, seed=pair)
    policies = {"1": make_policy(first, spec, "1")}
    found = evaluate(episodes, make_policy(second, spec, "2"), policies, EvaluationOptions())
    return found, mdp.value(second, spec)


def deep_sea_case(num_episodes: int, seed: int, size: int = 5) -> tuple[Evaluation, float]:
    """Evaluate a candidate from what the version before it did.

    The version is what a learner made of 100 uniformly random episodes, the candidate what it makes of 20 of its own.
    """
    environment = DeepSea(size, mapping_seed=seed)
    learner = Learner(spec_of(environment), preset(spec_of(environment)), seed)
    replay, n_step = learner.make_replay(), NStepAssembler(1, learner.spec.discount)
    random = np.random.default_rng(seed)
    tables: list[Float32s] = []
    for deployment, number in enumerate((100, 20)):
        played = play(environment, tables[-1] if deployment else None, learner.spec, number, random)
        transitions = [step for episode in played for step in episode.steps]
        replay.add(n_step.push(transitions))
        for _ in range(round(0.8 * len(transitions))):
            learner.update(replay)
        tables.append(learner.coefficients(every_cell(size)).reshape(size, size, 2, -1))
    serving, candidate = (Policy(str(1 + k), learner.spec, by_cell(cells)) for k, cells in enumerate(tables))
    episodes = play(environment, tables[0], learner.spec, num_episodes, random)
    found = evaluate(episodes, candidate, {"1": serving}, EvaluationOptions())
    truth = play(environment, tables[1], learner.spec, 20_000, random)
    return found, float(np.mean([sum(step.reward for step in episode.steps) for episode in truth]))


def every_cell(size: int) -> NDArray[np.uint8]:
    return np.eye(size * size, dtype=np.uint8).reshape(-1, size, size)


def by_cell(cells: Float32s) -> Callable[[NDArray[Any]], Float32s]:
    """Return a graph that knows the coefficients of every cell; the blank observation after the end gets the first."""
    flat = cells.reshape(-1, *cells.shape[2:])
    return lambda observations: flat[observations.reshape(len(observations), -1).argmax(axis=1)]


def play(
    environment: DeepSea, cells: Float32s | None, spec: ModelSpec, num_episodes: int, random: np.random.Generator
) -> list[Episode]:
    """Play by the coefficients of each cell [N, N, A, M + 1], or uniformly without them."""
    chances = np.full((environment.size, environment.size, 2), 0.5)
    if cells is not None:
        reference = Reference(spec.reference_distribution, index_bank(spec.index_dim, spec.reference_distribution))
        chances = each_probability(cells.reshape(-1, *cells.shape[2:]), None, reference).reshape(chances.shape)
    episodes = []
    for number in range(num_episodes):
        index = draw_indices(random, 1, spec)[0]
        steps: list[Transition] = []
        observation, is_over = environment.reset()[0], False
        while not is_over:
            row, column = divmod(int(observation.argmax()), environment.size)
            if cells is None:
                action = int(random.integers(2))
            else:
                action = int((cells[row, column, :, 0] + cells[row, column, :, 1:] @ index).argmax())
            after, reward, is_over, _, _ = environment.step(action)
            steps.append(
                Transition(
                    key=StepKey("default", "agent", "run", number, len(steps)),
                    observation=observation,
                    action=action,
                    reward=reward,
                    next_observation=after,
                    terminated=is_over,
                    truncated=False,
                    propensity=float(chances[row, column, action]),
                    version="" if cells is None else "1",
                    deployment=0 if cells is None else 1,
                    action_mask=b"",
                    next_action_mask=b"",
                )
            )
            observation = after
        episodes.append(Episode(tuple(steps)))
    return episodes


# Bandits.


def bandits(num_rounds: int = 20_000) -> Rows:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data, theirs = importlib.import_module("obp.dataset"), importlib.import_module("obp.ope")
    pairs: dict[str, tuple[str, Callable[..., estimators.Estimate]]] = {
        "importance sampling": ("InverseProbabilityWeighting", lambda s, w, _: estimators.importance_sampling(s, w)),
        "self-normalised": (
            "SelfNormalizedInverseProbabilityWeighting",
            lambda s, w, _: estimators.self_normalised(s, w),
        ),
        "direct": ("DirectMethod", lambda s, _, c: estimators.direct(s, c)),
        "doubly robust": ("DoublyRobust", estimators.doubly_robust),
        "self-normalised doubly robust": ("SelfNormalizedDoublyRobust", estimators.self_normalised_doubly_robust),
    }
    largest: dict[str, float] = defaultdict(float)
    for seed in range(10):
        dataset = data.SyntheticBanditDataset(
            n_actions=10,
            dim_context=5,
            reward_type="binary",
            reward_function=data.logistic_reward_function,
            behavior_policy_function=data.linear_behavior_policy,
            random_state=seed,
        )
        feedback = dataset.obtain_batch_bandit_feedback(n_rounds=num_rounds)
        random = np.random.default_rng(seed)
        policy = random.dirichlet(np.ones(10), size=num_rounds)
        fitted = feedback["expected_reward"] + random.normal(0, 0.3, size=policy.shape)
        rows = np.arange(num_rounds)
        weights = policy[rows, feedback["action"]] / feedback["pscore"]
        controls = Controls(weights * fitted[rows, feedback["action"]], (policy * fitted).sum(axis=1))
        steps = Trajectories(np.ones(num_rounds, np.int64), feedback["reward"].astype(np.float64))
        for name, (their_name, ours) in pairs.items():
            expected = getattr(theirs, their_name)().estimate_policy_value(
                reward=feedback["reward"],
                action=feedback["action"],
                pscore=feedback["pscore"],
                position=None,
                action_dist=policy[:, :, np.newaxis],
                estimated_rewards_by_reg_model=fitted[:, :, np.newaxis],
            )
            largest[name] = max(largest[name], abs(expected - ours(steps, weights, controls).value))
    return [
        {"estimator": name, "theirs": pairs[name][0], "largest difference": f"{value:.1e}"}
        for name, value in largest.items()
    ]


if __name__ == "__main__":
    main()
