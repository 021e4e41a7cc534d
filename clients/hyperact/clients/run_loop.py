"""Environments times sessions gives steps: the loop, as a generator.

Row i of the environments is played by row i of the sessions. What a step says is told to its session before it is
yielded. Logging, statistics and progress bars are consumers.

A reset is never recorded as a transition, whatever the environments' autoreset mode:

    mode        what env.step returns at an episode's end    what we do
    ----------  -------------------------------------------  -----------------------------------------------------
    NEXT_STEP   the final observation; the next env.step     the row sits out that next step: no decision is asked
                resets the row and ignores its action        for, no outcome recorded
    SAME_STEP   the next episode's first observation; the    the outcome carries info["final_obs"]
                final one in info["final_obs"]
    DISABLED    the final observation                        the ended rows are reset at once, by a reset mask
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from hyperact.clients.session_memory import Decision
from hyperact.clients.sessions import VectorSession

Environments = VectorEnv[Any, Any, Any]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PlayedStep:
    """One row's step: the decision, and what followed it. The reward is raw."""

    row: int
    decision: Decision
    reward: float
    terminated: bool
    truncated: bool

    @property
    def ends_episode(self) -> bool:
        """Whether the episode is over, by either way."""
        return self.terminated or self.truncated


def always(row: int) -> bool:  # noqa: ARG001 -- whichever row asks
    """Let every row begin another episode."""
    return True


def at_most(num_episodes: int) -> Callable[[int], bool]:
    """Return an answer to `may_begin` that lets so many episodes begin, whichever rows ask."""
    remaining = iter(range(num_episodes))

    def may_begin(row: int) -> bool:  # noqa: ARG001 -- whichever row asks
        return next(remaining, None) is not None

    return may_begin


def play_steps(
    environments: Environments,
    sessions: VectorSession,
    *,
    seed: int | None = None,
    may_begin: Callable[[int], bool] = always,
) -> Iterator[PlayedStep]:
    """Yield the rows' steps, row by row, until no row may begin another episode.

    Args:
        seed: of the first reset.
        may_begin: asked with the row before each episode of a row; after a no the row is not asked about again. Its
            environment is moved on by action 0, and nothing of it is recorded.
    """
    mode = autoreset_mode(environments)
    observations, _ = environments.reset(seed=seed)
    num_rows = environments.num_envs
    is_playing = np.array([may_begin(row) for row in range(num_rows)], np.bool_)
    is_resetting = np.zeros(num_rows, np.bool_)
    while is_playing.any():
        acting = np.flatnonzero(is_playing & ~is_resetting)
        decisions = sessions.act({int(row): observations[row] for row in acting}) if len(acting) else []
        observations, rewards, terminated, truncated, infos = environments.step(to_actions(environments, decisions))
        ended = terminated | truncated
        finals = final_observations(mode, observations, infos, ended)
        steps = []
        for row, decision in enumerate(decisions):
            if decision is not None:
                step = PlayedStep(row, decision, float(rewards[row]), bool(terminated[row]), bool(truncated[row]))
                sessions.observe(row, step.reward, step.terminated, step.truncated, finals.get(row))
                steps.append(step)
        if mode == AutoresetMode.DISABLED and ended.any():
            observations, _ = environments.reset(options={"reset_mask": ended})
        is_resetting = ended if mode == AutoresetMode.NEXT_STEP else np.zeros(num_rows, np.bool_)
        yield from steps
        for step in steps:
            if step.ends_episode:
                is_playing[step.row] = may_begin(step.row)


def autoreset_mode(environments: Environments) -> AutoresetMode:
    """Return how environments reset themselves; ValueError if they do not say."""
    mode = environments.metadata.get("autoreset_mode")
    if mode not in list(AutoresetMode):
        raise ValueError(f"{environments}: expected metadata['autoreset_mode'] to be one of {list(AutoresetMode)}")
    return AutoresetMode(mode)


def to_actions(environments: Environments, decisions: list[Decision | None]) -> NDArray[np.int64]:
    """Return the rows' actions, int64 [B]; 0 for rows without a decision."""
    actions = np.zeros(environments.num_envs, np.int64)
    for row, decision in enumerate(decisions):
        if decision is not None:
            actions[row] = decision.action
    return actions


def final_observations(mode: AutoresetMode, observations: Any, infos: dict[str, Any], ended: Flags) -> dict[int, Any]:
    """Return the true last observation of each row whose episode ended, by row."""
    source = infos["final_obs"] if mode == AutoresetMode.SAME_STEP and ended.any() else observations
    return {int(row): np.array(source[row]) for row in np.flatnonzero(ended)}
