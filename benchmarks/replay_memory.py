"""How much memory 500,000 Atari transitions take in the replay buffer: filled, and measured from outside.

    python benchmarks/replay_memory.py --output benchmarks/results

Frames are random bytes, which nothing can share or compress; episodes have 1,000 steps. The prior answers for 18
actions and 5 coefficients, the most that Atari asks for. "resident" is what the process grew by, "reckoned" what the
buffer says of itself, "as stacks" what keeping whole observations would take. Results go to replay_memory.csv.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.observations import Observations
from hyperact.trainer.replay import Replay
from hyperact.v1.indices import UNIT_SPHERE, Float32s
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import make_spec

NUM_ACTIONS, INDEX_DIM, STACK, EPISODE = 18, 4, 4, 1000
GIB = 1 << 30


def resident_bytes() -> int:
    """Return the memory that this process has in use."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) << 10
    raise RuntimeError("expected VmRSS in /proc/self/status")


def make_replay(capacity: int) -> Replay:
    spec = ModelSpec(
        observation=make_spec(np.uint8, (STACK, 84, 84)), index_dim=INDEX_DIM, reference_distribution=UNIT_SPHERE
    )
    spec.action.discrete.num_actions = NUM_ACTIONS

    def prior(observations: Observations) -> Float32s:
        return np.ones((len(observations), NUM_ACTIONS, INDEX_DIM + 1), np.float32)

    return Replay(spec, capacity, prior, num_stacked=STACK)


def fill(replay: Replay, num_transitions: int, rng: np.random.Generator) -> None:
    """Add transitions of one step, the frames all different."""
    for episode in range(-(-num_transitions // EPISODE)):
        frames = rng.integers(0, 256, (EPISODE + STACK, 84, 84), np.uint8)
        run = StepKey("atari", "train", "run", episode, 0)
        replay.add(
            [
                NStepTransition(
                    key=run._replace(number=number),
                    observation=frames[number : number + STACK],
                    action=number % NUM_ACTIONS,
                    reward=0.0,
                    discount=0.99,
                    next_observation=frames[number + 1 : number + 1 + STACK],
                    next_number=number + 1,
                    next_action_mask=b"",
                )
                for number in range(EPISODE)
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=500_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    before = resident_bytes()
    replay = make_replay(arguments.transitions)
    begin = time.perf_counter()
    # Once around the whole ring, so that every page was written.
    fill(replay, int(1.2 * arguments.transitions), np.random.default_rng(0))
    row = {
        "transitions": len(replay),
        "resident_gib": round((resident_bytes() - before) / GIB, 2),
        "reckoned_gib": round(replay.num_bytes / GIB, 2),
        "as_stacks_gib": round(arguments.transitions * STACK * 84 * 84 / GIB, 2),
        "seconds_to_fill": round(time.perf_counter() - begin, 1),
    }
    table = Table(*(name.replace("_", " ") for name in row))
    table.add_row(*map(str, row.values()))
    Console().print(table)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "replay_memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
