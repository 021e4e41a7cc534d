"""Memory over millions of steps and a hundred thousand sessions: does anything grow that should not?

    python -m benchmarks.soak --minutes 20 --sessions 100000 --output benchmarks/results

`hyperact serve` runs with everything on (log at `disk`, tokens, propensities, metrics) and a retention of the log that
keeps the disk from filling. Streams with 32 rows a message play DeepSea-20 observations for so many sessions in turn;
now and then 32 sessions leave and 32 that nobody has seen come, so that the service forgets as it goes on. Every minute
the alias moves to a version that is loaded anew. Results go to soak.csv, a row every few seconds; `--plot` writes the
curve. The line at the end tells how fast memory still grew in the second half.
"""

import argparse
import asyncio
import csv
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from benchmarks.served import Served, make_versions, registry_of, serving
from rich.console import Console

from hyperact.clients.load.agents import LoadAgent
from hyperact.clients.load.patterns import RowError, by_stream
from hyperact.v1.decision_pb2 import GetSpecRequest
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub

DEEP_SEA = ["--env", "hyperact.clients.deep_sea:hyperact/DeepSea-v0", "--env-kwargs", '{"size": 20}']
ROWS, STREAMS = 32, 4
MESSAGES_PER_SESSION = 500  # on average, then another one comes in its place
SAMPLE_SECONDS = 5.0
PROMOTION_SECONDS = 60.0
RETENTION_BYTES = 256 << 20


@dataclass
class Player:
    """Plays many sessions in turn, 32 a message. `counts` is shared: steps, sessions, failed messages."""

    address: str
    num_sessions: int
    counts: Any
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    async def play(self, until: float) -> None:
        """Play until a Unix time."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub: Any = DecisionServiceStub(channel)
            self._spec = (await stub.GetSpec(GetSpecRequest())).spec
            parts = [range(part, self.num_sessions // ROWS, STREAMS) for part in range(STREAMS)]
            await asyncio.gather(*(self._play_part(stub, len(part), until) for part in parts))

    async def _play_part(self, stub: Any, num_groups: int, until: float) -> None:
        send = by_stream(stub)
        groups = [self._new_group() for _ in range(num_groups)]
        place = 0
        while time.time() < until:
            if self.rng.random() < 1 / MESSAGES_PER_SESSION:
                groups[place] = self._new_group()
            try:
                await send(groups[place])
                self.counts[0] += ROWS
            except (grpc.aio.AioRpcError, RowError) as error:
                self.counts[2] += 1
                print(f"a message failed: {error}", flush=True)
            place = (place + 1) % num_groups

    def _new_group(self) -> list[LoadAgent]:
        first = self.counts[1]
        self.counts[1] += ROWS
        return [LoadAgent(f"soak-{first + row}", "", self._spec, seed=(first + row) % 1000) for row in range(ROWS)]


def play(address: str, num_sessions: int, until: float, counts: Any) -> None:
    """Be the process that plays."""
    uvloop.run(Player(address, num_sessions, counts).play(until))


def soak(served: Served, data_dir: Path, sources: Sequence[str], minutes: float, num_sessions: int) -> list[Any]:
    """Play for some minutes and return what was seen of the service meanwhile."""
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 3)
    begun = time.time()
    player = context.Process(target=play, args=(served.address, num_sessions, begun + 60 * minutes, counts))
    player.start()
    rows: list[dict[str, Any]] = []
    client, promotions = registry_of(data_dir), 0
    while player.is_alive():
        player.join(SAMPLE_SECONDS)
        seconds = time.time() - begun
        if seconds > (promotions + 1) * PROMOTION_SECONDS:
            promotions += 1
            source = sources[promotions % len(sources)]
            version = client.create_model_version("default", source).version
            client.set_registered_model_alias("default", "champion", version)
        rows.append(observe(served, data_dir, seconds, list(counts[:]), promotions))
        Console(stderr=True).print(rows[-1])
    return rows


def observe(served: Served, data_dir: Path, seconds: float, counts: Sequence[int], promotions: int) -> dict[str, Any]:
    """Return one row of the curve."""
    metrics = served.metrics()
    return {
        "seconds": round(seconds, 1),
        "steps": counts[0],
        "sessions_seen": counts[1],
        "failed_messages": counts[2],
        "sessions_remembered": int(metrics["hyperact_sessions"]),
        "promotions": promotions,
        "rss_mib": round(served.rss_bytes() / 2**20, 1),
        "log_mib": round(sum(file.stat().st_size for file in (data_dir / "log").rglob("*.sqlite*")) / 2**20, 1),
        "cpu_seconds": served.cpu_seconds(),
    }


def growth(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return MiB a million steps over the second half of all, by least squares, and the spread around it."""
    some = [row for row in rows if row["steps"] > rows[-1]["steps"] / 2]
    steps = np.array([row["steps"] / 1e6 for row in some])
    rss = np.array([row["rss_mib"] for row in some])
    slope, level = np.polyfit(steps, rss, 1)
    return float(slope), float(np.abs(rss - level - slope * steps).max())


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw memory and sessions over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    steps = [row["steps"] / 1e6 for row in rows]
    axes.plot(steps, [row["rss_mib"] for row in rows], label="resident memory, MiB")
    axes.plot(steps, [row["sessions_remembered"] / 1000 for row in rows], label="sessions remembered, thousands")
    axes.plot(steps, [row["sessions_seen"] / 1000 for row in rows], ":", label="sessions seen, thousands")
    axes.set(title="One worker under a long load", xlabel="steps decided and logged, millions", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--sessions", type=int, default=100_000, help="sessions that take turns")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        sources = make_versions(data_dir, DEEP_SEA, seeds=range(2))
        flags = ["--durability", "disk", "--log-retention-bytes", str(RETENTION_BYTES)]
        with serving(data_dir, *flags, "--drain-deadline-seconds", "90", "--max-wait-ms", "0") as served:
            rows = soak(served, data_dir, sources, arguments.minutes, arguments.sessions)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if arguments.plot:
        plot(rows, arguments.plot)
    slope, spread = growth(rows)
    last = rows[-1]
    Console().print(
        f"{last['steps']:,} steps, {last['sessions_seen']:,} sessions, {last['failed_messages']} failed messages, "
        f"{last['promotions']} promotions; {slope:+.2f} MiB a million steps, spread {spread:.1f} MiB"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
