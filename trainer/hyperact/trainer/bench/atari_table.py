"""The results of Atari as a table."""

import statistics
from collections.abc import Sequence

from hyperact.trainer.bench.atari_scores import by_game, curve, human_normalised, published_curve
from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.tables import Table

header = (
    "variant",
    "game",
    "seeds",
    "interactions",
    "last return, mean",
    "least to most",
    "published",
    "human-normalised",
    "hours a run",
)


def make_table(rows: Sequence[Row]) -> Table:
    """Return a line for each game, variant and configuration."""
    return Table(header, [_line(game, variant, found) for (game, variant, _), found in by_game(rows).items()])


def _line(game: str, variant: str, rows: list[Row]) -> tuple[str, ...]:
    last = curve(rows)[-1]
    published = dict(published_curve(game, variant)).get(last.num_steps)
    normalised = human_normalised(game, last.mean)
    hours = statistics.fmean(float(row["seconds"]) for row in rows) / 3600
    return (
        variant,
        game,
        str(last.num_seeds),
        f"{last.num_steps:,}",
        f"{last.mean:,.1f}",
        f"{last.least:,.1f} to {last.most:,.1f}",
        "-" if published is None else f"{published:,.1f}",
        "-" if normalised is None else f"{normalised:.2f}",
        f"{hours:.1f}",
    )
