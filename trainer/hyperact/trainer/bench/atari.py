"""One run of the Atari benchmark: the papers' protocol (ALGORITHM 6.1) for a number of interactions.

One update per interaction after 2,000 random ones. Every `evaluation_period` interactions ten full games are played
with raw rewards by the same rule as in training, under fresh indices. The index is drawn anew with probability
1 - discount at every step and at every episode's end, as in the released code. Double DQN is the papers' DDQN(ours):
the same network without prior and index, sums of ten rewards, a share of random actions that falls from 1 to 0.1 (over
10,000 interactions, our choice), and 0.05 in evaluations.

A run keeps a checkpoint of everything and goes on from it.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hyperact.trainer import train as training
from hyperact.trainer.allocator import keep_freed_memory
from hyperact.trainer.bench.provenance import code_commit
from hyperact.trainer.bench.runs import Mark, Values
from hyperact.trainer.bench.settings import AtariSettings
from hyperact.trainer.config import DeviceName, LearnerConfig, atari_networks, preset
from hyperact.trainer.curves import Curves
from hyperact.trainer.devices import find_device
from hyperact.trainer.environments import Environment, make_environment, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.replay import Replay
from hyperact.trainer.training_checkpoint import TrainingCheckpoint
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.model_pb2 import IndexSchedule, ModelSpec

columns = (
    "variant",
    "game",
    "seed",
    "steps",
    "final",
    "best",
    "learner_steps",
    "seconds",
    "curve",
    "configuration",
    "commit",
)

_model = "atari"
_mark_period = 500


@dataclass(frozen=True)
class AtariRun:
    """A variant in a game.

    Attributes:
        variant: a name of `hyperact.trainer.variants`.
        game: the name in ALE's ids.
        seed: of the game and of everything that the learner draws.
        num_steps: interactions.
        evaluation_period: interactions between evaluations.
        evaluation_episodes: games of one evaluation.
        checkpoint_period: interactions between checkpoints.
        torso: a name of `config.atari_networks`.
        changes: changes to the variant's settings, as JSON.
        policies: a directory for the learner's state at its best evaluation; empty: it is not kept.
        commit: of the code that plays.
        device: where the learner computes, by name.
    """

    variant: str
    game: str
    seed: int
    num_steps: int
    evaluation_period: int = 20_000
    evaluation_episodes: int = 10
    checkpoint_period: int = 5_000
    torso: str = "atari"
    changes: str = "{}"
    policies: str = ""
    commit: str = field(default="", compare=False)
    device: DeviceName = field(default="cpu", compare=False)

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.variant}-{self.game}-{self.torso}-{self.seed}"

    def is_finished_by(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row is this run's outcome: the same settings and at least as many interactions."""
        same = (row["variant"], row["game"], row["seed"]) == (self.variant, self.game, str(self.seed))
        if not same or int(row["steps"]) < self.num_steps:
            return False
        return row["configuration"] == _in_json(self.make_config(self.make_spec()))

    def play(self, checkpoint: Path, tell: Callable[[Mark], None]) -> Values:
        """Play, learn and evaluate, from the checkpoint on if there is one."""
        keep_freed_memory()
        stretch = _Stretch(self, TrainingCheckpoint(checkpoint))
        stretch.play(tell)
        return stretch.row()

    def make_spec(self) -> ModelSpec:
        """Return the spec of the model that plays this game."""
        spec = variant_spec(self.variant, spec_of(self.make_environment(is_training=True)))
        spec.index_schedule = IndexSchedule.INDEX_SCHEDULE_GEOMETRIC
        return spec

    def make_config(self, spec: ModelSpec) -> LearnerConfig:
        """Return the learner's settings."""
        network = atari_networks[self.torso].model_dump()
        config = variant_config(self.variant, preset(spec).with_overrides({"network": network}))
        return config.with_overrides(json.loads(self.changes))

    def make_environment(self, *, is_training: bool) -> Environment:
        """Return the game; in training a lost life ends the episode."""
        return make_environment(f"ALE/{self.game}-v5", {"training": is_training})


def make_runs(settings: AtariSettings) -> list[AtariRun]:
    """Return the runs that the settings ask for: game by game, all variants of a seed before the next seed."""
    commit, changes = code_commit(), json.dumps(settings.learner, sort_keys=True)
    return [
        AtariRun(
            variant=variant,
            game=game,
            seed=seed,
            num_steps=settings.steps,
            evaluation_period=settings.evaluation_period,
            evaluation_episodes=settings.evaluation_episodes,
            checkpoint_period=settings.checkpoint_period,
            torso=settings.torso,
            changes=changes,
            policies=str(settings.policies or ""),
            commit=commit,
            device=settings.device,
        )
        for game in settings.games
        for seed in settings.seeds
        for variant in settings.variants
    ]


class _Stretch:
    """What one process plays of a run: to its end, unless it is interrupted."""

    def __init__(self, run: AtariRun, checkpoint: TrainingCheckpoint) -> None:
        self._run = run
        self._checkpoint = checkpoint
        self._begin = time.perf_counter()
        spec = run.make_spec()
        config = run.make_config(spec)
        self._learner = Learner(spec, config, run.seed, find_device(run.device, config.network))
        self._replay: Replay = self._learner.make_replay()
        found = checkpoint.load(self._learner, self._replay) or {}
        self._start = training.Progress(found.get("num_steps", 0), found.get("num_episodes", 0), None)
        self._seconds_before: float = found.get("seconds", 0.0)
        self._curve: list[tuple[int, list[float]]] = [(place, returns) for place, returns in found.get("curve", [])]
        self._games = run.make_environment(is_training=False)

    def play(self, tell: Callable[[Mark], None]) -> None:
        """Play what is left."""
        run = self._run
        if self._start.num_steps >= run.num_steps:
            return
        environment = run.make_environment(is_training=True)
        steps = training.train(environment, self._learner, self._replay, Curves(), _model, run.seed, self._start)
        for progress in steps:
            is_end = progress.num_steps >= run.num_steps
            if progress.num_steps % run.evaluation_period == 0 or is_end:
                self._evaluate(progress.num_steps)
            if progress.num_steps % run.checkpoint_period == 0:
                self._save(progress)
            if progress.num_steps % _mark_period == 0:
                tell(Mark(progress.num_steps / run.num_steps, self._words(progress)))
            if is_end:
                break

    def row(self) -> Values:
        """Return the outcome."""
        means = [float(np.mean(returns)) for _, returns in self._curve]
        return {
            "variant": self._run.variant,
            "game": self._run.game,
            "seed": self._run.seed,
            "steps": self._run.num_steps,
            "final": f"{means[-1]:.2f}",
            "best": f"{max(means):.2f}",
            "learner_steps": self._learner.num_learner_steps,
            "seconds": f"{self._seconds():.0f}",
            "curve": json.dumps(self._curve, separators=(",", ":")),
            "configuration": _in_json(self._learner.config),
            "commit": self._run.commit,
        }

    def _evaluate(self, num_steps: int) -> None:
        run = self._run
        returns = training.evaluation_returns(self._games, self._learner, _model, run.seed, run.evaluation_episodes)
        best = max((float(np.mean(found)) for _, found in self._curve), default=-np.inf)
        self._curve.append((num_steps, returns))
        if run.policies and np.mean(returns) >= best:
            _save_policy(Path(run.policies) / f"{run.label}.npz", self._learner)

    def _save(self, progress: training.Progress) -> None:
        facts = {
            "num_steps": progress.num_steps,
            "num_episodes": progress.num_episodes,
            "seconds": self._seconds(),
            "curve": self._curve,
        }
        self._checkpoint.save(self._learner, self._replay, facts)

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._begin

    def _words(self, progress: training.Progress) -> str:
        rate = (progress.num_steps - self._start.num_steps) / (time.perf_counter() - self._begin)
        last = f", return {np.mean(self._curve[-1][1]):.1f} at {self._curve[-1][0]}" if self._curve else ""
        return f"step {progress.num_steps}, {rate:.0f} a second{last}"


def _save_policy(path: Path, learner: Learner) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, **learner.get_state())  # type: ignore[arg-type]  # the stub takes the names for its own flag
    partial.replace(path)


def _in_json(config: LearnerConfig) -> str:
    return json.dumps(config.model_dump(exclude_defaults=True), sort_keys=True, separators=(",", ":"))
