"""What an update costs: HyperAgent beside Double DQN on the same torso, in one run, on one core.

    python benchmarks/learner.py --output benchmarks/results

Both learn from the same random observations, in turns of a few updates, so that whatever else the machine does meets
both alike. Figures are milliseconds of this process's processor time: of each case the median over the turns, and the
ratio of the medians. The last row is a step of a game with its preprocessing. Results go to learner.csv.
"""

import argparse
import csv
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hyperact.trainer.allocator import keep_freed_memory
from hyperact.trainer.config import LearnerConfig, NetworkConfig, atari, atari_networks, deep_sea
from hyperact.trainer.environments import make_environment
from hyperact.trainer.learner import Learner
from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.replay import Replay
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule, ModelSpec
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import make_spec

NUM_TRANSITIONS = 1000
VARIANTS = ("hyperagent", "ddqn")


@dataclass(frozen=True)
class Case:
    """A torso with the settings and the observations that it has in the papers."""

    name: str
    shape: tuple[int, ...]
    num_actions: int
    config: LearnerConfig

    def make_spec(self) -> ModelSpec:
        is_image = len(self.shape) == 3
        spec = ModelSpec(
            observation=make_spec(np.uint8, self.shape),
            agent_kind=AgentKind.AGENT_KIND_EPISODIC,
            index_schedule=IndexSchedule.INDEX_SCHEDULE_EPISODE,
            reference_distribution=UNIT_SPHERE if is_image else GAUSSIAN,
            index_dim=4,
            discount=0.99,
        )
        spec.action.discrete.num_actions = self.num_actions
        spec.observation.minimum, spec.observation.maximum = 0, 255 if is_image else 1
        return spec


def atari_case(name: str, network: NetworkConfig) -> Case:
    config = atari.with_overrides({"network": network.model_dump(), "replay_capacity": NUM_TRANSITIONS})
    return Case(name, (4, 84, 84), 18, config)


CASES = [
    Case("DeepSea-20 MLP", (20, 20), 2, deep_sea.with_overrides({"replay_capacity": NUM_TRANSITIONS})),
    *(atari_case(f"Atari, {name}", network) for name, network in atari_networks.items()),
]


def make_learner(case: Case, variant: str) -> tuple[Learner, Replay]:
    """Return a learner and its buffer, full of one long episode."""
    spec = variant_spec(variant, case.make_spec())
    learner = Learner(spec, variant_config(variant, case.config), 0)
    replay = learner.make_replay()
    rng = np.random.default_rng(0)
    stack = case.shape[0] if len(case.shape) == 3 else 1
    frame_shape = case.shape[1:] if stack > 1 else case.shape
    frames = rng.integers(0, 256 if stack > 1 else 2, (NUM_TRANSITIONS + stack + 1, *frame_shape)).astype(np.uint8)
    observations = [frames[at : at + stack] if stack > 1 else frames[at] for at in range(NUM_TRANSITIONS + 1)]
    run = StepKey("default", "agent", "run", 0, 0)
    replay.add(
        [
            NStepTransition(
                run._replace(number=at),
                observations[at],
                at % case.num_actions,
                0.1,
                0.99,
                observations[at + 1],
                at + 1,
                b"",
            )
            for at in range(NUM_TRANSITIONS)
        ]
    )
    return learner, replay


def measure(case: Case, num_turns: int, num_updates: int) -> list[dict[str, object]]:
    """Let the variants take turns and return a row for each."""
    learners = {variant: make_learner(case, variant) for variant in VARIANTS}
    milliseconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for turn in range(num_turns + 1):
        for variant, (learner, replay) in learners.items():
            begin = time.process_time()
            for _ in range(num_updates):
                learner.update(replay)
            # The first turn is for warming up.
            if turn:
                milliseconds[variant].append(1000 * (time.process_time() - begin) / num_updates)
    medians = {variant: statistics.median(found) for variant, found in milliseconds.items()}
    return [
        {
            "case": case.name,
            "variant": variant,
            "batch_size": case.config.batch_size,
            "milliseconds": round(medians[variant], 3),
            "updates_per_second": round(1000 / medians[variant], 1),
            "of_ddqn": round(medians[variant] / medians["ddqn"], 3),
        }
        for variant in VARIANTS
    ]


def measure_game(num_steps: int = 300) -> dict[str, object]:
    """Return a row for one interaction with a game, without a decision: all that could be overlapped with learning."""
    environment = make_environment("ALE/Freeway-v5")
    environment.reset(seed=0)
    begin = time.process_time()
    for number in range(num_steps):
        environment.step(number % 3)
    milliseconds = 1000 * (time.process_time() - begin) / num_steps
    row: dict[str, object] = {"case": "Freeway, a step of the game", "variant": "", "batch_size": ""}
    rate = {"milliseconds": round(milliseconds, 3), "updates_per_second": round(1000 / milliseconds, 1)}
    return row | rate | {"of_ddqn": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--updates", type=int, default=10, help="updates of one turn")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows = []
    for case in CASES:
        rows += measure(case, arguments.turns, arguments.updates)
    rows.append(measure_game())
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="An update, on one core")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "learner.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
