"""What episodes amount to, deployment by deployment. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class EndedEpisode(Protocol):
    """An episode that ended, as the run loop or the log tells it."""

    @property
    def deployment(self) -> int:
        """The deployment that decided it; 0 for the uniform fallback."""

    @property
    def version(self) -> str:
        """The version that decided it; empty for the uniform fallback."""

    @property
    def episode_return(self) -> float:
        """The sum of its raw rewards."""

    @property
    def num_steps(self) -> int:
        """How long it was."""

    @property
    def is_evaluation(self) -> bool:
        """Whether it was only for measuring."""


@dataclass(frozen=True, slots=True)
class DeploymentResult:
    """What one deployment's episodes came to.

    Attributes:
        mean_return: of training episodes; None if there is none. Likewise `evaluation_return`.
        evaluation_returns: of evaluation episodes, in order.
        total_steps: of this deployment and all before it.
    """

    deployment: int
    version: str
    num_episodes: int
    mean_return: float | None
    best_return: float | None
    num_evaluations: int
    evaluation_return: float | None
    evaluation_returns: tuple[float, ...]
    total_steps: int

    def optimal_share(self, threshold: float) -> float | None:
        """Return the share of evaluation episodes that return at least `threshold`; None if there is none."""
        if not self.evaluation_returns:
            return None
        return float(np.mean(np.array(self.evaluation_returns) >= threshold))

    def is_solved(self, optimal_return: float, num_evaluations: int, tolerance: float = 1e-6) -> bool:
        """Tell whether the papers' criterion holds: the mean of so many evaluation episodes is the optimal return."""
        last = self.evaluation_returns[-num_evaluations:]
        return len(last) == num_evaluations and float(np.mean(last)) >= optimal_return - tolerance


def by_deployment(episodes: Iterable[EndedEpisode]) -> list[DeploymentResult]:
    """Return one result per deployment, in order."""
    groups: dict[int, list[EndedEpisode]] = {}
    for episode in episodes:
        groups.setdefault(episode.deployment, []).append(episode)
    results: list[DeploymentResult] = []
    for deployment in sorted(groups):
        before = results[-1].total_steps if results else 0
        results.append(_result(deployment, groups[deployment], before))
    return results


def _result(deployment: int, episodes: Sequence[EndedEpisode], steps_before: int) -> DeploymentResult:
    training = [episode.episode_return for episode in episodes if not episode.is_evaluation]
    evaluation = tuple(episode.episode_return for episode in episodes if episode.is_evaluation)
    return DeploymentResult(
        deployment=deployment,
        version=episodes[0].version,
        num_episodes=len(training),
        mean_return=float(np.mean(training)) if training else None,
        best_return=max(training) if training else None,
        num_evaluations=len(evaluation),
        evaluation_return=float(np.mean(evaluation)) if evaluation else None,
        evaluation_returns=evaluation,
        total_steps=steps_before + sum(episode.num_steps for episode in episodes),
    )
