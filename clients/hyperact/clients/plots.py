"""Plots of returns, coloured by deployment. matplotlib is imported only when one is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperact.clients.results import DeploymentResult, EndedEpisode, by_deployment

# Light to dark as deployments pass; the fallback stands apart in grey.
colour_map, fallback_colour = "viridis_r", "0.6"
evaluation_colour, optimal_colour = "tab:red", "tab:green"


def plot_returns(path: Path, title: str, episodes: Sequence[EndedEpisode], optimal_return: float | None = None) -> None:
    """Write an image: the return per episode, and per deployment beside it if there were several.

    Args:
        episodes: in the order in which they ended.
        optimal_return: drawn as a line; None if it is not known.
    """
    from matplotlib.figure import Figure

    results = by_deployment(episodes)
    has_several = len(results) > 1
    figure = Figure(figsize=(11 if has_several else 7, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if has_several else 1, squeeze=False)[0]
    figure.suptitle(title)
    colours = deployment_colours([result.deployment for result in results])
    if has_several:
        draw_deployments(axes[0], results, colours)
    draw_episodes(axes[-1], [episode for episode in episodes if not episode.is_evaluation] or episodes, colours)
    for one in axes:
        if optimal_return is not None:
            one.axhline(optimal_return, color=optimal_colour, linestyle=":", linewidth=1.2, label="optimal")
        one.grid(alpha=0.25)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.legend(frameon=False, fontsize="small", loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def deployment_colours(deployments: Sequence[int]) -> dict[int, Any]:
    """Return a colour per deployment."""
    import matplotlib as mpl

    served = [deployment for deployment in deployments if deployment]
    shades = mpl.colormaps[colour_map]
    colours = {deployment: shades(0.15 + 0.85 * n / max(len(served) - 1, 1)) for n, deployment in enumerate(served)}
    return {0: fallback_colour, **colours}


def draw_deployments(axes: Any, results: Sequence[DeploymentResult], colours: dict[int, Any]) -> None:
    """Draw the mean return of each deployment: training as bars, evaluation as a line."""
    from matplotlib.ticker import MaxNLocator

    trained = [result for result in results if result.mean_return is not None]
    axes.bar(
        [result.deployment for result in trained],
        [result.mean_return for result in trained],
        color=[colours[result.deployment] for result in trained],
        label="training episodes, mean",
    )
    measured = [result for result in results if result.evaluation_return is not None]
    if measured:
        axes.plot(
            [result.deployment for result in measured],
            [result.evaluation_return for result in measured],
            color=evaluation_colour,
            marker="o",
            markersize=4,
            label="evaluation episodes, mean",
        )
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set(title="Per deployment", xlabel="deployment (0: uniformly random)", ylabel="return")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_episodes(axes: Any, episodes: Sequence[EndedEpisode], colours: dict[int, Any]) -> None:
    """Draw each episode's return as a dot in its deployment's colour, and the running mean."""
    import numpy as np

    returns = np.array([episode.episode_return for episode in episodes], np.float64)
    numbers = np.arange(1, len(returns) + 1)
    dots = [colours[episode.deployment] for episode in episodes]
    axes.scatter(numbers, returns, c=dots, s=14, linewidths=0, label="one episode, by deployment")
    window = min(20, len(returns))
    if window > 1:
        means = np.convolve(returns, np.full(window, 1 / window), mode="valid")
        axes.plot(numbers[window - 1 :], means, color="0.25", linewidth=1.2, label=f"mean of {window}")
    kind = "Evaluation" if episodes and episodes[0].is_evaluation else "Training"
    axes.set(title=f"{kind} episodes", xlabel="episode", ylabel="return")
