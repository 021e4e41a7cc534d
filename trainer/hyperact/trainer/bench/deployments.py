"""One run of the deployment benchmark: DeepSea in batch mode, until solved or until the deployments are used up.

A policy is fixed while it collects K episodes, each under an index of its own; then the learner updates, and the next
version is deployed. The first K episodes are by the uniform fallback, before there is a version. Solved (ALGORITHM
5.2): 100 evaluation episodes with fresh indices by a version that was just deployed are all optimal. What counts is how
many versions were deployed by then, and how many episodes were played for them. The seed is the sea's and the
learner's.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from hyperact.trainer.agent import ThompsonAgent, seed_key
from hyperact.trainer.bench.provenance import code_commit
from hyperact.trainer.bench.runs import Mark, Values
from hyperact.trainer.bench.settings import DeploymentsSettings
from hyperact.trainer.bench.subjects import Subject
from hyperact.trainer.environments import Environment, optimal_return
from hyperact.trainer.learner import Learner
from hyperact.trainer.loop import run_loop
from hyperact.trainer.n_step import NStepAssembler
from hyperact.trainer.replay import Replay
from hyperact.trainer.sea_walk import SeaWalk
from hyperact.trainer.train import is_solved
from hyperact.v1.steps import StepKey

columns = (
    "variant",
    "size",
    "seed",
    "episodes_per_deployment",
    "solved",
    "deployments",
    "max_deployments",
    "episodes",
    "first_success",
    "last_evaluation",
    "steps",
    "learner_steps",
    "seconds",
    "configuration",
    "commit",
)

num_evaluation_episodes = 100
_model = "deepsea"


@dataclass(frozen=True)
class DeploymentsRun:
    """A variant on a sea, K episodes a deployment.

    Attributes:
        subject: what learns, and on which sea.
        episodes_per_deployment: K.
        max_deployments: the cap; an unsolved run counts as so many.
        min_learner_steps: after each batch of episodes; more where the settings' replay ratio times its transitions is
            more. A few episodes of a small sea are few transitions, but values must travel through it all the same.
        commit: of the code that plays.
    """

    subject: Subject
    episodes_per_deployment: int
    max_deployments: int
    min_learner_steps: int = 0
    commit: str = field(default="", compare=False)

    @property
    def seed(self) -> int:
        """The seed."""
        return self.subject.seed

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.subject.label}-by-{self.episodes_per_deployment}"

    @property
    def configuration(self) -> str:
        """What of the settings is not the default, as JSON."""
        steps = {"min_learner_steps": self.min_learner_steps} if self.min_learner_steps else {}
        return json.dumps(self.subject.differences() | steps, sort_keys=True, separators=(",", ":"))

    def is_finished_by(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row is this run's outcome: the same settings, and solved or given as many deployments."""
        if not self.subject.is_of(row) or row["configuration"] != self.configuration:
            return False
        if row["episodes_per_deployment"] != str(self.episodes_per_deployment):
            return False
        return row["solved"] == "yes" or int(row["max_deployments"]) >= self.max_deployments

    def play(self, checkpoint: Path, tell: Callable[[Mark], None]) -> Values:  # noqa: ARG002 -- it is played in minutes
        """Collect, learn and deploy until solved or until the deployments are used up."""
        begin = time.perf_counter()
        loop = _Loop(self)
        has_solved = False
        while not has_solved and loop.num_deployments < self.max_deployments:
            loop.collect()
            loop.learn()
            has_solved = loop.evaluate()
            words = f"deployment {loop.num_deployments}, return {loop.last_evaluation:.2f}"
            tell(Mark(loop.num_deployments / self.max_deployments, words))
        return {
            **self.subject.identity(),
            "episodes_per_deployment": self.episodes_per_deployment,
            "solved": "yes" if has_solved else "no",
            "deployments": loop.num_deployments,
            "max_deployments": self.max_deployments,
            "episodes": loop.num_deployments * self.episodes_per_deployment,
            "first_success": loop.first_success,
            "last_evaluation": f"{loop.last_evaluation:.4f}",
            "steps": loop.num_deployments * self.episodes_per_deployment * self.subject.size,
            "learner_steps": loop.learner.num_learner_steps,
            "seconds": f"{time.perf_counter() - begin:.1f}",
            "configuration": self.configuration,
            "commit": self.commit,
        }


class _Loop:
    """Collect, learn, deploy: what a service, a log and a trainer do, without them."""

    def __init__(self, run: DeploymentsRun) -> None:
        self._run = run
        self._environment: Environment = run.subject.make_environment()
        self.learner: Learner = run.subject.make_learner()
        self._replay: Replay = self.learner.make_replay()
        config, spec = self.learner.config, self.learner.spec
        self._agent = ThompsonAgent(
            spec, self.learner.values, seed_key(run.seed, "collection"), config.optimism, config.epsilon
        )
        self._n_step = NStepAssembler(config.num_td_steps, spec.discount, config.reward_view)
        self._walk = SeaWalk(self._environment)
        best = optimal_return(self._environment)
        assert best is not None
        self._best = best
        self.num_deployments = 0
        self.first_success = ""
        self.last_evaluation = 0.0

    def collect(self) -> None:
        """Play the episodes of a batch by the version in service; the first ones by the uniform fallback."""
        self._agent.is_warming_up = self.num_deployments == 0
        first = StepKey(_model, "agent", f"{self.num_deployments:03d}", 0, 0)
        num_steps = self._run.episodes_per_deployment * self._run.subject.size
        steps = list(islice(run_loop(self._environment, self._agent, first, self._run.seed), num_steps))
        returns = [step.episode_return for step in steps if step.episode_return is not None]
        if not self.first_success and max(returns) > 0:
            self.first_success = str(self.num_deployments)
        self._replay.add(self._n_step.push([step.transition for step in steps]))

    def learn(self) -> None:
        """Update, and deploy the outcome."""
        num_new = self._run.episodes_per_deployment * self._run.subject.size
        for _ in range(max(self._run.min_learner_steps, round(num_new * self.learner.config.replay_ratio))):
            self.learner.update(self._replay)
        self.num_deployments += 1

    def evaluate(self) -> bool:
        """Tell whether the version in service solves the sea."""
        returns = self._walk.evaluation_returns(self.learner, _model, self._run.seed, num_evaluation_episodes)
        self.last_evaluation = float(np.mean(returns))
        return is_solved([float(value) for value in returns], self._best)


def make_runs(settings: DeploymentsSettings) -> list[DeploymentsRun]:
    """Return the runs that the settings ask for, those of the smallest seas and batches first."""
    commit, changes = code_commit(), json.dumps(settings.learner, sort_keys=True)
    return [
        DeploymentsRun(
            Subject(variant, size, seed, changes), batch, settings.max_deployments, settings.min_learner_steps, commit
        )
        for size in sorted(settings.sizes)
        for batch in sorted(settings.episodes_per_deployment)
        for seed in settings.seeds
        for variant in settings.variants
    ]
