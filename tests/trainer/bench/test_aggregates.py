"""Aggregates over games and seeds, and their intervals."""

import json

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy import stats

from hyperact.trainer.bench import aggregates, atari_aggregates
from hyperact.trainer.bench.aggregates import aggregate
from hyperact.trainer.bench.results import Row


def row(game: str, seed: int, returns: dict[int, float], variant: str = "hyperagent") -> Row:
    """Return a run's row with a game per evaluation."""
    curve = json.dumps([[num_steps, [value]] for num_steps, value in returns.items()])
    return {"game": game, "variant": variant, "configuration": "{}", "seed": str(seed), "curve": curve}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TestStatistics:
    def test_the_interquartile_mean_is_the_trimmed_mean(self) -> None:
        """Of all runs together, whatever their games, as SciPy trims."""
        scores = np.random.default_rng(1).normal(size=(5, 7))

        assert stats.trim_mean(scores.ravel(), 0.25) == pytest.approx(
            float(aggregates.interquartile_mean(list(scores)))
        )

    def test_known_values(self) -> None:
        """Two games of two runs: 0.2 and 0.4, 1.0 and 2.0."""
        found = aggregate([[0.2, 0.4], [1.0, 2.0]], rng())

        values = {name: pytest.approx(one.value) for name, one in found.items()}
        assert {"IQM": 0.7, "median": 0.9, "mean": 0.9, "optimality gap": 0.35} == values

    def test_games_count_alike_in_their_mean(self) -> None:
        """Also where one was played with more seeds."""
        assert 0.5 == aggregate([[0.0, 0.0, 0.0], [1.0]], rng())["mean"].value

    def test_nothing_is_made_of_nothing(self) -> None:
        """A game without a run has no mean."""
        with pytest.raises(ValueError, match="a run of each"):
            aggregate([[1.0], []], rng())


class TestIntervals:
    def test_single_runs_leave_no_doubt_that_seeds_could_show(self) -> None:
        """Resampling one run within its game gives that run."""
        found = aggregate([[0.3], [0.9]], rng())["mean"]

        assert (found.value, found.value) == (found.low, found.high)

    def test_games_are_not_resampled(self) -> None:
        """Games that differ widely widen nothing while their seeds agree."""
        found = aggregate([[0.0, 0.0], [5.0, 5.0]], rng())["median"]

        assert (2.5, 2.5, 2.5) == (found.value, found.low, found.high)

    def test_the_mean_of_many_runs_has_the_interval_of_the_normal_law(self) -> None:
        """The bootstrap's standard error is the sample's; so are percentiles, but for its own noise."""
        scores = np.random.default_rng(2).normal(size=400)

        found = aggregate([scores.tolist()], rng())["mean"]

        half_width = 1.96 * scores.std() / np.sqrt(len(scores))
        # An end is a percentile of 5000 draws: its error is about 2 % of the half-width.
        assert half_width == pytest.approx((found.high - found.low) / 2, rel=0.1)

    def test_it_agrees_with_another_bootstrap(self) -> None:
        """SciPy's percentile intervals of the trimmed mean of one game."""
        scores = np.random.default_rng(3).normal(size=40)

        found = aggregate([scores.tolist()], rng())["IQM"]

        theirs = stats.bootstrap(
            (scores,), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), method="percentile", rng=rng()
        ).confidence_interval
        width = theirs.high - theirs.low
        # Both ends are percentiles of thousands of draws: a few percent of the width.
        assert (theirs.low, theirs.high) == pytest.approx((found.low, found.high), abs=0.1 * width)


class TestAtari:
    def test_one_game_and_two_seeds_are_enough_for_a_line(self) -> None:
        """Which says that its interval means little. A human plays Freeway at 29.6, chance at 0."""
        rows = [row("Freeway", 0, {100: 14.8}), row("Freeway", 1, {100: 29.6})]

        table = atari_aggregates.make_table(rows)

        assert [("hyperagent", "1", "2", "100", *["0.75 [0.50, 1.00]"] * 3, "0.25 [0.00, 0.50]")] == table.cells
        assert "mean little" in table.note

    def test_enough_seeds_need_no_warning(self) -> None:
        """Three of each game."""
        rows = [row("Freeway", seed, {100: 20.0}) for seed in range(3)]

        assert "mean little" not in atari_aggregates.make_table(rows).note

    def test_runs_are_compared_where_all_of_them_were_evaluated(self) -> None:
        """A run that went further has no advantage by it."""
        rows = [row("Freeway", 0, {100: 14.8, 200: 29.6}), row("Freeway", 1, {100: 14.8})]

        (found,) = atari_aggregates.aggregates_of(rows)

        assert (100, 0.5) == (found.num_steps, found.aggregates["mean"].value)

    def test_games_without_human_scores_are_left_out(self) -> None:
        """There is no scale to put them on."""
        assert [] == atari_aggregates.aggregates_of([row("Chess", 0, {100: 1.0})])

    def test_the_panel_shows_each_variant(self) -> None:
        """By the colour that it has in the other panels."""
        rows = [row("Freeway", 0, {100: 20.0}), row("Freeway", 0, {100: 10.0}, variant="ddqn")]
        axis = Figure().subplots()

        atari_aggregates.draw(axis, rows, ["ddqn", "hyperagent"])

        bars = [container for container in axis.containers if isinstance(container, ErrorbarContainer)]
        colours = {container.get_label(): container.lines[0].get_color() for container in bars}
        assert {"hyperagent": "C1", "ddqn": "C0"} == colours
