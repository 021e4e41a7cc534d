"""The results of DeepSea as a table."""

from collections.abc import Sequence

from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.summaries import Summary, by_setting, published_means, summarise
from hyperact.trainer.bench.tables import Table

header = ("variant", "size", "solved", "episodes, mean", "least to most", "published", "seconds a run")


def make_table(rows: Sequence[Row]) -> Table:
    """Return a line for each variant, configuration and size, sizes in order."""
    groups = sorted(by_setting(rows).items(), key=lambda item: item[0][2])
    order = {variant: place for place, variant in enumerate(dict.fromkeys(row["variant"] for row in rows))}
    groups.sort(key=lambda item: order[item[0][0]])
    return Table(header, [_line(variant, size, found) for (variant, _, size), found in groups])


def _line(variant: str, size: int, rows: list[Row]) -> tuple[str, ...]:
    summary = summarise(rows)
    published = published_means(variant).get(size)
    seconds = sum(float(row["seconds"]) for row in rows) / len(rows)
    return (
        variant,
        str(size),
        f"{summary.num_solved}/{summary.num_runs}",
        _bounded(summary),
        f"{summary.least:.0f} to {summary.most:.0f}",
        "-" if published is None else f"{published:,.0f}",
        f"{seconds:.0f}",
    )


def _bounded(summary: Summary) -> str:
    """Return the mean, which is a lower bound where runs were cut off."""
    is_cut = summary.num_solved < summary.num_runs
    return f"{'≥ ' if is_cut else ''}{summary.mean:,.0f}"
