"""How a demo ended: a sentence, the figures as a file, the plot, and how to look at the runs."""

import csv
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hyperact.clients.demo.sea import DemoSettings, make_sea, num_evaluation_episodes, return_tolerance
from hyperact.clients.plots import plot_returns
from hyperact.clients.results import DeploymentResult, by_deployment
from hyperact.v1.transitions import EpisodeSummary


def report(
    settings: DemoSettings,
    data_dir: Path,
    title: str,
    episodes: Sequence[EpisodeSummary],
    is_solved: bool,
    console: Console,
) -> None:
    """Say how it ended, write the plot and the figures, and say how to look at the runs."""
    results = by_deployment(episodes)
    plot = Path(settings.plot) if settings.plot else data_dir / "returns.png"
    optimal_return = make_sea(settings).optimal_return
    plot_returns(plot, title, episodes, optimal_return)
    write_csv(data_dir / "results.csv", results, optimal_return - return_tolerance)
    lines = (
        verdict(settings, results, is_solved),
        f"plot: {plot}",
        f"figures: {data_dir / 'results.csv'}",
        f"runs: {mlflow_command()} ui --backend-store-uri sqlite:///{data_dir / 'mlflow.db'}",
    )
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def mlflow_command() -> str:
    """Return how to call MLflow: by its name, or by its place beside this Python if the shell does not find it."""
    return "mlflow" if shutil.which("mlflow") else os.path.relpath(Path(sys.executable).with_name("mlflow"))


def verdict(settings: DemoSettings, results: Sequence[DeploymentResult], is_solved: bool) -> str:
    """Return how it ended, in a sentence."""
    last = results[-1].deployment if results else 0
    num_episodes = sum(result.num_episodes for result in results)
    played = f"{num_episodes} training episodes, {num_episodes * settings.size} steps"
    if is_solved:
        return f"Solved by deployment {last}: all {num_evaluation_episodes} evaluation episodes optimal ({played})."
    return f"Not solved within {last} deployments ({played})."


def write_csv(file: Path, results: Sequence[DeploymentResult], threshold: float) -> None:
    """Write one row per deployment."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["deployment", "version", "episodes", "mean_return", "evaluation_return", "optimal_share", "total_steps"]
        )
        for result in results:
            writer.writerow(
                [
                    result.deployment,
                    result.version,
                    result.num_episodes,
                    result.mean_return,
                    result.evaluation_return,
                    result.optimal_share(threshold),
                    result.total_steps,
                ]
            )
