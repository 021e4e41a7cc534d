"""What becomes of calls when more come than can be answered, and how soon all is well again.

    python -m benchmarks.overload --output benchmarks/results --plot docs/images/overload.png

`hyperact serve` runs on one core with durability `disk`, the load comes from another: messages of `--rows` steps with
stacks of four frames for Nature's network, first closed with 8 in flight to find the most that the service does, then
open at 0.5, 0.7, 1.5 and 3 times that, and at 0.7 again. (With single calls the load would find its own limit: a client
in Python sends no three times as many as a server in Python answers.) The service is told to refuse steps when others
wait longer than `--max-wait-ms` for their batch. Results go to overload.csv, a row for each phase, and
overload_seconds.csv, a row for each second.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.open_load import Phase, loading
from benchmarks.result_files import write_rows
from benchmarks.served import home, make_versions, nature_arguments, serving
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hyperact.clients.load.measurement import Case, Target, Way, measure

FACTORS = (0.5, 0.7, 1.5, 3.0, 0.7)
IN_FLIGHT = 8
EXHAUSTED = 8  # RESOURCE_EXHAUSTED
RECOVERED_MS = 3.0  # times the 99th percentile at the same load before


def run(arguments: argparse.Namespace, cores: tuple[int | None, int | None]) -> list[dict[str, Any]]:
    """Measure; return a row for each second of each phase."""
    seconds, num_steps = arguments.seconds, arguments.rows
    with home(arguments.home) as directory:
        make_versions(directory, nature_arguments(directory), seeds=range(1))
        if arguments.only_prepare:
            return []
        flags = ["--durability", "disk", "--max-wait-ms", arguments.max_wait_ms]
        with serving(directory, *flags, core=cores[0]) as served:
            if cores[1] is not None:
                os.sched_setaffinity(0, {cores[1]})
            case = Case(Way.BATCH if num_steps > 1 else Way.ACT, num_steps, IN_FLIGHT)
            most = measure(Target(served.address), case, seconds, 1).decisions_per_second
            phases = [Phase(seconds, factor * most / num_steps, num_steps) for factor in FACTORS]
            with loading(served.address, phases, directory / "calls.npy", core=cores[1]) as sender:
                sender.join()
        calls = np.load(directory / "calls.npy")
    return [{"most": round(most, 1), **row} for row in _rows(calls, seconds)]


def _rows(calls: NDArray[Any], seconds: float) -> list[dict[str, Any]]:
    begin = calls["due"].min()
    rows = []
    for second in range(int(seconds * len(FACTORS))):
        some = calls[np.floor(calls["due"] - begin) == second]
        place = min(int(second / seconds), len(FACTORS) - 1)
        rows.append({"phase": place, "factor": FACTORS[place], "second": second, **summary(some, 1.0)})
    return rows


def summary(calls: NDArray[Any], seconds: float) -> dict[str, Any]:
    """Return how many calls came, were answered, refused or failed otherwise, a second, and their latencies."""
    served = calls[calls["code"] == 0]["latency"] * 1e3
    refused = calls[calls["code"] == EXHAUSTED]["latency"] * 1e3
    return {
        "offered": round(calls.size / seconds, 1),
        "answered": round(served.size / seconds, 1),
        "refused": round(refused.size / seconds, 1),
        "failed": round((calls.size - served.size - refused.size) / seconds, 1),
        "p50_ms": _percentile(served, 50),
        "p99_ms": _percentile(served, 99),
        "refusal_p50_ms": _percentile(refused, 50),
        "load_late_p99_ms": _percentile(calls["sent"] * 1e3, 99),
    }


def _percentile(values: NDArray[Any], share: float) -> float:
    return round(float(np.percentile(values, share)), 3) if values.size else float("nan")


def by_phase(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each phase: medians over its seconds but the first."""
    phases = []
    for place, factor in enumerate(FACTORS):
        some = [row for row in rows if row["phase"] == place][1:]
        names = [name for name in some[0] if name not in ("phase", "factor", "second")]
        medians = {name: _median([row[name] for row in some]) for name in names}
        phases.append({"factor": factor, **medians})
    return phases


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.median(known)), 3) if known else float("nan")


def recovery_seconds(rows: Sequence[dict[str, Any]]) -> float:
    """Return after how many seconds of the last phase calls are answered as they were at that load before."""
    before = np.median([row["p99_ms"] for row in rows if row["phase"] == 1][1:])
    last = [row for row in rows if row["phase"] == len(FACTORS) - 1]
    for place, row in enumerate(last):
        if not row["refused"] and not row["failed"] and row["p99_ms"] <= RECOVERED_MS * before:
            return float(place)
    return float("inf")


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw what was offered, answered and refused, and the latency of what was answered."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    rates, latencies = figure.subplots(2, 1, sharex=True)
    seconds = [row["second"] for row in rows]
    for name in ("offered", "answered", "refused"):
        rates.plot(seconds, [row[name] for row in rows], label=name)
    rates.set(title="Nature's network, one worker on one core", ylabel="steps a second", ylim=(0, None))
    latencies.plot(seconds, [row["p50_ms"] for row in rows], label="median of the answered")
    latencies.plot(seconds, [row["p99_ms"] for row in rows], label="99th percentile")
    latencies.set(ylabel="latency, ms", xlabel="seconds", ylim=(0, None))
    for axes in (rates, latencies):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("load", "offered/s", "answered/s", "refused/s", "failed/s", "p50 ms", "p99 ms", "refusal ms")
    for row in by_phase(rows):
        numbers = [f"{row[name]:,.0f}" for name in ("offered", "answered", "refused", "failed")]
        numbers += [f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "refusal_p50_ms")]
        table.add_row(f"{row['factor']:g} x {row['most']:,.0f}", *numbers)
    Console(width=120).print(table)
    Console().print(f"well again in second {recovery_seconds(rows):g} after the overload")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each phase")
    parser.add_argument("--rows", type=int, default=8, help="steps in a message; 1: by Act")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument(
        "--home", type=Path, default=None, help="where versions are kept from run to run; unset: nowhere"
    )
    parser.add_argument("--only-prepare", action="store_true", help="make the versions and end")
    parser.add_argument("--max-wait-ms", default="50", help="the service's setting")
    arguments = parser.parse_args()
    cores = (0, 1) if os.cpu_count() == 2 else (None, None)
    rows = run(arguments, cores)
    if arguments.only_prepare:
        return
    write_rows(arguments.output / "overload_seconds.csv", rows)
    write_rows(arguments.output / "overload.csv", by_phase(rows))
    show(rows)
    if arguments.plot:
        plot(arguments.plot, rows)


if __name__ == "__main__":
    main()
