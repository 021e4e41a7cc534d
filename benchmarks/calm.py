"""Promotions under load: does anybody notice?

    python -m benchmarks.calm --promotions 100 --output benchmarks/results --plot docs/images/calm.png

`hyperact serve` runs on one core with durability `disk`; the load comes from another: single Act calls with stacks of
four frames, first closed with 32 in flight to find the most that the service does, then open, from 64 sessions, at a
share of it. While it runs the alias moves again and again, to random-born versions of Nature's network, each loaded
anew, and in between to versions that cannot be served: corrupt, missing, huge, of another spec, and one that downloads
slowly from a real MLflow server behind a slow wire.

Judged: failed calls, episodes that changed version, the 99th percentile of the latency in the seconds between the move
of an alias and the first answer of its version beside that of the seconds before and after all promotions, and resident
memory. Results go to calm_promotions.csv, a row for each move, and calm_seconds.csv, a row for each second; `--calls`
also writes every call.

`--toy` does the same with a tiny network and few calls, and waits for each version: for tests. Exit code 1 if a call
failed, an episode changed its version, a version that cannot be served was, or one that can was not.
"""

import argparse
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from mlflow import MlflowClient
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from benchmarks.open_load import Phase, loading
from benchmarks.result_files import write_rows
from benchmarks.served import START_SECONDS, Served, home, make_versions, nature_arguments, registry_of, serving

import toys
from hyperact.clients.connection import Connection
from hyperact.clients.load.measurement import Case, Target, Way, measure
from hyperact.v1 import manifests
from hyperact.v1.deployment_pb2 import VersionState
from toy_registry import Wire, registry_server, slowed

GOOD, SLOW = "good", "slow"
BAD = ("corrupt", "missing", "huge", "incompatible")
TROUBLES = (SLOW, *BAD)
IN_FLIGHT = 32
NUM_SESSIONS = 64
MAX_VERSION_BYTES = 64 << 20
SETTLE_SECONDS = 8.0
SAMPLE_SECONDS = 0.25
LIMIT_SECONDS = 3600.0
TOY_RATE = 50.0


@dataclass
class Move:
    """One move of the alias.

    Attributes:
        moved: Unix seconds at which the alias stood at the version.
        served: at which the first answer by it was called for; 0 if there was none.
    """

    number: int
    kind: str
    version: int
    moved: float
    served: float = 0.0


@dataclass
class Scene:
    """A service under trial: its registry, the folders of its versions, the wire to the slow store."""

    data_dir: Path
    client: MlflowClient
    sources: dict[str, list[str]]
    wire: Wire
    slow_seconds: float
    core: int | None

    def move(self, number: int, kind: str) -> Move:
        """Register a version of a kind and move the alias to it."""
        sources = self.sources[kind]
        version = self.client.create_model_version("default", sources[number % len(sources)]).version
        self.client.set_registered_model_alias("default", "champion", version)
        return Move(number, kind, int(version), time.time())


@dataclass(frozen=True)
class Judgement:
    """What a run showed; latencies in milliseconds, memory in MiB."""

    promotions: int
    served: int
    bad_moves: int
    bad_served: int
    calls: int
    failed: int
    episodes: int
    changed: int
    steady_p50: float
    steady_p99: float
    swap_p50: float
    swap_p99: float
    rss_before: float
    rss_highest: float
    rss_after: float

    @property
    def ratio(self) -> float:
        """The 99th percentile in the seconds of swaps over that of the others."""
        return self.swap_p99 / self.steady_p99

    @property
    def is_correct(self) -> bool:
        """Whether nobody was hurt, whatever it cost in time."""
        return not (self.failed or self.changed or self.bad_served) and self.served == self.promotions


def schedule(num_promotions: int, num_troubles: int) -> list[str]:
    """Return the kinds of all moves: so many good ones, and troubles spread among them, each kind in turn."""
    kinds = [GOOD] * num_promotions
    for trouble in range(num_troubles):
        place = (trouble + 1) * (num_promotions + num_troubles) // (num_troubles + 1)
        kinds.insert(place, TROUBLES[trouble % len(TROUBLES)])
    return kinds


def spoil(source: Path, folder: Path) -> dict[str, list[str]]:
    """Make a version of each bad kind out of a good one; return where they are."""
    for kind in BAD:
        shutil.copytree(source, folder / kind)
    onnx = manifests.from_json((source / manifests.file_name).read_text()).onnx_file
    content = bytearray((source / onnx).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "corrupt" / onnx).write_bytes(content)
    (folder / "missing" / onnx).unlink()
    os.truncate(folder / "huge" / onnx, MAX_VERSION_BYTES + 1)
    shutil.rmtree(folder / "incompatible")
    toys.toy_version(folder / "incompatible", num_actions=7)
    return {kind: [(folder / kind).as_uri()] for kind in BAD}


@contextmanager
def scene(folder: Path, *, is_toy: bool, core: int | None) -> Iterator[Scene]:
    """Prepare versions and registry; the alias stands at the first good version."""
    with ExitStack() as stack:
        data_dir = folder / "data"
        data_dir.mkdir(exist_ok=True)
        good = make_toys(folder) if is_toy else make_natures(folder)
        for name in ("bad", "store"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "bad").mkdir()
        sources = {GOOD: good, **spoil(Path(good[0].removeprefix("file://")), folder / "bad")}
        server = stack.enter_context(registry_server(folder / "store"))
        shutil.copytree(good[0].removeprefix("file://"), server.artifacts / SLOW)
        wire = stack.enter_context(slowed(server.port))
        sources[SLOW] = [f"{wire.uri}/api/2.0/mlflow-artifacts/artifacts/{SLOW}"]
        num_bytes = sum(file.stat().st_size for file in (server.artifacts / SLOW).iterdir())
        slow_seconds = 1.0 if is_toy else 4.0
        wire.bytes_per_second = num_bytes / slow_seconds
        yield Scene(data_dir, registry_of(data_dir), sources, wire, slow_seconds, core)


def make_natures(folder: Path) -> list[str]:
    sources = make_versions(folder / "data", nature_arguments(folder), seeds=range(4))
    return [source if source.startswith("file://") else Path(source).resolve().as_uri() for source in sources]


def make_toys(folder: Path) -> list[str]:
    uri = toys.make_registry(folder / "data")
    for seed in range(4):
        toys.toy_version(folder / "toys" / str(seed), seed=seed)
        toys.register(uri, folder / "toys" / str(seed), alias="" if seed else "champion")
    return [(folder / "toys" / str(seed)).as_uri() for seed in range(4)]


class Sampler:
    """Looks at a service's memory all the time."""

    def __init__(self, served: Served) -> None:
        self.rows: list[tuple[float, float]] = []
        self._served = served
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.rows.append((time.time(), self._served.rss_bytes() / 2**20))


def run(
    one: Scene, served: Served, kinds: Sequence[str], arguments: argparse.Namespace, path: Path
) -> tuple[list[Move], NDArray[Any], NDArray[Any], float]:
    """Put the load on and move the alias; return moves, calls, memory samples and the most that the service did."""
    steady_seconds, move_seconds = arguments.steady_seconds, arguments.move_seconds
    most = measure(Target(served.address), Case(Way.ACT, 1, IN_FLIGHT), min(6.0, steady_seconds), 1)
    rate = TOY_RATE if arguments.toy else arguments.share * most.decisions_per_second
    moves = []
    core = None if one.core is None else 1 - one.core
    phases = [Phase(LIMIT_SECONDS, rate)]
    with Sampler(served) as sampler, loading(served.address, phases, path, max_sessions=NUM_SESSIONS, core=core):
        time.sleep(steady_seconds)
        for number, kind in enumerate(kinds):
            begun = time.time()
            moves.append(one.move(number, kind))
            if arguments.toy and kind == GOOD:
                wait_until_serving(served, moves[-1].version)
            # The first slow one may come through; from the later ones the alias moves on while they are under way.
            is_awaited = kind == SLOW and SLOW not in [move.kind for move in moves[:-1]]
            time.sleep(max(0.0, begun + move_seconds + is_awaited * 2 * one.slow_seconds - time.time()))
        time.sleep(SETTLE_SECONDS + steady_seconds / 2)
    return moves, np.load(path), np.array(sampler.rows), most.decisions_per_second


def wait_until_serving(served: Served, version: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Connection(served.address) as connection:
        while time.monotonic() < deadline:
            states = {one.version: one.state for model in connection.get_status().models for one in model.versions}
            if states.get(str(version)) == VersionState.VERSION_STATE_SERVING:
                return
            time.sleep(0.05)
    raise SystemExit(f"version {version} does not serve")


def judge(moves: Sequence[Move], calls: NDArray[Any], memory: NDArray[Any], steady_seconds: float) -> Judgement:
    """Find out what the calls say of the moves; `served` of each move is filled in."""
    answered = calls[calls["code"] == 0]
    for move in moves:
        ours = answered[(answered["version"] == move.version)]
        move.served = float(ours["due"].min()) if ours.size else 0.0
    latency = answered["latency"] * 1e3
    is_swap, is_steady = parts(moves, answered["due"])
    episodes = np.unique(answered[["session", "episode"]]).size
    pinned = np.unique(answered[["session", "episode", "version"]]).size
    good = [move for move in moves if move.kind in (GOOD, SLOW)]
    expected = [move for place, move in enumerate(good) if move.kind == GOOD]
    begin, end = moves[0].moved, moves[-1].moved
    times, rss = memory[:, 0], memory[:, 1]
    return Judgement(
        promotions=len(expected),
        served=sum(move.served > 0 for move in expected),
        bad_moves=len(moves) - len(good),
        bad_served=sum(move.served > 0 for move in moves if move.kind in BAD),
        calls=calls.size,
        failed=int((calls["code"] != 0).sum()),
        episodes=episodes,
        changed=pinned - episodes,
        steady_p50=percentile(latency[is_steady], 50),
        steady_p99=percentile(latency[is_steady], 99),
        swap_p50=percentile(latency[is_swap], 50),
        swap_p99=percentile(latency[is_swap], 99),
        rss_before=float(np.median(rss[(times > begin - steady_seconds / 2) & (times < begin)])),
        rss_highest=float(rss.max()),
        rss_after=float(np.median(rss[times > end + SETTLE_SECONDS])),
    )


def parts(moves: Sequence[Move], due: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which calls were due in a second in which an alias's version was on its way, and which far from any."""
    seconds = np.floor(due - moves[0].moved)
    busy = set()
    for place, move in enumerate(moves):
        following = moves[place + 1].moved if place + 1 < len(moves) else move.moved + SETTLE_SECONDS / 2
        last = move.served or following
        busy |= set(range(int(move.moved - moves[0].moved), int(last - moves[0].moved) + 1))
    is_swap = np.isin(seconds, list(busy))
    # The load's first second opens its sessions.
    is_steady = (due > due.min() + 1) & ((due < moves[0].moved) | (due > moves[-1].moved + SETTLE_SECONDS))
    return is_swap, is_steady


def percentile(values: NDArray[Any], share: float) -> float:
    return float(np.percentile(values, share)) if values.size else float("nan")


def seconds_of(moves: Sequence[Move], calls: NDArray[Any], memory: NDArray[Any]) -> list[dict[str, Any]]:
    """Return a row for each second: its calls' latencies, memory, and the moves in it."""
    begin = moves[0].moved
    rows = []
    is_swap, _ = parts(moves, calls["due"])
    for second in range(int(calls["due"].min() - begin), int(calls["due"].max() - begin) + 1):
        some = np.floor(calls["due"] - begin) == second
        latency = calls["latency"][some & (calls["code"] == 0)] * 1e3
        rss = memory[np.floor(memory[:, 0] - begin) == second, 1]
        kinds = [move.kind for move in moves if np.floor(move.moved - begin) == second]
        row = {
            "second": second,
            "is_swap": int(is_swap[some].any()),
            "calls": int(some.sum()),
            "failed": int((calls["code"][some] != 0).sum()),
            "p50_ms": round(percentile(latency, 50), 3),
            "p99_ms": round(percentile(latency, 99), 3),
            "highest_ms": round(float(latency.max()), 3) if latency.size else float("nan"),
            "load_late_p99_ms": round(percentile(calls["sent"][some] * 1e3, 99), 3),
            "rss_mib": round(float(rss.max()), 1) if rss.size else float("nan"),
            "moves": " ".join(kinds),
        }
        rows.append(row)
    return rows


def plot(path: Path, rows: Sequence[dict[str, Any]], judgement: Judgement) -> None:
    """Draw the 99th percentile and memory over time, the moves marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    latencies, memory = figure.subplots(2, 1, sharex=True)
    seconds = [row["second"] for row in rows]
    latencies.plot(seconds, [row["p99_ms"] for row in rows], linewidth=1, label="99th percentile of a second")
    latencies.plot(seconds, [row["p50_ms"] for row in rows], linewidth=1, label="median")
    latencies.axhline(1.5 * judgement.steady_p99, color="grey", linestyle=":", label="1.5 x the steady 99th percentile")
    latencies.set(ylabel="latency of Act, ms", ylim=(0, None), title=f"{judgement.promotions} promotions under load")
    memory.plot(seconds, [row["rss_mib"] for row in rows], color="C2", label="resident memory")
    memory.set(ylabel="MiB", xlabel="seconds since the first move of the alias", ylim=(0, None))
    bad = [row for row in rows if any(kind in row["moves"] for kind in TROUBLES)]
    good = [row["second"] for row in rows if GOOD in row["moves"]]
    for axes in (latencies, memory):
        axes.plot(good, [0] * len(good), "|", color="black", markersize=9, label="promotion")
        axes.plot([row["second"] for row in bad], [0] * len(bad), "x", color="C3", label="a version in trouble")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small", ncols=3, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def show(judgement: Judgement, title: str) -> None:
    one = judgement
    table = Table("", "", title=title, show_header=False)
    table.add_row("promotions that served", f"{one.served} of {one.promotions}")
    table.add_row("bad versions that served", f"{one.bad_served} of {one.bad_moves}")
    table.add_row("calls that failed", f"{one.failed} of {one.calls:,}")
    table.add_row("episodes that changed version", f"{one.changed} of {one.episodes:,}")
    table.add_row("p50, p99 steady, ms", f"{one.steady_p50:.2f}, {one.steady_p99:.2f}")
    table.add_row("p50, p99 in the seconds of a swap, ms", f"{one.swap_p50:.2f}, {one.swap_p99:.2f}")
    table.add_row("ratio of the p99", f"{one.ratio:.2f} (bar: 1.5)")
    table.add_row(
        "memory before, highest, after, MiB", f"{one.rss_before:.0f}, {one.rss_highest:.0f}, {one.rss_after:.0f}"
    )
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--promotions", type=int, default=100)
    parser.add_argument("--troubles", type=int, default=15, help="moves to versions in trouble, among the promotions")
    parser.add_argument("--move-seconds", type=float, default=1.5, help="from one move of the alias to the next")
    parser.add_argument("--steady-seconds", type=float, default=10.0, help="before the first move")
    parser.add_argument("--share", type=float, default=0.7, help="the load, of the most that the service does")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument(
        "--home", type=Path, default=None, help="where versions are kept from run to run; unset: nowhere"
    )
    parser.add_argument("--only-prepare", action="store_true", help="make the versions and end")
    parser.add_argument("--calls", type=Path, default=None, help="a file for every call, in NumPy's format")
    parser.add_argument("--toy", action="store_true", help="a tiny network, for tests")
    arguments = parser.parse_args()
    core = 0 if os.cpu_count() == 2 and not arguments.toy else None
    with home(arguments.home) as folder, scene(folder, is_toy=arguments.toy, core=core) as one:
        if arguments.only_prepare:
            return 0
        flags = ["--max-version-bytes", str(MAX_VERSION_BYTES), "--durability", "disk"]
        calls_file = arguments.calls or folder / "calls.npy"
        kinds = schedule(arguments.promotions, arguments.troubles)
        with serving(one.data_dir, *flags, core=core) as served:
            if core is not None:
                os.sched_setaffinity(0, {1 - core})
            moves, calls, memory, most = run(one, served, kinds, arguments, calls_file)
    judgement = judge(moves, calls, memory, arguments.steady_seconds)
    seconds = seconds_of(moves, calls, memory)
    write_rows(arguments.output / "calm_promotions.csv", [asdict(move) for move in moves])
    write_rows(arguments.output / "calm_seconds.csv", seconds)
    show(judgement, f"Promotions under {arguments.share:.0%} of {most:,.0f} Act/s")
    codes, numbers = np.unique(calls["code"], return_counts=True)
    Console(stderr=True).print("calls by code:", dict(zip(codes.tolist(), numbers.tolist(), strict=True)))
    if arguments.plot:
        plot(arguments.plot, seconds, judgement)
    return int(not judgement.is_correct)


if __name__ == "__main__":
    sys.exit(main())
