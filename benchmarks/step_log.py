"""How many records a second one step log takes: real steps, group commit, one event loop.

    python benchmarks/step_log.py --durability disk --observation small --group 32 --in-flight 64 --records 60000

Run it under `taskset -c 0` for the rate of one core: loop and writer thread share it then. `--group` is the number of
records of one append (a batch of decisions), `--in-flight` how many appends wait at once. Observations: `small` is
DeepSea-10 (100 bytes), `image` an Atari stack of four frames (28224 bytes).
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np

from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.decision_pb2 import Outcome, Step, StepId
from hyperact.v1.tensor_pb2 import Tensor
from hyperact.v1.tensors import to_tensor


def make_observation(name: str) -> Tensor:
    """Return one observation of a kind."""
    if name == "small":
        return to_tensor(np.eye(10, dtype=np.uint8))
    frame = np.add.outer(np.arange(84), np.arange(84)) // 16
    return to_tensor(np.stack([frame + shift for shift in range(4)]).astype(np.uint8))


def make_step(place: int, observation: Tensor) -> Step:
    """Return a step of one of 64 sessions."""
    step = Step(
        step_id=StepId(
            model="default", session=f"agent-{place % 64}", run="019a5c6d7e8f0011223344", number=place // 64
        ),
        observation=observation,
        action=1,
        version="3",
        deployment=2,
        propensity=0.5,
        margin=0.1,
        previous_outcome=Outcome(reward=0.0),
    )
    step.time.GetCurrentTime()
    return step


async def measure(arguments: argparse.Namespace) -> None:
    """Append everything and print the rates."""
    observation = make_observation(arguments.observation)
    steps = [make_step(place, observation) for place in range(arguments.records)]
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        log = StepLog.open(
            Path(directory), 0, arguments.durability, min_free_bytes=0, max_queued_records=arguments.records
        )
        slots = asyncio.Semaphore(arguments.in_flight)

        async def append(begin: int) -> None:
            async with slots:
                await log.append(steps[begin : begin + arguments.group])

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(append(begin) for begin in range(0, len(steps), arguments.group)))
        while log.num_queued:  # noqa: ASYNC110 - at level memory nobody is told
            await asyncio.sleep(0.001)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        await log.close()
        num_bytes = sum(path.stat().st_size for path in Path(directory).iterdir())  # noqa: ASYNC240 - the clock has stopped
    print(
        f"{arguments.durability} {arguments.observation} group {arguments.group} in flight {arguments.in_flight}: "
        f"{len(steps) / wall:.0f} records/s, {len(steps) / cpu:.0f} per CPU second, "
        f"{len(steps) / log.num_commits:.0f} a commit, {num_bytes / len(steps):.0f} bytes each"
    )


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durability", type=Durability, choices=list(Durability), default=Durability.DISK)
    parser.add_argument("--observation", choices=["small", "image"], default="small")
    parser.add_argument("--group", type=int, default=32)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--directory", default=None, help="where to make the database; default the temporary directory")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
