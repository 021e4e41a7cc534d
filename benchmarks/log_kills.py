"""Whether acknowledged steps survive: random SIGKILLs of the service under load.

    python benchmarks/log_kills.py --kills 150 --durability disk --durability process

At every level that promises to survive a kill, `hyperact serve` runs on a directory of its own while clients play on
sessions, by single calls and by streams of batches, and note every decision that they were given. The service is killed
at a random moment (one time in ten while it is still starting), started again at the same address, and so on. After
every tenth kill and at the end the log is checked as `hyperact log verify` does it (pages, digests, gaps, duplicates,
order, counters), and at the end it is read back through the service: every acknowledged step must be in it exactly
once, with the action that the client was given. Both levels run at once.

A life of the service is a fork of one process that has imported everything: that saves the seconds of imports and
nothing else of `hyperact serve`. Results go to log_kills.csv, one row a level; exit code 1 if anything was lost.
"""

import argparse
import collections
import contextlib
import csv
import importlib
import io
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hyperact.service.log_check import LogCheck
from hyperact.v1.steps import StepKey, to_key

start_seconds = 60.0
verify_period = 10
starting_fraction = 0.1


@dataclass
class Player:
    """Sessions of one thread that play until told to stop.

    Attributes:
        acknowledged: the action that each step was given.
    """

    address: str
    name: str
    num_sessions: int
    stop: threading.Event
    acknowledged: dict[StepKey, int] = field(default_factory=dict)
    failure: str = ""

    def run(self) -> None:
        """Play; whatever goes wrong is kept for whoever waits."""
        try:
            self._play()
        except Exception as error:  # noqa: BLE001 - it fails the campaign, not the thread
            self.failure = f"{self.name}: {error!r}"

    def _play(self) -> None:
        from hyperact.clients.connection import Connection
        from hyperact.clients.retries import Retries
        from hyperact.clients.sessions import VectorSession

        names = [f"{self.name}-{place}" for place in range(self.num_sessions)]
        retries = Retries(deadline_seconds=start_seconds)
        observation = np.zeros((self.num_sessions, 8), np.float32)
        with (
            Connection(self.address) as connection,
            VectorSession(connection, names, stream=self.num_sessions > 1, retries=retries) as sessions,
        ):
            number = 0
            while not self.stop.is_set():
                for decision in sessions.act(observation):
                    assert decision is not None
                    self.acknowledged[decision.step_id] = decision.action
                number += 1
                for row in range(self.num_sessions):
                    sessions.observe(row, 1.0, number % 50 == 0, False)


class Life:
    """One life of the service: a fork that runs `hyperact serve`."""

    def __init__(self, data_dir: Path, address: str, durability: str) -> None:
        self._flags = ["serve", "--data-dir", str(data_dir), "--address", address, "--metrics-address", ""]
        self._flags += ["--durability", durability, "--fallback-num-actions", "4", "--poll-seconds", "3600"]
        self._address = address
        self._output = data_dir / "serve.log"
        self._process = multiprocessing.get_context("fork").Process(target=self._run)
        self._process.start()

    def _run(self) -> None:
        from hyperact.command_line.dispatch import dispatch

        descriptor = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os._exit(dispatch(self._flags))

    def wait_until_up(self) -> None:
        """Return when it takes connections."""
        host, port = self._address.split(":")
        deadline = time.monotonic() + start_seconds
        while time.monotonic() < deadline and self._process.is_alive():
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.01)
        raise RuntimeError(f"the service did not start: {self._output.read_text()[-2000:]}")

    def end(self, number: signal.Signals) -> None:
        """Send a signal and wait for the end."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        self._process.join(start_seconds)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def import_everything() -> None:
    """Import what the service and `hyperact serve` import, without opening anything."""
    for name in ("mlflow.store.model_registry.sqlalchemy_store", "mlflow.tracking", "hyperact.service.app"):
        importlib.import_module(name)


def play_until(address: str, stop: Any, answers: Any, num_threads: int) -> None:
    """Run the players of one level, in a process of their own."""
    is_over = threading.Event()
    players = [Player(address, f"{thread}", 1 if thread % 2 else 8, is_over) for thread in range(num_threads)]
    threads = [threading.Thread(target=player.run) for player in players]
    for thread in threads:
        thread.start()
    stop.wait()
    is_over.set()
    for thread in threads:
        thread.join()
    acknowledged = {key: action for player in players for key, action in player.acknowledged.items()}
    answers.send((acknowledged, [player.failure for player in players if player.failure]))
    answers.close()


def campaign(durability: str, num_kills: int, seed: int, num_threads: int, told: Any) -> None:
    """Kill one level's service again and again; send the counts of kills, and at the end the row."""
    rng = random.Random(seed)
    address = free_address()
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    receiver, sender = spawn.Pipe(duplex=False)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        players = spawn.Process(target=play_until, args=(address, stop, sender, num_threads))
        faults: list[str] = []
        life = Life(data_dir, address, durability)
        players.start()
        sender.close()
        for kill in range(num_kills):
            if rng.random() > starting_fraction:
                life.wait_until_up()
            time.sleep(rng.uniform(0.0, 0.6))
            life.end(signal.SIGKILL)
            if kill % verify_period == 0:
                faults += map(str, LogCheck([data_dir / "log"]).run())
            life = Life(data_dir, address, durability)
            told.send(None)
        life.wait_until_up()
        time.sleep(1.0)
        stop.set()
        acknowledged, failures = receiver.recv()
        players.join()
        logged = read_back(address)
        life.end(signal.SIGTERM)
        faults += map(str, LogCheck([data_dir / "log"]).run())
    told.send(
        {
            "durability": durability,
            "kills": num_kills,
            "acknowledged": len(acknowledged),
            "in_log_once": sum(len(logged[key]) == 1 for key in acknowledged),
            "in_log_more_than_once": sum(len(actions) > 1 for actions in logged.values()),
            "lost": sum(key not in logged for key in acknowledged),
            "other_action": sum(set(logged[key]) != {acknowledged[key]} for key in acknowledged if key in logged),
            "logged": len(logged),
            "verify_faults": len(faults),
            "client_failures": len(failures),
            "seconds": round(time.perf_counter() - begin, 1),
        }
    )
    for line in (*faults[:20], *failures):
        sys.stderr.write(f"{durability}: {line}\n")


def read_back(address: str) -> dict[StepKey, list[int]]:
    """Return the actions of every step in the log, as its readers get them."""
    from hyperact.clients.connection import Connection

    found: dict[StepKey, list[int]] = collections.defaultdict(list)
    with Connection(address, timeout_seconds=start_seconds) as connection:
        for response in connection.read_log():
            for entry in response.entries:
                if entry.HasField("step"):
                    found[to_key(entry.step.step_id)].append(entry.step.action)
    return found


def run_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the levels beside each other and show how far they are."""
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        pipes = {}
        for place, durability in enumerate(arguments.durability):
            receiver, sender = multiprocessing.Pipe(duplex=False)
            given = (durability, arguments.kills, arguments.seed + place, arguments.threads, sender)
            # Forked, for the lives are: and not a daemon, for it has children.
            multiprocessing.get_context("fork").Process(target=campaign, args=given).start()
            sender.close()
            pipes[receiver] = progress.add_task(durability, total=arguments.kills)
        while pipes:
            for pipe in [pipe for pipe in pipes if pipe.poll(0.1)]:
                message = pipe.recv()
                if message is None:
                    progress.advance(pipes[pipe])
                else:
                    rows.append(message)
                    del pipes[pipe]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150, help="at each level")
    parser.add_argument("--durability", action="append", choices=["process", "disk"])
    parser.add_argument("--threads", type=int, default=4, help="clients: every second one plays eight sessions at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    arguments.durability = arguments.durability or ["disk", "process"]
    import_everything()
    rows = sorted(run_all(arguments), key=lambda row: str(row["durability"]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    content = io.StringIO()
    writer = csv.DictWriter(content, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (arguments.output / "log_kills.csv").write_text(content.getvalue())
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="SIGKILLs of the service under load")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    lost = sum(row["lost"] + row["other_action"] + row["verify_faults"] + row["client_failures"] for row in rows)
    return int(lost > 0 or any(row["in_log_once"] != row["acknowledged"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
