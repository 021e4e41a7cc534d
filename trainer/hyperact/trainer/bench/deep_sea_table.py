"""The results of DeepSea as a table, for a terminal or for a document."""

from collections.abc import Sequence
from dataclasses import dataclass

import rich.table

from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.summaries import Summary, by_setting, published_means, summarise

header = ("variant", "size", "solved", "episodes, mean", "least to most", "published", "seconds a run")


@dataclass(frozen=True, slots=True)
class Table:
    """Cells under the header."""

    cells: list[tuple[str, ...]]

    def to_rich(self) -> rich.table.Table:
        """Return it for a terminal."""
        table = rich.table.Table()
        for name in header:
            table.add_column(name, justify="left" if name == "variant" else "right")
        for row in self.cells:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Return it for a document."""
        lines = [header, tuple("---" for _ in header), *self.cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_table(rows: Sequence[Row]) -> Table:
    """Return a line for each variant, configuration and size, sizes in order."""
    groups = sorted(by_setting(rows).items(), key=lambda item: item[0][2])
    order = {variant: place for place, variant in enumerate(dict.fromkeys(row["variant"] for row in rows))}
    groups.sort(key=lambda item: order[item[0][0]])
    return Table([_line(variant, size, found) for (variant, _, size), found in groups])


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
