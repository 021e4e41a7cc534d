"""The demo over several seeds, and under SIGKILLs of its service.

    python benchmarks/demo.py --seeds 5                # deployments, episodes and seconds to solve DeepSea-10
    python benchmarks/demo.py --seeds 3 --kills 5      # the same while the service is killed at random moments

Each run is `hyperact demo` as a person would start it, in a directory of its own, and keeps a transcript of the steps
that the service acknowledged. Afterwards the log is read back through LogService: every acknowledged step must be in it
exactly once. Results go to demo.csv (or demo_kills.csv), one row a seed.
"""

import argparse
import collections
import csv
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hyperact.clients.children import Children
from hyperact.clients.connection import Connection
from hyperact.clients.demo.deep_sea import commands
from hyperact.clients.demo.sea import DemoSettings, model_name
from hyperact.clients.demo.stage import free_address, wait_until_ready
from hyperact.v1.steps import to_key

HYPERACT = [sys.executable, "-m", "hyperact.command_line"]


def run_once(seed: int, num_kills: int, step_seconds: float, rng: random.Random) -> dict[str, Any]:
    """Run one demo to its end and return what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "demo"
        transcript = Path(folder) / "transcript.txt"
        begin = time.perf_counter()
        demo = subprocess.Popen(
            [
                *(*HYPERACT, "demo", "--data-dir", str(data_dir), "--seed", str(seed)),
                *("--transcript", str(transcript), "--step-seconds", str(step_seconds)),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        num_killed = kill_service(demo, data_dir, num_kills, rng)
        output, _ = demo.communicate(timeout=900)
        seconds = time.perf_counter() - begin
        with (data_dir / "results.csv").open() as file:
            deployments = [row for row in csv.DictReader(file) if row["version"]]
        acknowledged = transcript.read_text().split()
        counts = count_logged(data_dir)
        return {
            "seed": seed,
            "solved": int(demo.returncode == 0),
            "deployments": len(deployments),
            "training_episodes": int(re.findall(r"\((\d+) training episodes", output)[-1]),
            "seconds": round(seconds, 1),
            "kills": num_killed,
            "acknowledged": len(set(acknowledged)),
            "in_log_once": sum(counts[step] == 1 for step in set(acknowledged)),
            "in_log_more_than_once": sum(count > 1 for count in counts.values()),
        }


def kill_service(demo: "subprocess.Popen[str]", data_dir: Path, num_kills: int, rng: random.Random) -> int:
    """Kill the demo's service at random moments, each time after it has served again; return how often it was."""
    num_killed = 0
    log = data_dir / "serve.log"
    while num_killed < num_kills and demo.poll() is None:
        if not log.exists() or log.read_text(errors="replace").count("] serving ") <= num_killed:
            time.sleep(0.1)
            continue
        time.sleep(rng.uniform(0.0, 5.0))
        for pid in service_pids(data_dir):
            os.kill(pid, signal.SIGKILL)
            num_killed += 1
    return num_killed


def service_pids(data_dir: Path) -> list[int]:
    """Return the processes that run `serve` on a demo's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"serve" in words and str(data_dir).encode() in words:
                found.append(int(entry.name))
    return found


def count_logged(data_dir: Path) -> "collections.Counter[str]":
    """Return how often each step stands in the log, read through a service of its own."""
    settings = DemoSettings.model_validate({})
    address = free_address()
    command = commands(settings, data_dir, address, free_address())["serve"]
    with Children({}) as children, Connection(address, timeout_seconds=60) as connection:
        children.start("serve", command, data_dir / "count.log")
        wait_until_ready(connection, children, 60)
        return collections.Counter(
            str(to_key(entry.step.step_id))
            for response in connection.read_log(model_name(settings))
            for entry in response.entries
            if entry.HasField("step")
        )


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows and their medians."""
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="DeepSea-10 through the service")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console(width=140)
    console.print(table)
    for name in ("deployments", "training_episodes", "seconds"):
        values = [row[name] for row in rows]
        console.print(f"{name}: mean {statistics.mean(values):.1f}, median {statistics.median(values):g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of the service in each run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    rng = random.Random(0)
    rows = []
    for seed in range(arguments.seeds):
        rows.append(run_once(seed, arguments.kills, 0.1 if arguments.kills else 0.0, rng))
        Console(stderr=True).print(rows[-1])
    arguments.output.mkdir(parents=True, exist_ok=True)
    name = "demo_kills.csv" if arguments.kills else "demo.csv"
    with (arguments.output / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    show(rows)


if __name__ == "__main__":
    main()
