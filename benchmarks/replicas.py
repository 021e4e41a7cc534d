"""Two replicas, one stream, one trainer: DeepSea is solved while replicas are killed in the middle of episodes.

    PYTHONPATH=tests python benchmarks/replicas.py --seeds 3 --kills 4

Each run: a NATS cluster of three servers, two `hyperact serve` with data directories of their own that ship to it and
share keys and registry, one `hyperact retrain` that reads the stream. Sessions play through both addresses. At random
steps in the middle of episodes a replica gets SIGKILL, and is started again some episodes later, or when the sessions
wait for the trainer. A deployment is measured by 100 evaluation episodes through the replicas; a run is over when all
are optimal. Afterwards the stream is read: every acknowledged step must be on it once, and every episode must have kept
its version and its index, whoever decided its steps. Results go to replicas.csv, one row a seed.
"""

import argparse
import asyncio
import collections
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gymnasium.vector import AutoresetMode, SyncVectorEnv
from rich.console import Console
from rich.table import Table

from hyperact.clients.connection import Connection
from hyperact.clients.deep_sea import DeepSea
from hyperact.clients.episodes import track_episodes
from hyperact.clients.retries import Retries
from hyperact.clients.run_loop import at_most, play_steps
from hyperact.clients.sessions import VectorSession
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.steps import StepKey, to_key
from toy_nats import NatsCluster, running_nats
from toy_replicas import Replica, start_seconds, write_keys

MODEL, SIZE = "deepsea", 10
NUM_SESSIONS, EPISODES, EVALUATION_EPISODES = 16, 20, 100
MAX_DEPLOYMENTS = 40
DEPLOYMENT_SECONDS = 180.0


class Killer:
    """Kills a replica at some steps, and starts it again so many steps later."""

    def __init__(self, replicas: list[Replica], num_kills: int, rng: random.Random) -> None:
        self.num_kills = 0
        self._replicas = replicas
        self._rng = rng
        self._left = num_kills
        self._next = rng.randint(50, 250)
        self._down: Replica | None = None

    def step(self) -> None:
        """Note that a step was acknowledged."""
        self._next -= 1
        if self._next > 0:
            return
        if self._down is not None:
            self._down.start()
            self._down, self._next = None, self._rng.randint(200, 600)
        elif self._left:
            self._down = self._rng.choice(self._replicas)
            self._down.end(signal.SIGKILL)
            self._left, self.num_kills, self._next = self._left - 1, self.num_kills + 1, self._rng.randint(100, 300)

    def mend(self) -> None:
        """Start what is down."""
        if self._down is not None:
            self._down.start()
            self._down = None


@contextmanager
def trainer(shared: Path, broker: NatsCluster, seed: int) -> Iterator[None]:
    """Run `hyperact retrain` on the stream until the block ends."""
    flags = ["retrain", "--data-dir", str(shared / "trainer"), "--tracking-uri", f"sqlite:///{shared / 'mlflow.db'}"]
    flags += ["--log", broker.url, "--model", MODEL, "--env", "hyperact/DeepSea-v0", "--seed", str(seed)]
    flags += ["--env-kwargs", json.dumps({"size": SIZE, "mapping_seed": seed}), "--min-new-steps", str(EPISODES * SIZE)]
    with (shared / "trainer.txt").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hyperact.command_line", *flags],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


class Run:
    """One seed: plays, waits for deployments, measures them."""

    def __init__(self, connection: Connection, seed: int, killer: Killer) -> None:
        self.acknowledged: set[StepKey] = set()
        self.num_episodes = 0
        self._connection = connection
        self._killer = killer
        self._sea = DeepSea(SIZE, mapping_seed=seed)
        self._seed = seed
        self._training = self._seas(NUM_SESSIONS)
        self._evaluation = self._seas(EVALUATION_EPISODES)
        self._divers = self._sessions("diver", NUM_SESSIONS, evaluation=False)

    def play(self) -> int:
        """Play until a deployment solves the sea; return its number, 0 if none did."""
        deployment = 0
        while deployment < MAX_DEPLOYMENTS:
            self.num_episodes += len(self._episodes(self._training, self._divers, EPISODES))
            self._killer.mend()  # or the trainer waits for steps that the dead replica has not shipped
            deployment = self._await_deployment(deployment)
            judges = self._sessions(f"judge-{deployment}", EVALUATION_EPISODES, evaluation=True)
            returns = self._episodes(self._evaluation, judges, EVALUATION_EPISODES)
            optimal = sum(one >= self._sea.optimal_return - 1e-6 for one in returns)
            Console(stderr=True).print(
                f"seed {self._seed}: deployment {deployment}: {optimal} of {len(returns)} optimal"
            )
            if optimal == EVALUATION_EPISODES:
                return deployment
        return 0

    def _episodes(self, seas: Any, sessions: VectorSession, number: int) -> list[float]:
        returns = []
        for step, episode in track_episodes(play_steps(seas, sessions, may_begin=at_most(number))):
            self.acknowledged.add(step.decision.step_id)
            if episode is not None:
                returns.append(episode.episode_return)
            self._killer.step()
        sessions.close_episodes()
        return returns

    def _await_deployment(self, deployment: int) -> int:
        deadline = time.monotonic() + DEPLOYMENT_SECONDS
        while time.monotonic() < deadline:
            (status,) = self._connection.get_status(MODEL).models
            if status.HasField("spec") and status.deployment.number > deployment:
                return int(status.deployment.number)
            time.sleep(0.1)
        raise SystemExit(f"no deployment after {deployment} for {DEPLOYMENT_SECONDS:.0f} s")

    def _sessions(self, prefix: str, number: int, *, evaluation: bool) -> VectorSession:
        names = [f"{prefix}-{row}" for row in range(number)]
        retries = Retries(deadline_seconds=start_seconds)
        return VectorSession(
            self._connection, names, model=MODEL, evaluation=evaluation, max_batch=EVALUATION_EPISODES, retries=retries
        )

    def _seas(self, number: int) -> Any:
        make = lambda: DeepSea(SIZE, mapping_seed=self._seed)  # noqa: E731
        return SyncVectorEnv([make] * number, autoreset_mode=AutoresetMode.SAME_STEP)


def run_once(seed: int, num_kills: int) -> dict[str, Any]:
    """Run one seed and return what became of it."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        shared = Path(folder)
        write_keys(shared)
        broker = stack.enter_context(running_nats(shared / "nats", 3))
        flags = ["--models", MODEL, "--fallback-num-actions", "2", "--poll-seconds", "0.2", "--nats-replicas", "3"]
        replicas = [Replica(shared, name, broker, flags) for name in ("one", "two")]
        for replica in replicas:
            stack.callback(replica.end, signal.SIGKILL)
            replica.start()
        stack.enter_context(trainer(shared, broker, seed))
        killer = Killer(replicas, num_kills, random.Random(seed))
        begin = time.perf_counter()
        connection = stack.enter_context(Connection(",".join(one.address for one in replicas), timeout_seconds=90))
        run = Run(connection, seed, killer)
        deployment = run.play()
        seconds = time.perf_counter() - begin
        killer.mend()
        for replica in replicas:
            replica.end()
        entries = asyncio.run(broker.entries())
    return {
        "seed": seed,
        "solved": int(deployment > 0),
        "deployments": deployment,
        "training_episodes": run.num_episodes,
        "seconds": round(seconds, 1),
        "kills": killer.num_kills,
        "acknowledged": len(run.acknowledged),
        **judge(run.acknowledged, entries),
    }


def judge(acknowledged: set[StepKey], entries: list[LogEntry]) -> dict[str, int]:
    """Return what the stream says of the acknowledged steps, and of their episodes."""
    steps = [entry for entry in entries if entry.HasField("step")]
    counts = collections.Counter(to_key(entry.step.step_id) for entry in steps)
    episodes: dict[tuple[str, str, int], list[LogEntry]] = {}
    for entry in steps:
        key = to_key(entry.step.step_id)
        if key in acknowledged:
            episodes.setdefault((key.session, key.run, key.episode), []).append(entry)
    return {
        "on_the_stream_once": sum(counts[key] == 1 for key in acknowledged),
        "on_the_stream_more_than_once": sum(count > 1 for count in counts.values()),
        "episodes": len(episodes),
        "episodes_by_both": sum(len({one.partition for one in part}) > 1 for part in episodes.values()),
        "episodes_that_changed": sum(
            len({(one.step.version, one.step.segment, one.step.index_key_id) for one in part}) > 1
            for part in episodes.values()
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=4, help="SIGKILLs of replicas in each run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        rows.append(run_once(seed, arguments.kills))
        Console(stderr=True).print(rows[-1])
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "replicas.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="DeepSea-10 through two replicas")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
