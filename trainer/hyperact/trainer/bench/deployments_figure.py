"""The results of the deployment benchmark as a figure: what K episodes a deployment cost and save."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from hyperact.trainer.bench.deployments_table import by_batch, counted_deployments
from hyperact.trainer.bench.results import Row

# Okabe and Ito's colours, which the colour-blind tell apart too; the rest are for whoever compares more.
_colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_names = {
    "hyperagent": "HyperAgent",
    "fast_batch": "HyperAgent (fast_batch)",
    "ddqn": "Double DQN, ε-greedy",
    "ensemble_plus": "Ensemble+",
}
# Side by side, for whoever reaches the cap reaches the same one.
_dodge = 1.12
_ink, _pale = "#333333", "#DDDDDD"


class _Look(NamedTuple):
    """What a variant looks like: its colour, and by what its places on the horizontal axis are multiplied."""

    colour: str
    shift: float


def deployments_figure(rows: Sequence[Row]) -> Figure:
    """Return a column for each size: deployments to solve above, episodes to solve below, by episodes a deployment.

    A dot a seed, a line through the means. Means over runs some of which were cut off unsolved are bounds: hollow
    triangles on a dashed line.
    """
    sizes = sorted({int(row["size"]) for row in rows}) or [0]
    variants = sorted({row["variant"] for row in rows}, key=_rank)
    figure = Figure(figsize=(1.6 + 2.6 * len(sizes), 6.0), layout="constrained")
    panels = figure.subplots(2, len(sizes), squeeze=False, sharex="col", sharey="row")
    for column, size in enumerate(sizes):
        of_size = [row for row in rows if int(row["size"]) == size]
        for panel, counts_episodes in zip(panels[:, column], (False, True), strict=True):
            _dress(panel, of_size, counts_episodes=counts_episodes)
            for place, variant in enumerate(variants):
                of_variant = [row for row in of_size if row["variant"] == variant]
                look = _Look(_colours[place % len(_colours)], _dodge ** (place - (len(variants) - 1) / 2))
                _draw(panel, of_variant, look, counts_episodes=counts_episodes)
        panels[1][column].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panels[0][column].set_title(f"DeepSea-{size}", color=_ink, fontweight="bold")
        panels[1][column].set_xlabel("episodes a deployment", color=_ink)
    panels[0][0].set_ylim(0, 1.08 * max([counted_deployments(row) for row in rows], default=1))
    panels[0][0].set_ylabel("deployments to solve", color=_ink)
    panels[1][0].set_ylabel("episodes to solve", color=_ink)
    _add_legend(figure, variants)
    return figure


def _rank(variant: str) -> tuple[int, str]:
    known = list(_names)
    return (known.index(variant) if variant in known else len(known), variant)


def _draw(axis: Axes, rows: Sequence[Row], look: _Look, *, counts_episodes: bool) -> None:
    means: list[tuple[float, float]] = []
    is_bound: list[bool] = []
    for (_, _, batch, _), found in by_batch(rows).items():
        counts = [counted_deployments(row) * (batch if counts_episodes else 1) for row in found]
        place = batch * look.shift
        axis.plot([place] * len(counts), counts, "o", color=look.colour, markersize=4, alpha=0.35, markeredgewidth=0)
        means.append((place, fmean(counts)))
        is_bound.append(any(row["solved"] != "yes" for row in found))
    if not means:
        return
    axis.plot(*_points(means), "--" if any(is_bound) else "-", color=look.colour, linewidth=1.8)
    for marker, fill, bounds in (("o", look.colour, False), ("^", "white", True)):
        shown = [mean for mean, bound in zip(means, is_bound, strict=True) if bound is bounds]
        axis.plot(
            *_points(shown),
            marker,
            color=look.colour,
            markerfacecolor=fill,
            markersize=7,
            markeredgewidth=1.6,
            zorder=3,
        )


def _points(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _dress(axis: Axes, rows: Sequence[Row], *, counts_episodes: bool) -> None:
    axis.set_xscale("log")
    if counts_episodes:
        axis.set_yscale("log")
    axis.xaxis.set_major_locator(FixedLocator(sorted({int(row["episodes_per_deployment"]) for row in rows})))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.15)
    axis.yaxis.set_minor_formatter(NullFormatter())
    for part in (axis.xaxis, axis.yaxis):
        part.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.grid(visible=True, which="major", color=_pale, linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_pale)
    axis.tick_params(which="both", color=_pale, labelcolor=_ink)


def _add_legend(figure: Figure, variants: Sequence[str]) -> None:
    handles = [
        Line2D([], [], color=colour, marker="o", linewidth=1.8, label=_names.get(variant, variant))
        for variant, colour in zip(variants, _colours * len(variants), strict=False)
    ]
    unsolved = Line2D([], [], color=_ink, marker="^", markerfacecolor="white", linestyle="--", label="not all solved")
    figure.legend(
        handles=[*handles, unsolved],
        loc="outside upper center",
        ncols=4 if len(figure.axes) > 4 else 2,
        frameon=False,
        labelcolor=_ink,
    )
