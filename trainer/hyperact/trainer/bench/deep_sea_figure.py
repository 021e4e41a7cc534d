"""The results of DeepSea as a figure, over the published curves."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.summaries import by_setting, published_means, summarise

_colours = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "C7")


def deep_sea_figure(rows: Sequence[Row]) -> Figure:
    """Return episodes to solve by size: a dot a seed, a line through the means, dashed the published means.

    Runs that were cut off unsolved stand at their cap as crosses.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.subplots()
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    for variant, colour in zip(variants, _colours * len(variants), strict=False):
        _draw_variant(axis, variant, [row for row in rows if row["variant"] == variant], colour)
    _draw_published(axis, variants)
    axis.set(xlabel="size N", ylabel="episodes to solve", yscale="log", title="DeepSea")
    axis.set_xticks(sorted({int(row["size"]) for row in rows} | set(published_means("hyperagent"))))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(visible=True, which="both", alpha=0.2)
    axis.legend(fontsize="small")
    return figure


def _draw_variant(axis: Axes, variant: str, rows: list[Row], colour: str) -> None:
    groups = sorted((size, found) for (_, _, size), found in by_setting(rows).items())
    means = [(size, summarise(found).mean) for size, found in groups]
    axis.plot(*zip(*means, strict=True), "_-", color=colour, markersize=12, label=variant)
    for is_solved, marker in (("yes", "o"), ("no", "x")):
        points = [
            (size, float(row["episodes"] if is_solved == "yes" else row["max_episodes"]))
            for size, found in groups
            for row in found
            if row["solved"] == is_solved
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker, color=colour, markersize=4, alpha=0.6)


def _draw_published(axis: Axes, variants: list[str]) -> None:
    for variant, colour in zip(variants, _colours * len(variants), strict=False):
        means = published_means(variant)
        if means:
            axis.plot(list(means), list(means.values()), "--", color=colour, alpha=0.6, label=f"{variant}, published")
