"""What `hyperact log` does with the databases themselves: `verify` and `export`."""

import sys
from collections.abc import Callable
from pathlib import Path

from google.protobuf import json_format
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hyperact.service.errors import UnavailableError
from hyperact.service.log_check import LogCheck
from hyperact.service.log_reader import read_entries
from hyperact.service.operation_settings import ExportFormat, LogSettings
from hyperact.service.partition_reader import PartitionReader
from hyperact.v1.model_pb2 import ModelSpec

missing_extra = 3


def verify(settings: LogSettings) -> int:
    """Check the log under the data directories: one line a fault, and exit code 1 if there is any."""
    directories = [data_dir / "log" for data_dir in (settings.data_dir, *settings.also)]
    for directory in directories:
        if not directory.is_dir():
            sys.stderr.write(f"there is no log at {directory}: name its data directory with --data-dir\n")
            return 1
    check = LogCheck(directories)
    with _progress() as progress:
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


def export(settings: LogSettings) -> int:
    """Write the log under the data directory in another form."""
    directory = settings.data_dir / "log"
    if not directory.is_dir():
        sys.stderr.write(f"there is no log at {directory}: name its data directory with --data-dir\n")
        return 1
    write = _export_parquet if settings.format is ExportFormat.PARQUET else _export_minari
    try:
        with _progress() as progress:
            task = progress.add_task("entries", total=_num_entries(directory))
            told = write(settings, directory, lambda count: progress.advance(task, count))
    except ModuleNotFoundError as error:
        sys.stderr.write(f"hyperact log export needs {error.name}: pip install 'hyperact[export]'\n")
        return missing_extra
    except (UnavailableError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{told}\n")
    return 0


def _export_parquet(settings: LogSettings, directory: Path, advance: Callable[[int], None]) -> str:
    from hyperact.service.parquet_export import write_parquet

    num_steps, num_reports = write_parquet(read_entries(directory, settings.model), settings.output, advance)
    return f"{num_steps} steps and {num_reports} reports written to {settings.output}"


def _export_minari(settings: LogSettings, directory: Path, advance: Callable[[int], None]) -> str:
    from hyperact.service.minari_export import NothingToExportError, write_minari

    model = settings.model or "default"
    dataset_id = settings.dataset_id or f"hyperact/{model}-v0"
    spec = None if settings.spec is None else json_format.Parse(settings.spec.read_text(), ModelSpec())
    try:
        exported = write_minari(lambda: read_entries(directory, model), settings.output, dataset_id, spec, advance)
    except NothingToExportError:
        raise ValueError(f"the log holds no step of model {model!r}: name another with --model") from None
    return (
        f"{exported.num_episodes} episodes, {exported.num_steps} steps written as {dataset_id} under "
        f"{settings.output}; {exported.num_left_out} ended episodes left out (no reward, no end or another shape)"
    )


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


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
