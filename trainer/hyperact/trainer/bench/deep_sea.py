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
from hyperact.trainer.bench.sea_walk import SeaWalk
from hyperact.trainer.bench.settings import DeepSeaSettings
from hyperact.trainer.config import LearnerConfig, preset
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import Environment, make_environment, optimal_return, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.model_pb2 import ModelSpec

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
        variant: a name of `hyperact.trainer.variants`.
        size: N.
        seed: of the sea and of everything that the learner draws.
        max_episodes: the cap; an unsolved run counts as so many.
        changes: changes to the variant's settings, as JSON.
        commit: of the code that plays.
    """

    variant: str
    size: int
    seed: int
    max_episodes: int
    changes: str = "{}"
    commit: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.variant}-{self.size}-{self.seed}"

    @property
    def configuration(self) -> str:
        """What of the learner's settings is not the default, as JSON."""
        return _in_json(self._make_config(self._make_spec()))

    def is_finished_by(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row is this run's outcome: the same settings, and solved or given as many episodes."""
        same = (row["variant"], row["size"], row["seed"]) == (self.variant, str(self.size), str(self.seed))
        if not same or row["configuration"] != self.configuration:
            return False
        return row["solved"] == "yes" or int(row["max_episodes"]) >= self.max_episodes

    def play(self, checkpoint: Path, tell: Callable[[Mark], None]) -> Values:  # noqa: ARG002 -- it is played in minutes
        """Play, learn and evaluate until solved or until the episodes are used up."""
        begin = time.perf_counter()
        environment, spec = self._make_environment(), self._make_spec()
        learner = Learner(spec, self._make_config(spec), self.seed)
        outcome = _play(environment, learner, self, tell)
        return {
            "variant": self.variant,
            "size": self.size,
            "seed": self.seed,
            **outcome,
            "learner_steps": learner.num_learner_steps,
            "seconds": f"{time.perf_counter() - begin:.1f}",
            "configuration": _in_json(learner.config),
            "commit": self.commit,
        }

    def _make_spec(self) -> ModelSpec:
        """Return the spec of the model that plays this sea."""
        return variant_spec(self.variant, spec_of(self._make_environment()))

    def _make_config(self, spec: ModelSpec) -> LearnerConfig:
        """Return the learner's settings."""
        return variant_config(self.variant, preset(spec)).with_overrides(json.loads(self.changes))

    def _make_environment(self) -> Environment:
        return make_environment("hyperact/DeepSea-v0", {"size": self.size, "mapping_seed": self.seed})


def make_runs(settings: DeepSeaSettings) -> list[DeepSeaRun]:
    """Return the runs that the settings ask for, the smallest seas first."""
    commit, changes = code_commit(), json.dumps(settings.learner, sort_keys=True)
    return [
        DeepSeaRun(variant, size, seed, settings.max_episodes, changes, commit)
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
    max_steps = run.max_episodes * run.size
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
        "episodes": f"{progress.num_steps / run.size:.1f}",
        "max_episodes": run.max_episodes,
        "first_success": first_success,
        "last_evaluation": f"{evaluation:.4f}",
        "steps": progress.num_steps,
    }


def _in_json(config: LearnerConfig) -> str:
    return json.dumps(config.model_dump(exclude_defaults=True), sort_keys=True, separators=(",", ":"))
