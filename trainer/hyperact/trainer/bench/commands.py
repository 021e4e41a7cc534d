"""The `bench` commands: settings in, campaign played, table and plot out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hyperact.trainer.bench.settings import AtariSettings, BenchSettings, DeepSeaSettings, DeploymentsSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hyperact.trainer.bench.results import ResultsFile, Row
    from hyperact.trainer.bench.runs import Run
    from hyperact.trainer.bench.tables import Table


def deepsea(settings: DeepSeaSettings) -> int:
    """Count the episodes that variants of the learner need to solve DeepSea, beside the published curves."""
    from hyperact.trainer.bench.deep_sea import columns, make_runs
    from hyperact.trainer.bench.deep_sea_figure import deep_sea_figure
    from hyperact.trainer.bench.deep_sea_table import make_table
    from hyperact.trainer.bench.results import ResultsFile

    results = ResultsFile(settings.results, columns)
    is_complete = play(settings, make_runs(settings), results)
    tell(settings, results.rows(), make_table, deep_sea_figure)
    return int(not is_complete)


def deployments(settings: DeploymentsSettings) -> int:
    """Count the deployments that variants of the learner need to solve DeepSea, some episodes each."""
    from hyperact.trainer.bench.deployments import columns, make_runs
    from hyperact.trainer.bench.deployments_figure import deployments_figure
    from hyperact.trainer.bench.deployments_table import make_table
    from hyperact.trainer.bench.results import ResultsFile

    results = ResultsFile(settings.results, columns)
    is_complete = play(settings, make_runs(settings), results)
    tell(settings, results.rows(), make_table, deployments_figure)
    return int(not is_complete)


def atari(settings: AtariSettings) -> int:
    """Play Atari by the papers' protocol, and show returns by interactions beside the published curves."""
    from hyperact.trainer.bench import atari_aggregates
    from hyperact.trainer.bench.atari import columns, make_runs
    from hyperact.trainer.bench.atari_figure import atari_figure
    from hyperact.trainer.bench.atari_table import make_table
    from hyperact.trainer.bench.results import ResultsFile

    results = ResultsFile(settings.results, columns)
    is_complete = play(settings, make_runs(settings), results)
    rows = results.rows()
    tell(settings, rows, make_table, atari_figure)
    show(settings, atari_aggregates.make_table(rows))
    return int(not is_complete)


def play(settings: BenchSettings, runs: "Sequence[Run]", results: "ResultsFile") -> bool:
    """Play what is missing, if it is wanted; tell whether no run failed."""
    from hyperact.trainer.bench.campaign import play_campaign

    return not settings.play or not play_campaign(runs, results, settings.jobs, Console(stderr=True))


def tell(
    settings: BenchSettings,
    rows: "Sequence[Row]",
    make_table: "Callable[[Sequence[Row]], Table]",
    make_figure: "Callable[[Sequence[Row]], Figure]",
) -> None:
    """Print the table of all rows, and save their plot if it is wanted."""
    show(settings, make_table(rows))
    if settings.plot and rows:
        save(make_figure(rows), settings.plot)


def show(settings: BenchSettings, table: "Table") -> None:
    """Print a table."""
    console = Console(width=10_000) if settings.markdown else Console()
    console.print(table.to_markdown() if settings.markdown else table.to_rich(), highlight=False, markup=False)


def save(figure: "Figure", path: Path) -> None:
    """Save a figure, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
