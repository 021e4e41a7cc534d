"""The papers' protocol: one update per step, in the process that plays.

A generator of progress: whoever shows, evaluates or stops is a consumer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hyperact.trainer.agent import ThompsonAgent, seed_key
from hyperact.trainer.config import EpsilonConfig
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import Environment
from hyperact.trainer.learner import Learner
from hyperact.trainer.loop import episode_returns, run_loop
from hyperact.trainer.n_step import NStepAssembler
from hyperact.trainer.replay import Replay
from hyperact.v1.steps import StepKey

# ALGORITHM 5.2: optimal means optimal, up to rounding.
return_tolerance = 1e-6


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a step; `episode_return` is set on the step that ended an episode."""

    num_steps: int
    num_episodes: int
    episode_return: float | None


beginning = Progress(0, 0, None)


def train(
    environment: Environment,
    learner: Learner,
    replay: Replay,
    curves: Curves,
    model: str,
    seed: int,
    start: Progress = beginning,
) -> Iterator[Progress]:
    """Play and learn, forever: uniformly random actions until `min_replay_size` transitions, then updates a step.

    An interrupted run goes on from where it stood, `start`, with the learner and the replay buffer of then, and in a
    new episode: what was left of the old one is not played.
    """
    config = learner.config
    agent = ThompsonAgent(learner.spec, learner.values, seed_key(seed, "train"), config.optimism, config.epsilon)
    agent.num_steps = start.num_steps
    agent.is_warming_up = len(replay) < config.min_replay_size
    n_step = NStepAssembler(config.num_td_steps, learner.spec.discount, config.reward_view)
    first = StepKey(model, "train", _run_name(seed, start), 0, 0)
    num_episodes = start.num_episodes
    steps = run_loop(environment, agent, first, _environment_seed(seed, start))
    for num_steps, step in enumerate(steps, start=start.num_steps + 1):
        replay.add(n_step.push([step.transition]))
        agent.is_warming_up = len(replay) < config.min_replay_size
        if not agent.is_warming_up and len(replay):
            for _ in range(config.updates_per_step):
                curves.add(learner.num_learner_steps + 1, learner.update(replay))
        num_episodes += step.episode_return is not None
        yield Progress(num_steps, num_episodes, step.episode_return)


def evaluation_returns(
    environment: Environment, learner: Learner, model: str, seed: int, num_episodes: int
) -> list[float]:
    """Play episodes by Thompson sampling, with indices that no earlier evaluation used, and return their returns.

    Each episode has one index, also where training is optimistic over several: what is evaluated is the distribution
    over policies that was learned, not the exploration (ALGORITHM 5.2). The learner's age takes part in the indices'
    key, so each evaluation has fresh ones.
    """
    key = seed_key(seed, "evaluation")
    share = learner.config.epsilon.evaluation
    epsilon = EpsilonConfig(begin=share, end=share)
    agent = ThompsonAgent(learner.spec, learner.values, key, epsilon=epsilon)
    first = StepKey(model, "evaluation", f"after-{learner.num_learner_steps}", 0, 0)
    return episode_returns(environment, agent, first, seed, num_episodes)


def is_solved(returns: list[float], optimal_return: float) -> bool:
    """Tell whether the mean return is that of the best policy: all evaluation episodes were optimal (ALGORITHM 5.2)."""
    return sum(returns) / len(returns) >= optimal_return - return_tolerance


def _run_name(seed: int, start: Progress) -> str:
    """Return a name that no other stretch of this run has, so that no two of its steps share an id."""
    return f"seed-{seed}-from-{start.num_steps}" if start.num_steps else f"seed-{seed}"


def _environment_seed(seed: int, start: Progress) -> int:
    if not start.num_steps:
        return seed
    return int(np.random.SeedSequence([seed, start.num_steps]).generate_state(1)[0])
