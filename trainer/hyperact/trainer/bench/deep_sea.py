"""One run of the DeepSea benchmark: the papers' protocol until solved, or until its episodes are used up.

Solved (ALGORITHM 5.2): every 1,000 interactions 100 evaluation episodes under fresh indices are played; the run ends
when all of them are optimal. What counts is the episodes by then, steps / N. The seed is the sea's and the learner's.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hyperact.trainer import train as training
from hyperact.trainer.bench.provenance import code_commit
from hyperact.trainer.bench.runs import Mark, Values
from hyperact.trainer.bench.settings import DeepSeaSettings
from hyperact.trainer.bench.subjects import Subject
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import Environment, optimal_return
from hyperact.trainer.learner import Learner
from hyperact.trainer.sea_walk import SeaWalk

columns = (
    "variant",
    "size",
    "seed",
    "solved",
    "episodes",
    "max_episodes",
    "first_success",
    "last_evaluation",
    "steps",
    "learner_steps",
    "seconds",
    "configuration",
    "commit",
)

evaluation_period = 1000
num_evaluation_episodes = 100
_model = "deepsea"


@dataclass(frozen=True)
class DeepSeaRun:
    """A variant on a sea.

    Attributes:
        subject: what learns, and on which sea.
        max_episodes: the cap; an unsolved run counts as so many.
        commit: of the code that plays.
    """

    subject: Subject
    max_episodes: int
    commit: str = field(default="", compare=False)

    @property
    def seed(self) -> int:
        """The seed."""
        return self.subject.seed

    @property
    def label(self) -> str:
        """A short name."""
        return self.subject.label

    @property
    def configuration(self) -> str:
        """What of the learner's settings is not the default, as JSON."""
        return json.dumps(self.subject.differences(), sort_keys=True, separators=(",", ":"))

    def is_finished_by(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row is this run's outcome: the same settings, and solved or given as many episodes."""
        if not self.subject.is_of(row) or row["configuration"] != self.configuration:
            return False
        return row["solved"] == "yes" or int(row["max_episodes"]) >= self.max_episodes

    def play(self, checkpoint: Path, tell: Callable[[Mark], None]) -> Values:  # noqa: ARG002 -- it is played in minutes
        """Play, learn and evaluate until solved or until the episodes are used up."""
        begin = time.perf_counter()
        environment, learner = self.subject.make_environment(), self.subject.make_learner()
        outcome = _play(environment, learner, self, tell)
        return {
            **self.subject.identity(),
            **outcome,
            "learner_steps": learner.num_learner_steps,
            "seconds": f"{time.perf_counter() - begin:.1f}",
            "configuration": self.configuration,
            "commit": self.commit,
        }


def make_runs(settings: DeepSeaSettings) -> list[DeepSeaRun]:
    """Return the runs that the settings ask for, the smallest seas first."""
    commit, changes = code_commit(), json.dumps(settings.learner, sort_keys=True)
    return [
        DeepSeaRun(Subject(variant, size, seed, changes), settings.max_episodes, commit)
        for size in sorted(settings.sizes)
        for seed in settings.seeds
        for variant in settings.variants
    ]


def _play(
    environment: Environment, learner: Learner, run: DeepSeaRun, tell: Callable[[Mark], None]
) -> dict[str, object]:
    walk = SeaWalk(environment)
    best = optimal_return(environment)
    assert best is not None
    is_solved, first_success, evaluation = False, "", 0.0
    max_steps = run.max_episodes * run.subject.size
    steps = training.train(environment, learner, learner.make_replay(), Curves(), _model, run.seed)
    for progress in steps:
        if progress.episode_return is not None and progress.episode_return > 0 and not first_success:
            first_success = str(progress.num_episodes)
        if progress.num_steps % evaluation_period == 0:
            returns = walk.evaluation_returns(learner, _model, run.seed, num_evaluation_episodes)
            evaluation = float(np.mean(returns))
            is_solved = training.is_solved([float(value) for value in returns], best)
            tell(Mark(progress.num_steps / max_steps, f"episode {progress.num_episodes}, return {evaluation:.2f}"))
        if is_solved or progress.num_steps >= max_steps:
            break
    return {
        "solved": "yes" if is_solved else "no",
        "episodes": f"{progress.num_steps / run.subject.size:.1f}",
        "max_episodes": run.max_episodes,
        "first_success": first_success,
        "last_evaluation": f"{evaluation:.4f}",
        "steps": progress.num_steps,
    }
