"""What Atari runs come to: curves over seeds, human-normalised scores, aggregates over games, and what was published.

    human-normalised = (score - random) / (human - random)

Published curves are the mean evaluation returns of HyperFQI, the earlier revision of HyperAgent, and of DDQN(ours) in
arXiv:2402.10228's workshop paper, read out of its vector figures; random and human scores are those of its tables.
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperact.trainer.bench.results import Row, read_rows

_reference = Path(__file__).parent / "reference"
curves_file = _reference / "atari_curves.csv"
scores_file = _reference / "atari_scores.csv"

# Our names to the names of the published series.
_published_series = {"hyperagent": "HyperFQI", "hyperagent_sampled": "HyperFQI", "ddqn": "DDQN(ours)"}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """An evaluation over the seeds of one setting: mean, least and most of the seeds' mean returns."""

    num_steps: int
    mean: float
    least: float
    most: float
    num_seeds: int


def by_game(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return the rows of each (game, variant, configuration), of each seed the last one; in the order of the file."""
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((row["game"], row["variant"], row["configuration"]), {})[row["seed"]] = row
    return {key: list(seeds.values()) for key, seeds in groups.items()}


def curve(rows: Sequence[Row]) -> list[CurvePoint]:
    """Return the evaluations of some seeds, by interactions."""
    means: dict[int, list[float]] = {}
    for row in rows:
        for num_steps, returns in json.loads(row["curve"]):
            means.setdefault(num_steps, []).append(statistics.fmean(returns))
    return [
        CurvePoint(num_steps, statistics.fmean(found), min(found), max(found), len(found))
        for num_steps, found in sorted(means.items())
    ]


def published_curve(game: str, variant: str) -> list[tuple[int, float]]:
    """Return (interactions, mean return) of a variant in the published figures; empty if it is in none."""
    series = _published_series.get(variant)
    return [
        (int(row["interactions"]), float(row["mean_return"]))
        for row in read_rows(curves_file)
        if (row["game"], row["series"]) == (game, series)
    ]


def human_normalised(game: str, score: float) -> float | None:
    """Return a score on the scale on which a random player has 0 and a human 1; None for a game without those."""
    found = next((row for row in read_rows(scores_file) if row["game"] == game), None)
    if found is None:
        return None
    random, human = float(found["random"]), float(found["human"])
    return (score - random) / (human - random)
