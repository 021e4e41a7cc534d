"""What one-shot decisions came to: a table by deployment, the regret as a plot and as a file."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from hyperact.clients.bandit import BanditStep
from hyperact.clients.plots import deployment_colours
from hyperact.clients.results import by_deployment

headings = ("deployment", "version", "decisions", "right", "regret", "regret so far", "mean propensity")


def regret_table(title: str, steps: Sequence[BanditStep]) -> Table:
    """Return the table of deployments."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    for deployment, version, decisions, right, regret, so_far, propensity in regret_rows(steps):
        who = (str(deployment), version) if deployment else ("none", "uniform")
        table.add_row(*who, str(decisions), f"{right:.1%}", f"{regret:g}", f"{so_far:g}", f"{propensity:.3f}")
    return table


def regret_rows(steps: Sequence[BanditStep]) -> list[tuple[int, str, int, float, float, float, float]]:
    """Return a row per deployment, as `headings` names them. A decision's regret is 1 less its reward."""
    rows = []
    so_far = 0.0
    for result in by_deployment(steps):
        own = [step for step in steps if step.deployment == result.deployment]
        regret = sum(1.0 - step.episode_return for step in own)
        so_far += regret
        propensity = float(np.mean([step.propensity for step in own]))
        rows.append((result.deployment, result.version, len(own), 1.0 - regret / len(own), regret, so_far, propensity))
    return rows


def write_regret(file: Path, steps: Sequence[BanditStep]) -> None:
    """Write one row per deployment."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([heading.replace(" ", "_") for heading in headings])
        writer.writerows(regret_rows(steps))


def plot_regret(path: Path, title: str, steps: Sequence[BanditStep]) -> None:
    """Write an image: the cumulative regret, coloured by the deployment that decided."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    regret = np.cumsum([1.0 - step.episode_return for step in steps])
    deployments = np.array([step.deployment for step in steps])
    colours = deployment_colours(sorted(set(deployments.tolist())))
    for deployment, colour in colours.items():
        numbers = np.flatnonzero(deployments == deployment)
        if len(numbers):
            axes.plot(numbers + 1, regret[numbers], color=colour, linewidth=2)
            axes.axvline(numbers[0] + 1, color="0.85", linewidth=0.6, zorder=0)
    axes.set(title=title, xlabel="decisions (a thin line: a deployment)", ylabel="cumulative regret")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
