"""Figures of a run. Data in, figure out: nothing is shown or saved here."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# x, y
Curve = Sequence[tuple[float, float]]


def learning_figure(curves: Mapping[str, Curve], returns: Mapping[int, tuple[float, int]]) -> Figure:
    """Return the curves of a learner and the return of each deployment (its number to mean and number of episodes)."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    _plot_returns(axes[0], returns)
    for axis, (name, curve) in zip(axes[1:], curves.items(), strict=False):
        axis.plot([x for x, _ in curve], [y for _, y in curve], linewidth=1)
        axis.set(title=name.replace("_", " "), xlabel="learner steps")
    return figure


def returns_figure(episode_returns: Sequence[float], evaluations: Curve) -> Figure:
    """Return the training return of each episode and the evaluation returns (episode, mean) of an in-process run."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.plot(range(1, len(episode_returns) + 1), episode_returns, ".", markersize=2, label="training episode")
    axis.plot([x for x, _ in evaluations], [y for _, y in evaluations], "o-", label="evaluation mean")
    axis.set(xlabel="episodes", ylabel="return")
    axis.legend()
    return figure


def _plot_returns(axis: Axes, returns: Mapping[int, tuple[float, int]]) -> None:
    numbers = sorted(returns)
    axis.plot(numbers, [returns[number][0] for number in numbers], "o-")
    axis.set(title="return per deployment (0: uniform fallback)", xlabel="deployment", ylabel="mean return")
