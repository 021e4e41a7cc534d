"""The results of the deployment benchmark as a figure: what K episodes a deployment cost and save."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from hyperact.trainer.bench.deployments_table import by_batch, counted_deployments
from hyperact.trainer.bench.results import Row


def deployments_figure(rows: Sequence[Row]) -> Figure:
    """Return a column for each size: deployments to solve above, episodes to solve below, by episodes a deployment.

    A dot a seed, a line through the means; runs that were cut off unsolved stand at their cap as crosses.
    """
    sizes = sorted({int(row["size"]) for row in rows}) or [0]
    figure = Figure(figsize=(2.0 + 3.0 * len(sizes), 6), layout="constrained")
    panels = figure.subplots(2, len(sizes), squeeze=False, sharey="row")
    for column, size in enumerate(sizes):
        of_size = [row for row in rows if int(row["size"]) == size]
        _draw(panels[0][column], of_size, counts_episodes=False)
        _draw(panels[1][column], of_size, counts_episodes=True)
        panels[0][column].set_title(f"DeepSea-{size}")
        panels[1][column].set_xlabel("episodes a deployment")
    panels[0][0].set_ylabel("deployments to solve")
    panels[1][0].set_ylabel("episodes to solve")
    panels[0][0].legend(fontsize="small")
    return figure


def _draw(axis: Axes, rows: Sequence[Row], *, counts_episodes: bool) -> None:
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for place, variant in enumerate(variants):
        means: list[tuple[int, float]] = []
        solved: list[tuple[int, int]] = []
        unsolved: list[tuple[int, int]] = []
        for (_, _, batch, _), found in by_batch([row for row in rows if row["variant"] == variant]).items():
            counts = [counted_deployments(row) * (batch if counts_episodes else 1) for row in found]
            means.append((batch, sum(counts) / len(counts)))
            for row, count in zip(found, counts, strict=True):
                (solved if row["solved"] == "yes" else unsolved).append((batch, count))
        axis.plot(*zip(*means, strict=True), "_-", color=f"C{place}", markersize=12, label=variant)
        for points, marker in ((solved, "o"), (unsolved, "x")):
            if points:
                axis.plot(*zip(*points, strict=True), marker, color=f"C{place}", markersize=4, alpha=0.6)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks(sorted({int(row["episodes_per_deployment"]) for row in rows}))
    for part in (axis.xaxis, axis.yaxis):
        part.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        part.set_minor_formatter(NullFormatter())
    axis.grid(visible=True, which="both", alpha=0.2)
