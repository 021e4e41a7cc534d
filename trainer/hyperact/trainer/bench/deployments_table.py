"""The results of the deployment benchmark as a table."""

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.tables import Table

header = ("variant", "size", "episodes a deployment", "solved", "deployments, mean", "least to most", "episodes, mean")

Key = tuple[str, int, int, str]


def by_batch(rows: Sequence[Row]) -> dict[Key, list[Row]]:
    """Return the rows of each (variant, size, episodes per deployment, configuration), of each seed the last one."""
    last = {(*_key(row), row["seed"]): row for row in rows}
    ordered = sorted(last.values(), key=_key)
    return {key: list(found) for key, found in groupby(ordered, _key)}


def counted_deployments(row: Row) -> int:
    """Return the deployments of a run; an unsolved one counts as many as it was given."""
    return int(row["deployments"] if row["solved"] == "yes" else row["max_deployments"])


def make_table(rows: Sequence[Row]) -> Table:
    """Return a line for each variant, size, number of episodes per deployment and configuration."""
    return Table(header, [_line(key, found) for key, found in by_batch(rows).items()])


def _line(key: Key, rows: list[Row]) -> tuple[str, ...]:
    variant, size, batch, _ = key
    needed = [counted_deployments(row) for row in rows]
    num_solved = sum(row["solved"] == "yes" for row in rows)
    bound = "≥ " if num_solved < len(rows) else ""
    return (
        variant,
        str(size),
        str(batch),
        f"{num_solved}/{len(rows)}",
        f"{bound}{fmean(needed):.1f}",
        f"{min(needed)} to {max(needed)}",
        f"{bound}{batch * fmean(needed):,.0f}",
    )


def _key(row: Row) -> Key:
    return row["variant"], int(row["size"]), int(row["episodes_per_deployment"]), row["configuration"]
