"""Throughput and latency by load. matplotlib is imported only when they are drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

percentile_styles = {"p50_ms": ("-", "median"), "p99_ms": (":", "99th percentile")}


def plot_load(path: Path, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write an image: decisions a second and latency over the messages in flight, a colour for each way of sending."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    rates, latencies = figure.subplots(1, 2)
    closed = [row for row in rows if not row["rate"]]
    for number, name in enumerate(dict.fromkeys(way_of(row) for row in closed)):
        ours = [row for row in closed if way_of(row) == name]
        colour = f"C{number}"
        rates.plot(*_line(ours, "decisions_per_second"), "o-", color=colour, label=name)
        for column, (style, label) in percentile_styles.items():
            latencies.plot(*_line(ours, column), style, marker="o", color=colour, label=f"{name}, {label}")
    rates.set(title="Decisions a second", xlabel="messages in flight", ylabel="decisions/s", ylim=(0, None))
    latencies.set(title="Latency of a message", xlabel="messages in flight", ylabel="ms", yscale="log")
    for axes in (rates, latencies):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def way_of(row: dict[str, Any]) -> str:
    """Return the name of a row's way of sending."""
    return str(row["case"]).partition(",")[0]


def _line(rows: Sequence[dict[str, Any]], column: str) -> tuple[list[int], list[float]]:
    """Return the loads and the median of a column at each."""
    from statistics import median

    loads = sorted({int(row["in_flight"]) for row in rows})
    return loads, [median(row[column] for row in rows if row["in_flight"] == load) for load in loads]
