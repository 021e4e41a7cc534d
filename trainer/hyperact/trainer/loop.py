"""The run loop: an environment and an agent in, steps out. Logging, learning and evaluating are its consumers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hyperact.trainer.environments import Environment
from hyperact.trainer.observations import Observations
from hyperact.v1.steps import StepKey
from hyperact.v1.transitions import Transition


class Agent(Protocol):
    """Anything that can act."""

    def act(self, observation: Observations, step: StepKey) -> int:
        """Return the action of a step."""


@dataclass(frozen=True, slots=True)
class LoopStep:
    """One step of the loop; `episode_return` is set on the step that ended an episode."""

    transition: Transition
    episode_return: float | None


def run_loop(environment: Environment, agent: Agent, run: StepKey, seed: int) -> Iterator[LoopStep]:
    """Play episode after episode, forever. `run` names the first step; only the first reset is seeded.

    The agent is asked for its next action only when the next step is drawn, so a consumer that learns between two
    steps is in effect at once.
    """
    episode = run.episode
    episode_seed: int | None = seed
    while True:
        yield from _play_episode(environment, agent, run._replace(episode=episode), episode_seed)
        episode, episode_seed = episode + 1, None


def episode_returns(environment: Environment, agent: Agent, run: StepKey, seed: int, num_episodes: int) -> list[float]:
    """Play some episodes and return their returns."""
    returns: list[float] = []
    for step in run_loop(environment, agent, run, seed):
        if step.episode_return is not None:
            returns.append(step.episode_return)
            if len(returns) == num_episodes:
                break
    return returns


def _play_episode(environment: Environment, agent: Agent, key: StepKey, seed: int | None) -> Iterator[LoopStep]:
    observation = np.array(environment.reset(seed=seed)[0])
    episode_return, is_over = 0.0, False
    while not is_over:
        action = agent.act(observation, key)
        after, reward, terminated, truncated, _ = environment.step(action)
        next_observation = np.array(after)
        episode_return += float(reward)
        is_over = terminated or truncated
        yield LoopStep(
            Transition(
                key=key,
                observation=observation,
                action=action,
                reward=float(reward),
                next_observation=next_observation,
                terminated=bool(terminated),
                truncated=bool(truncated and not terminated),
                propensity=1.0,
                version="",
                deployment=0,
                action_mask=b"",
                next_action_mask=b"",
            ),
            episode_return if is_over else None,
        )
        observation, key = next_observation, key._replace(number=key.number + 1)
