"""The results of Atari as learning curves, over the published ones."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperact.trainer.bench import atari_aggregates
from hyperact.trainer.bench.atari_scores import by_game, curve, published_curve
from hyperact.trainer.bench.results import Row


def atari_figure(rows: Sequence[Row]) -> Figure:
    """Return a panel per game (the range of seeds shaded, dashed the published mean), and one of all games together."""
    games = list(dict.fromkeys(row["game"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    figure = Figure(figsize=(6 * (len(games) + 1), 4), layout="constrained")
    axes = figure.subplots(1, len(games) + 1, squeeze=False)[0]
    atari_aggregates.draw(axes[-1], rows, variants)
    for axis, game in zip(axes, games, strict=False):
        found = [row for row in rows if row["game"] == game]
        for number, variant in enumerate(variants):
            _draw(axis, variant, [row for row in found if row["variant"] == variant], f"C{number}")
            _draw_published(axis, game, variant, max(int(row["steps"]) for row in found), f"C{number}")
        axis.set(title=game, xlabel="interactions", ylabel="evaluation return, raw")
        axis.grid(visible=True, alpha=0.2)
        axis.legend(fontsize="small")
    return figure


def _draw(axis: Axes, variant: str, rows: Sequence[Row], colour: str) -> None:
    for group in by_game(rows).values():
        points = curve(group)
        steps = [point.num_steps for point in points]
        axis.plot(steps, [point.mean for point in points], ".-", color=colour, label=f"{variant}, {len(group)} seeds")
        axis.fill_between(
            steps, [point.least for point in points], [point.most for point in points], color=colour, alpha=0.2
        )


def _draw_published(axis: Axes, game: str, variant: str, most: int, colour: str) -> None:
    points = [(steps, value) for steps, value in published_curve(game, variant) if steps <= most]
    if points:
        axis.plot(*zip(*points, strict=True), "x--", color=colour, alpha=0.6, label=f"{variant}, published")
