"""Episode statistics: played steps in, ended episodes out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hyperact.clients.run_loop import PlayedStep


@dataclass(slots=True)
class Episode:
    """One episode. Version and deployment are those of its first step, which it keeps by the law of versions."""

    row: int
    version: str
    deployment: int
    episode_return: float = 0.0
    num_steps: int = 0
    mean_propensity: float = 0.0
    is_evaluation: bool = False


def track_episodes(
    steps: Iterable[PlayedStep], *, is_evaluation: bool = False
) -> Iterator[tuple[PlayedStep, Episode | None]]:
    """Yield each step with the episode that it ended, or None."""
    running: dict[int, Episode] = {}
    for step in steps:
        decision = step.decision
        episode = running.setdefault(
            step.row, Episode(step.row, decision.version, decision.deployment, is_evaluation=is_evaluation)
        )
        episode.num_steps += 1
        episode.episode_return += step.reward
        episode.mean_propensity += (decision.propensity - episode.mean_propensity) / episode.num_steps
        yield step, running.pop(step.row) if step.ends_episode else None
