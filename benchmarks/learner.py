"""What learning costs: HyperAgent beside Double DQN, a plain sampled loss and Stable-Baselines3, on one core.

    python -m benchmarks.learner --output benchmarks/results --plot docs/images/learner.png

Three kinds of rows:

- *update*: all learn from the same random observations, in turns of a few updates, so that whatever else the machine
  does meets all alike. "compiled" and "eager" are `compile: on` and `off`. On frames a row tells what the networks'
  multiplications alone would take as one large matrix product.
- *step*: environment steps with their updates, in `train`'s loop; evaluations are not among them.
- *solved*: DeepSea-20 until the papers' criterion, evaluations included (`--seeds`). Compiling, from a filled cache,
  has a row of its own.

Figures are milliseconds of this process's processor time: the median over turns (over seeds for *solved*), and how many
times compiled HyperAgent's they are. Results go to learner.csv.
"""

import argparse
import csv
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.update_peers.plain_torsos import plain_torso
from benchmarks.update_peers.sampled_loss import SampledLearner
from benchmarks.update_peers.stable_baselines import StableBaselinesLearner, make_dqn, play_steps
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import nn

from hyperact.trainer import train as training
from hyperact.trainer.allocator import keep_freed_memory
from hyperact.trainer.bench.subjects import Subject
from hyperact.trainer.config import LearnerConfig, NetworkConfig, atari, atari_networks, deep_sea
from hyperact.trainer.curves import Curves
from hyperact.trainer.environments import make_environment, optimal_return
from hyperact.trainer.learner import Learner
from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.sea_walk import SeaWalk
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule, ModelSpec
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import make_spec

NUM_TRANSITIONS = 1000
FIRST = "HyperAgent, compiled"
MODES = {"compiled": "on", "eager": "off"}
NAMES = {
    "hyperagent": "HyperAgent",
    "ddqn": "Double DQN",
    "hyperagent_sampled": "HyperAgent with 20 indices",
}

KINDS = ("update", "step", "solved")

Row = dict[str, str]


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
    Case("DeepSea-100 MLP", (100, 100), 2, deep_sea.with_overrides({"replay_capacity": NUM_TRANSITIONS})),
    *(atari_case(f"Atari, {name}", network) for name, network in atari_networks.items()),
]


def make_transitions(case: Case) -> list[NStepTransition]:
    """Return one long episode: of random frames, or of random cells of the sea."""
    rng = np.random.default_rng(0)
    if len(case.shape) == 3:
        frames = rng.integers(0, 256, (NUM_TRANSITIONS + case.shape[0] + 1, *case.shape[1:]), np.uint8)
        observations = [frames[at : at + case.shape[0]] for at in range(NUM_TRANSITIONS + 1)]
    else:
        cells = rng.integers(0, np.prod(case.shape), NUM_TRANSITIONS + 1)
        observations = [(np.arange(np.prod(case.shape)) == cell).astype(np.uint8).reshape(case.shape) for cell in cells]
    run = StepKey("default", "agent", "run", 0, 0)
    return [
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


def our_update(case: Case, variant: str, mode: str, transitions: Sequence[NStepTransition]) -> Callable[[], object]:
    config = variant_config(variant, case.config).with_overrides({"compile": mode})
    learner = Learner(variant_spec(variant, case.make_spec()), config, 0)
    replay = learner.make_replay()
    replay.add(transitions)
    return lambda: learner.update(replay)


def make_updates(case: Case) -> dict[str, Callable[[], object]]:
    """Return what makes one update, by name."""
    transitions = make_transitions(case)
    updates = {
        f"{name}, {mode}": our_update(case, variant, setting, transitions)
        for mode, setting in MODES.items()
        for variant, name in NAMES.items()
    }
    sampled = case.config.with_overrides({"num_indices": 20})
    updates["plain sampled loss, 20 indices"] = SampledLearner(transitions, case.num_actions, 4, sampled).update
    updates["Stable-Baselines3 DQN"] = StableBaselinesLearner(transitions, case.num_actions, case.config).update
    if len(case.shape) == 3:
        updates["the multiplications alone"] = matrix_product(num_multiplications(case))
    return updates


def num_multiplications(case: Case) -> int:
    """Return the multiply-adds of Double DQN's update in the torso: three forward passes and a backward one.

    Backward costs two forwards, but for the first layer, which nobody asks for the gradient of its inputs.
    """
    torso = plain_torso(case.shape, case.config.network)
    counts: list[int] = []
    for layer in torso:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, _, out: counts.append(layer.weight[0].numel() * out[0].numel()))
    torso(torch.zeros(1, *case.shape))
    return case.config.batch_size * (5 * sum(counts) - counts[0])


def matrix_product(num_multiplications: int) -> Callable[[], object]:
    """Return a product of matrices with that many multiply-adds."""
    left, right = torch.randn(num_multiplications // 1024**2, 1024), torch.randn(1024, 1024)
    return lambda: left @ right


def make_steps(size: int) -> dict[str, Callable[[], object]]:
    """Return what makes one environment step with its update, by name. The first ones only warm up."""
    steps = {f"HyperAgent, {mode}": our_step(size, setting) for mode, setting in MODES.items()}
    dqn = make_dqn(Subject("hyperagent", size, 0).make_environment(), deep_sea)
    play_steps(dqn, deep_sea.min_replay_size)
    # The library plays whole stretches; setting one up would count too much beside a single step.
    steps["Stable-Baselines3 DQN"] = in_stretches(lambda: play_steps(dqn, 100), 100)
    return steps


def our_step(size: int, mode: str) -> Callable[[], object]:
    subject = Subject("hyperagent", size, 0, f'{{"compile": "{mode}"}}')
    learner = subject.make_learner()
    steps = training.train(subject.make_environment(), learner, learner.make_replay(), Curves(), "deepsea", 0)
    for _ in range(deep_sea.min_replay_size + 1):
        next(steps)
    return lambda: next(steps)


def in_stretches(play: Callable[[], object], length: int) -> Callable[[], object]:
    """Return a step of which the first of each `length` does the work of all."""
    calls: Iterator[int] = itertools.cycle(range(length))
    return lambda: play() if next(calls) == 0 else None


def take_turns(contestants: Mapping[str, Callable[[], object]], num_turns: int, num_calls: int) -> dict[str, float]:
    """Return the median milliseconds of processor time that a call takes."""
    milliseconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(num_turns + 1):
        for name, call in contestants.items():
            begin = time.process_time()
            for _ in range(num_calls):
                call()
            # The first turn is for warming up.
            if turn:
                milliseconds[name].append(1000 * (time.process_time() - begin) / num_calls)
    return {name: statistics.median(found) for name, found in milliseconds.items()}


def make_rows(kind: str, case: str, milliseconds: Mapping[str, float]) -> list[Row]:
    first = milliseconds.get(FIRST)
    return [
        {
            "kind": kind,
            "case": case,
            "learner": name,
            "milliseconds": f"{found:.3f}",
            "per_second": f"{1000 / found:.4g}",
            "of_first": f"{found / first:.2f}" if first else "",
        }
        for name, found in milliseconds.items()
    ]


def solve(seed: int, mode: str) -> tuple[float, float]:
    """Play DeepSea-20 until it is solved; return the seconds of the first update, and of all else."""
    subject = Subject("hyperagent", 20, seed, f'{{"compile": "{mode}"}}')
    begin = time.process_time()
    environment, learner = subject.make_environment(), subject.make_learner()
    walk, best = SeaWalk(environment), optimal_return(environment)
    assert best is not None
    seconds_compiling = 0.0
    before = begin
    for progress in training.train(environment, learner, learner.make_replay(), Curves(), "deepsea", seed):
        if learner.num_learner_steps == 1 and not seconds_compiling:
            seconds_compiling = time.process_time() - before
        before = time.process_time()
        if progress.num_steps % 1000 == 0:
            returns = walk.evaluation_returns(learner, "deepsea", seed, 100)
            if training.is_solved([float(value) for value in returns], best):
                break
    return seconds_compiling, time.process_time() - begin - seconds_compiling


def solved_rows(seeds: Sequence[int]) -> list[Row]:
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for mode, setting in MODES.items():
            compiling, rest = solve(seed, setting)
            found.setdefault(f"HyperAgent, {mode}", []).append(1000 * rest)
            # Later learners of this process use what the first one compiled.
            if mode == "compiled" and seed == seeds[0]:
                found["compiling, cached"] = [1000 * compiling]
    medians = {name: statistics.median(values) for name, values in found.items()}
    return make_rows("solved", f"DeepSea-20, {len(seeds)} seeds", medians)


def game_step() -> Callable[[], object]:
    """Return one interaction with a game, without a decision: all that could be overlapped with learning."""
    environment = make_environment("ALE/Freeway-v5")
    environment.reset(seed=0)
    numbers = itertools.count()
    return lambda: environment.step(next(numbers) % 3)


def make_figure(rows: Sequence[Row]) -> Figure:
    """Return the updates' milliseconds as bars, a panel per case."""
    updates = [row for row in rows if row["kind"] == "update"]
    cases = list(dict.fromkeys(row["case"] for row in updates))
    figure = Figure(figsize=(13, 2.6), layout="constrained")
    axes = figure.subplots(1, len(cases), sharey=True)
    for axis, case in zip(axes, cases, strict=True):
        found = [row for row in updates if row["case"] == case]
        names = [row["learner"] for row in found]
        colours = ["C0" if name.startswith("HyperAgent,") else "C7" for name in names]
        axis.barh(names, [float(row["milliseconds"]) for row in found], color=colours)
        axis.set(title=case, xlabel="ms an update")
    axes[0].invert_yaxis()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--updates", type=int, default=80, help="updates of one turn; on frames a fortieth")
    parser.add_argument("--steps", type=int, default=200, help="environment steps of one turn, a multiple of 100")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of DeepSea-20 that are solved")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="rows of others are kept")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    path = arguments.output / "learner.csv"
    rows = [row for row in read_rows(path) if row["kind"] not in arguments.kinds]
    for found in measure(arguments):
        Console(width=120).print(make_table(found))
        rows += found
    rows.sort(key=lambda row: KINDS.index(row["kind"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if arguments.plot:
        make_figure(rows).savefig(arguments.plot, dpi=120)


def measure(arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield rows as they are measured."""
    # First, while nothing is compiled yet.
    if "solved" in arguments.kinds:
        yield solved_rows(range(arguments.seeds))
    if "update" in arguments.kinds:
        for case in CASES:
            # One on frames takes as long as forty on a small grid.
            num_updates = max(arguments.updates // (40 if len(case.shape) == 3 else 1), 2)
            yield make_rows("update", case.name, take_turns(make_updates(case), arguments.turns, num_updates))
    if "step" in arguments.kinds:
        for size in (20, 100):
            milliseconds = take_turns(make_steps(size), arguments.turns, arguments.steps)
            yield make_rows("step", f"DeepSea-{size}", milliseconds)
        yield make_rows("step", "Freeway", take_turns({"the game alone": game_step()}, 3, 100))


def make_table(rows: Sequence[Row]) -> Table:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    return table


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
