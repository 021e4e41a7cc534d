"""Atari's results over games: human-normalised aggregates of each variant, as a table and as a panel of the figure."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from hyperact.trainer.bench.aggregates import Aggregate, aggregate
from hyperact.trainer.bench.aggregates import statistics as statistic_of
from hyperact.trainer.bench.atari_scores import by_game, human_normalised
from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.tables import Table

# As many as the source of the aggregates asks for.
num_runs_for_intervals = 3

header = ("variant", "games", "runs of a game", "interactions", *statistic_of)


@dataclass(frozen=True, slots=True)
class VariantAggregates:
    """A variant's aggregates after as many interactions as all of its runs had."""

    variant: str
    num_steps: int
    num_runs: tuple[int, ...]
    aggregates: dict[str, Aggregate]


def aggregates_of(rows: Sequence[Row]) -> list[VariantAggregates]:
    """Return the aggregates of each variant and configuration over the games that have human scores."""
    groups: dict[tuple[str, str], list[list[Row]]] = {}
    for (game, variant, configuration), found in by_game(rows).items():
        if human_normalised(game, 0.0) is not None:
            groups.setdefault((variant, configuration), []).append(found)
    return [_aggregates(variant, games) for (variant, _), games in groups.items()]


def make_table(rows: Sequence[Row]) -> Table:
    """Return a line for each variant and configuration."""
    found = aggregates_of(rows)
    are_few = any(min(one.num_runs) < num_runs_for_intervals for one in found)
    note = "Human-normalised, with 95 % intervals over seeds (stratified bootstrap)."
    if are_few:
        note += f" Some games have fewer than {num_runs_for_intervals} runs: their intervals mean little."
    return Table(header, [_line(one) for one in found], note)


def draw(axis: Axes, rows: Sequence[Row], variants: Sequence[str]) -> None:
    """Draw the aggregates with their intervals; a variant has the colour of its place among `variants`."""
    names = list(statistic_of)
    found = aggregates_of(rows)
    for number, one in enumerate(found):
        values = [one.aggregates[name].value for name in names]
        below = [one.aggregates[name].value - one.aggregates[name].low for name in names]
        above = [one.aggregates[name].high - one.aggregates[name].value for name in names]
        places = np.arange(len(names)) + 0.6 * (number + 0.5) / len(found) - 0.3
        # A percentile interval need not hold the value itself.
        widths = np.maximum([below, above], 0.0)
        colour = f"C{variants.index(one.variant)}"
        axis.errorbar(values, places, xerr=widths, fmt="o", color=colour, label=one.variant, capsize=3)
    axis.set(title="all games", xlabel="human-normalised", yticks=range(len(names)), yticklabels=names)
    axis.invert_yaxis()
    axis.grid(visible=True, axis="x", alpha=0.2)
    if found:
        axis.legend(fontsize="small")


def _aggregates(variant: str, games: Sequence[Sequence[Row]]) -> VariantAggregates:
    curves = [[dict(_means(row)) for row in found] for found in games]
    shared = set.intersection(*(set(points) for found in curves for points in found))
    # Runs that were cut at different places are compared where all of them were evaluated.
    num_steps = max(shared) if shared else 0
    scores = [
        [_normalised(found[0]["game"], points[num_steps if shared else max(points)]) for points in game]
        for found, game in zip(games, curves, strict=True)
    ]
    return VariantAggregates(
        variant, num_steps, tuple(len(found) for found in games), aggregate(scores, np.random.default_rng(0))
    )


def _means(row: Row) -> list[tuple[int, float]]:
    return [(num_steps, statistics.fmean(returns)) for num_steps, returns in json.loads(row["curve"])]


def _normalised(game: str, score: float) -> float:
    found = human_normalised(game, score)
    assert found is not None
    return found


def _line(one: VariantAggregates) -> tuple[str, ...]:
    least, most = min(one.num_runs), max(one.num_runs)
    return (
        one.variant,
        str(len(one.num_runs)),
        str(least) if least == most else f"{least} to {most}",
        f"{one.num_steps:,}" if one.num_steps else "various",
        *(f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" for found in one.aggregates.values()),
    )
