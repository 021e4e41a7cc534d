"""What many seeds of one setting come to: mean, least and most, unsolved runs counted at the cap, as the papers do."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperact.trainer.bench.results import Row, read_rows

published_file = Path(__file__).parent / "reference" / "deep_sea.csv"

# Our names to the names of the series in the published figures.
published_series = {
    "hyperagent": "HyperFQI M=4",
    "hyperagent_sampled": "HyperFQI M=4",
    "hyperagent_ois": "HyperFQI-OIS M=4",
    "hyperagent_one_hot": "HyperFQI-OH M=4",
    "hyperdqn": "HyperDQN",
    "enn_dqn": "ENNDQN",
    "ensemble_plus": "BootDQN(4 heads)",
    "ensemble_plus_16": "BootDQN(16)",
    "hypermodel": "HyperModel",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Episodes to solve, over the seeds of one variant on one size."""

    num_runs: int
    num_solved: int
    mean: float
    least: float
    most: float
    max_episodes: int


def summarise(rows: Sequence[Mapping[str, str]]) -> Summary:
    """Return the summary of some runs; an unsolved one counts as many episodes as it was given."""
    counted = [float(row["episodes"]) if row["solved"] == "yes" else float(row["max_episodes"]) for row in rows]
    return Summary(
        num_runs=len(rows),
        num_solved=sum(row["solved"] == "yes" for row in rows),
        mean=statistics.fmean(counted),
        least=min(counted),
        most=max(counted),
        max_episodes=max(int(row["max_episodes"]) for row in rows),
    )


def by_setting(rows: Iterable[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Return the rows of each (variant, configuration, size), of each seed the last one; in the order of the file."""
    groups: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        key = (row["variant"], row["configuration"], int(row["size"]))
        groups.setdefault(key, {})[row["seed"]] = row
    return {key: list(seeds.values()) for key, seeds in groups.items()}


def published_means(variant: str) -> dict[int, float]:
    """Return size to mean episodes of a variant in the published figures (10 seeds); empty if it is in none."""
    series = published_series.get(variant)
    return {
        int(row["size"]): float(row["mean_episodes"]) for row in read_rows(published_file) if row["series"] == series
    }
