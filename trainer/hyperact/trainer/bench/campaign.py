"""A campaign: many runs, of which those that are not in the results file yet are played, shown and written down.

Interrupted, it goes on from the runs that finished, and each unfinished run from its checkpoint if it keeps one.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from hyperact.trainer.bench.results import ResultsFile
from hyperact.trainer.bench.runs import Run
from hyperact.trainer.bench.workers import Event, checkpoint_path, play_runs


def unfinished(runs: Sequence[Run], results: ResultsFile) -> list[Run]:
    """Return the runs that no row of the results file is the outcome of."""
    rows = results.rows()
    return [run for run in runs if not any(run.is_finished_by(row) for row in rows)]


def play_campaign(runs: Sequence[Run], results: ResultsFile, num_workers: int, console: Console) -> list[str]:
    """Play the unfinished runs, writing each row when its run ends; return the labels of runs that failed."""
    left = unfinished(runs, results)
    checkpoints = results.path.parent / f"{results.path.stem}-checkpoints"
    failed = []
    with Progress(*_columns(), console=console) as progress:
        display = _Display(progress, len(runs), len(runs) - len(left))
        for event in play_runs(left, num_workers, checkpoints):
            display.show(event)
            if event.row is not None:
                results.append(event.row)
                checkpoint_path(checkpoints, event.run).unlink(missing_ok=True)
            elif event.failure:
                failed.append(event.run.label)
    _remove_if_empty(checkpoints)
    return failed


class _Display:
    """A bar for the campaign and one for each run that is being played."""

    def __init__(self, progress: Progress, num_runs: int, num_finished: int) -> None:
        self._progress = progress
        self._total = progress.add_task("all runs", total=num_runs, completed=num_finished, words="")
        self._tasks: dict[str, TaskID] = {}

    def show(self, event: Event) -> None:
        label = event.run.label
        if event.mark is not None:
            task = self._task(label)
            self._progress.update(task, completed=event.mark.fraction, words=event.mark.words)
            return
        self._progress.remove_task(self._tasks.pop(label))
        self._progress.advance(self._total)
        outcome = f"failed\n{event.failure}" if event.row is None else _in_words(event.row)
        self._progress.console.print(f"{label}: {outcome}", highlight=False, markup=False)

    def _task(self, label: str) -> TaskID:
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=1.0, words="")
        return self._tasks[label]


def _columns() -> tuple[TextColumn, BarColumn, TaskProgressColumn, TimeElapsedColumn, TextColumn]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )


def _in_words(row: object) -> str:
    assert isinstance(row, dict)
    return "  ".join(f"{name} {value}" for name, value in row.items() if name not in ("configuration", "commit"))


def _remove_if_empty(directory: Path) -> None:
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()
