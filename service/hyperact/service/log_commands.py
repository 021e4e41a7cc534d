"""What `hyperact log` does with the databases themselves: `verify`."""

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hyperact.service.errors import UnavailableError
from hyperact.service.log_check import LogCheck
from hyperact.service.operation_settings import LogSettings
from hyperact.service.partition_reader import PartitionReader


def verify(settings: LogSettings) -> int:
    """Check the log under the data directories: one line a fault, and exit code 1 if there is any."""
    directories = [data_dir / "log" for data_dir in (settings.data_dir, *settings.also)]
    for directory in directories:
        if not directory.is_dir():
            sys.stderr.write(f"there is no log at {directory}: name its data directory with --data-dir\n")
            return 1
    check = LogCheck(directories)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("entries", total=sum(map(_num_entries, directories)))
        for fault in check.run(lambda count: progress.advance(task, count)):
            sys.stdout.write(f"{fault}\n")
    tally = check.tally
    sys.stdout.write(
        f"{tally.num_partitions} partitions, {tally.num_episodes} episodes, {tally.num_steps} steps, "
        f"{tally.num_reports} reports; {tally.num_repeated} steps in two partitions, {tally.num_removed} entries "
        f"removed by retention, {tally.num_dropped} dropped: "
        + ("whole\n" if not tally.num_faults else f"{tally.num_faults} faults\n")
    )
    return int(tally.num_faults > 0)


def _num_entries(directory: Path) -> int:
    """Return about how many entries there are, for the progress bar."""
    total = 0
    for path in directory.glob("steps-*.sqlite"):
        try:
            reader = PartitionReader.open(path)
        except UnavailableError:
            continue
        if reader is not None:
            written, removed = reader.written(), reader.removed()
            total += sum(written[::2]) - sum(removed[::2])
            reader.close()
    return total
