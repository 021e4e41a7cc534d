"""The return of an Atari policy through the service beside its return in the process that learned it.

    hyperact bench atari --games Freeway --policies policies
    python benchmarks/atari_serving.py policies/hyperagent-Freeway-atari-0.npz --game Freeway --episodes 10

The learner's state is exported, registered and promoted in a registry of its own; a service serves it; the Atari client
plays full games with raw rewards through it, as evaluation. The same number of games is then played in this process by
torch. Both sides draw fresh indices under keys of their own, so returns differ by chance: what counts is the difference
in standard errors. Results go to atari_serving.csv.
"""

import argparse
import csv
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hyperact.clients.connection import Connection
from hyperact.clients.episodes import track_episodes
from hyperact.clients.games import make_environments, resolve_game
from hyperact.clients.run_loop import at_most, play_steps
from hyperact.clients.sessions import VectorSession
from hyperact.trainer.bench.atari import AtariRun
from hyperact.trainer.export import Lineage
from hyperact.trainer.gate_evidence import Examiner, Recent
from hyperact.trainer.learner import Learner
from hyperact.trainer.releases import Releases
from hyperact.trainer.tracking import Tracking
from hyperact.trainer.train import evaluation_returns
from hyperact.v1.gates import GateLimits
from hyperact.v1.made_up import made_up_observations

MODEL = "atari"


def load_learner(policy: Path, run: AtariRun) -> Learner:
    """Return the learner whose state a benchmark run kept."""
    spec = run.make_spec()
    learner = Learner(spec, run.make_config(spec), run.seed)
    with np.load(policy, allow_pickle=False) as file:
        learner.set_state({name: file[name] for name in file.files})
    return learner


def promote(learner: Learner, data_dir: Path, environment: str) -> str:
    """Export, register and promote; return the version."""
    tracking = Tracking("", data_dir, MODEL, "champion")
    run_id = tracking.start_run("atari", {}, {})
    releases = Releases(tracking, GateLimits(), "atari_serving", True, Examiner(tracking))
    lineage = Lineage(model=MODEL, run_id=run_id, num_learner_steps=learner.num_learner_steps, environment=environment)
    recent = Recent(made_up_observations(learner.spec))
    release = releases.release(f"{run_id}/0", learner, recent, lineage, 0, datetime.now(UTC))
    if release.deployment is None:
        raise RuntimeError(f"the version was not promoted: {release.gate_report}")
    return release.version


@contextmanager
def serving(data_dir: Path) -> Iterator[Connection]:
    """Serve a registry on a free port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "hyperact.service", "--data-dir", str(data_dir), "--address", address]
    options = ["--models", MODEL, "--metrics-address", "", "--require-version", "true"]
    with (data_dir / "serve.log").open("w") as log:
        process = subprocess.Popen([*command, *options], stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            with Connection(address, timeout_seconds=60) as connection:
                wait_until_ready(connection)
                yield connection
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_until_ready(connection: Connection) -> None:
    connection.wait_until_reachable()
    deadline = time.monotonic() + 60
    while not connection.get_status().is_ready:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the service is not ready: {connection.get_status().problem}")
        time.sleep(0.2)


def returns_through(connection: Connection, game: str, num_episodes: int, num_rows: int, seed: int) -> list[float]:
    """Play evaluation episodes by the service with the Atari client."""
    resolved = resolve_game("atari", {}, size=10, mapping_seed=0, game=game, training=False)
    environments = make_environments(resolved, num_rows)
    spec = connection.get_spec()
    names = [f"evaluation-{row}" for row in range(num_rows)]
    with VectorSession(connection, names, model=spec.model, evaluation=True, max_batch=spec.max_batch) as sessions:
        steps = play_steps(environments, sessions, seed=seed, may_begin=at_most(num_episodes))
        ended = [episode for _, episode in track_episodes(steps, is_evaluation=True) if episode is not None]
    environments.close()
    return [episode.episode_return for episode in ended]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="what `hyperact bench atari --policies` kept")
    parser.add_argument("--game", default="Freeway")
    parser.add_argument("--torso", default="atari")
    parser.add_argument("--variant", default="hyperagent")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--rows", type=int, default=2, help="games side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = AtariRun(arguments.variant, arguments.game, arguments.seed, 0, torso=arguments.torso)
    learner = load_learner(arguments.policy, run)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        version = promote(learner, Path(directory), f"ALE/{arguments.game}-v5")
        with serving(Path(directory)) as connection:
            begin = time.perf_counter()
            served = returns_through(
                connection, arguments.game, arguments.episodes, arguments.rows, arguments.seed + 1000
            )
            rows.append(to_row(f"service, version {version}", served, time.perf_counter() - begin))
    begin = time.perf_counter()
    games = run.make_environment(is_training=False)
    local = evaluation_returns(games, learner, MODEL, arguments.seed + 1000, arguments.episodes)
    rows.append(to_row("in process", local, time.perf_counter() - begin))
    show(rows, learner.num_learner_steps, arguments.game)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "atari_serving.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def to_row(name: str, returns: list[float], seconds: float) -> dict[str, object]:
    error = statistics.stdev(returns) / len(returns) ** 0.5 if len(returns) > 1 else float("nan")
    return {
        "played": name,
        "episodes": len(returns),
        "mean_return": round(statistics.fmean(returns), 3),
        "standard_error": round(error, 3),
        "returns": " ".join(f"{value:g}" for value in returns),
        "seconds": round(seconds, 1),
    }


def show(rows: list[dict[str, object]], num_learner_steps: int, game: str) -> None:
    table = Table(
        *(name.replace("_", " ") for name in rows[0]), title=f"{game} after {num_learner_steps} learner steps"
    )
    for row in rows:
        table.add_row(*map(str, row.values()))
    means, errors = ([float(str(row[name])) for row in rows] for name in ("mean_return", "standard_error"))
    console = Console(width=140)
    console.print(table)
    spread = (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    console.print(
        f"difference {means[0] - means[1]:+.2f}, in standard errors {(means[0] - means[1]) / max(spread, 1e-9):+.2f}"
    )


if __name__ == "__main__":
    main()
