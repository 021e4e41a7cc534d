"""`hyperact bench serve`: how much a service can do, and how long its answers take."""

import csv
import statistics
import sys
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hyperact.clients.connection import Connection, default_address
from hyperact.clients.errors import ClientError
from hyperact.clients.load.measurement import Case, Found, Target, Way, measure, to_row
from hyperact.v1.channels import ConnectionSettings, channel_credentials
from hyperact.v1.errors import ConnectionSettingsError


class BenchServeSettings(ConnectionSettings):
    """Puts load on a service and measures it. Its steps are logged and learned from: not for a system in use."""

    model_config = ConfigDict(extra="forbid")

    address: str = Field(default_address, description="The service's address, HOST:PORT.")
    model: str = Field("", description="The registered model; empty: the service's default.")
    ways: list[Way] = Field(list(Way), description='How steps are sent: "act", "stream", "batch".')
    in_flight: list[int] = Field([1, 16, 64], description="Messages under way at a time; one case each.")
    rows: int = Field(
        32, ge=1, description="Steps in a message of ActBatch; ActStream is measured with 1 and with these."
    )
    share: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Of the most that a way did, how much is then offered at a steady rate; 0: nothing.",
    )
    seconds: float = Field(3.0, gt=0, description="How long a case is measured, after a fifth of it to warm up.")
    repeats: int = Field(3, ge=1, description="How often each case is measured; medians are shown.")
    processes: int = Field(1, ge=1, description="How many processes send; about one for each worker that answers.")
    timeout_seconds: float = Field(5.0, gt=0, description="How long the service may take to be reached.")
    results: Path | None = Field(Path("hyperact-bench-serve.csv"), description="The file of all repeats.")
    plot: Path | None = Field(Path("hyperact-bench-serve.png"), description="The plot's file.")


def serve(settings: BenchServeSettings) -> int:
    """Measure how many decisions a second a service makes, and how long they take."""
    try:
        credentials = channel_credentials(settings)
        with Connection(
            settings.address, timeout_seconds=settings.timeout_seconds, credentials=credentials
        ) as connection:
            connection.wait_until_reachable()
            spec = connection.get_spec(settings.model)
        if settings.rows > spec.max_batch:
            sys.stderr.write(f"hyperact bench serve: --rows: the service takes at most {spec.max_batch}\n")
            return 2
    except (ClientError, ConnectionSettingsError) as error:
        sys.stderr.write(f"hyperact bench serve: {error}\n")
        return 1
    rows = measure_all(settings, Target(settings.address, settings.model, settings), Console(stderr=True))
    Console().print(make_table(rows))
    if settings.results:
        write_rows(settings.results, rows)
    if settings.plot:
        from hyperact.clients.load.plots import plot_load

        plot_load(settings.plot, f"{spec.model}, version {spec.version}", rows)
    failed = [row for row in rows if row["num_errors"]]
    for row in failed:
        sys.stderr.write(f"{row['case']}: {row['num_errors']} messages failed ({row['errors']}): {row['message']}\n")
    return int(bool(failed))


def measure_all(settings: BenchServeSettings, target: Target, console: Console) -> list[dict[str, Any]]:
    """Measure every case in turn, `repeats` times, then the share of the most that each way did."""
    rows: list[dict[str, Any]] = []

    def run(case: Case, repeat: int) -> Found:
        found = measure(target, case, settings.seconds, settings.processes)
        rows.append({"case": str(case), **to_row(case, repeat, found)})
        return found

    cases = make_cases(settings)
    turns = [(case, repeat) for repeat in range(settings.repeats) for case in cases]
    best: dict[tuple[Way, int], tuple[float, int]] = {}
    for case, repeat in track(turns, "closed load", console=console):
        rate = run(case, repeat).decisions_per_second / case.num_rows
        best[case.way, case.num_rows] = max(best.get((case.way, case.num_rows), (0.0, 0)), (rate, case.in_flight))
    if settings.share:
        steady = [
            Case(way, num_rows, in_flight, settings.share * rate) for (way, num_rows), (rate, in_flight) in best.items()
        ]
        turns = [(case, repeat) for repeat in range(settings.repeats) for case in steady if case.rate]
        for case, repeat in track(turns, "steady rate", console=console):
            run(case, repeat)
    return rows


def make_cases(settings: BenchServeSettings) -> list[Case]:
    """Return what is measured: each way at each number in flight, streams with one row and with several."""
    cases = []
    for way in settings.ways:
        sizes = {Way.ACT: [1], Way.BATCH: [settings.rows], Way.STREAM: sorted({1, settings.rows})}[way]
        cases += [Case(way, num_rows, in_flight) for num_rows in sizes for in_flight in settings.in_flight]
    return cases


def make_table(rows: list[dict[str, Any]]) -> Table:
    """Return the medians, a line for each case."""
    table = Table("", "decisions/s", "p50 ms", "p99 ms", "failed", box=box.SIMPLE_HEAD, title="Medians")
    for column in table.columns[1:]:
        column.justify = "right"
    for case, found in medians(rows).items():
        num_errors = str(int(found["num_errors"]))
        table.add_row(
            case,
            f"{found['decisions_per_second']:,.0f}",
            f"{found['p50_ms']:.2f}",
            f"{found['p99_ms']:.2f}",
            num_errors,
        )
    return table


def medians(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the median of every figure, by case."""
    by_case: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], []).append(row)
    names = ("decisions_per_second", "p50_ms", "p99_ms", "num_errors")
    return {
        case: {name: statistics.median(row[name] for row in some) for name in names} for case, some in by_case.items()
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write every repeat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
