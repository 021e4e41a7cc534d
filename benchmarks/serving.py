"""Decisions per second of one worker on one core, everything on, beside the limits of what it is made of.

    python -m benchmarks.serving --output benchmarks/results
    python -m benchmarks.serving --quick

The service runs pinned to one core with durability `disk`, tokens, propensities and metrics; the load comes from a
process on another core that carries each session's token as a real client does. In the same run, on the same core:

- a bare echo: grpc.aio under uvloop answers the same requests with bytes of the same size, without looking at them.
  It is the ceiling of this transport.
- ONNX Runtime alone calls the same graph in batches of 32: the ceiling of what is decided.

Then each way is offered 70 % of the most that it did, at random moments, for the latency of a service that is not
saturated. Last, the processor time of a decision by one worker and by two, each free to use both cores: on a machine
with two cores the load needs a core itself, so what two workers would do is told by what they spend.

Each figure is the median of the repeats. Results go to serving.csv, one row a repeat.
"""

import argparse
import csv
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.serving_plot import plot
from benchmarks.serving_systems import (
    ROWS,
    children_of,
    echo_command,
    free_port,
    make_version,
    measure_runtime,
    processor_seconds,
    running,
    serve_command,
    wait_until_ready,
)
from rich.console import Console
from rich.table import Table

from hyperact.clients.load.measurement import Case, Target, Way, measure, to_row


class Model(NamedTuple):
    """A version to serve: how `hyperact init` makes it, and what its observations are."""

    name: str
    arguments: list[str]
    shape: tuple[int, ...]


def _atari(torso: str, hidden_size: int) -> list[str]:
    learner = f'{{"network": {{"torso": "{torso}", "hidden_sizes": [{hidden_size}]}}}}'
    return ["--env", "ALE/Freeway-v5", "--learner", learner]


_deep_sea = ["--env", "hyperact.clients.deep_sea:hyperact/DeepSea-v0", "--env-kwargs", '{"size": 20}']
MODELS = (
    Model("DeepSea-20 MLP", _deep_sea, (20, 20)),
    Model("data-efficient torso", _atari("data_efficient", 256), (4, 84, 84)),
    Model("Nature torso", _atari("nature", 512), (4, 84, 84)),
)
LOAD_CORE = 1
STEADY_SHARE = 0.7
RUNTIME = f"ONNX Runtime alone, batches of {ROWS}"
# One worker, one load process: each has a core of its own.
CASES = (
    *(Case(Way.ACT, 1, number) for number in (1, 16, 64)),
    *(Case(Way.STREAM, 1, number) for number in (16, 64)),
    Case(Way.STREAM, ROWS, 8),
    Case(Way.BATCH, ROWS, 8),
)
STEADY = (CASES[2], CASES[4], CASES[5])
Rows = list[dict[str, Any]]
progress = Console(stderr=True)


def measure_model(model: Model, seconds: float, repeats: int) -> Rows:
    """Measure every case against service and echo in turn; return a row for each repeat."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        make_version(model.arguments, data_dir)
        addresses = {"hyperact": f"127.0.0.1:{free_port()}", "echo": f"127.0.0.1:{free_port()}"}
        echo = echo_command(addresses["echo"], model.shape)
        with running(serve_command(data_dir, addresses["hyperact"])) as service, running(echo):
            wait_until_ready(addresses["hyperact"], data_dir)
            for repeat in range(repeats):
                rate = measure_runtime(data_dir, model.shape, seconds)
                rows.append(_row(model, "runtime", RUNTIME, {"repeat": repeat, "decisions_per_second": round(rate, 1)}))
                for case in CASES:
                    for system, address in addresses.items():
                        before = processor_seconds([service])
                        found = measure(Target(address), case, seconds, num_processes=1)
                        rows.append(_row(model, system, str(case), to_row(case, repeat, found)))
                        if system == "hyperact":
                            # The load's warm-up is in the processor's time and not in the count.
                            num = found.decisions_per_second * seconds * 1.2
                            rows[-1]["processor_us"] = round((processor_seconds([service]) - before) / num * 1e6, 1)
                rows += _measure_steady(model, addresses["hyperact"], rows, seconds, repeat)
    return rows


def _measure_steady(model: Model, address: str, rows: Rows, seconds: float, repeat: int) -> Rows:
    """Offer a share of the most that each way did."""
    steady: Rows = []
    for case in STEADY:
        most = max(row["decisions_per_second"] for row in _some(rows, model.name, "hyperact", str(case)))
        offered = Case(case.way, case.num_rows, case.in_flight, STEADY_SHARE * most / case.num_rows)
        found = measure(Target(address), offered, seconds, num_processes=1)
        steady.append(_row(model, "steady", str(case), to_row(offered, repeat, found)))
    return steady


def measure_workers(model: Model, seconds: float, repeats: int) -> Rows:
    """Measure the processor time of a decision by one worker and by two."""
    rows: Rows = []
    case = Case(Way.STREAM, ROWS, 8)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        make_version(model.arguments, data_dir)
        for num_workers in (1, 2):
            address = f"127.0.0.1:{free_port()}"
            with running(serve_command(data_dir, address, num_workers), cores=f"0,{LOAD_CORE}") as service:
                wait_until_ready(address, data_dir)
                pids = [service, *children_of(service)]
                for repeat in range(repeats):
                    before = processor_seconds(pids)
                    found = measure(Target(address), case, seconds, num_processes=2)
                    spent = processor_seconds(pids) - before
                    row = _row(model, f"{num_workers} workers", str(case), to_row(case, repeat, found))
                    row["processor_us"] = round(spent / (found.decisions_per_second * seconds * 1.2) * 1e6, 1)
                    rows.append(row)
    return rows


def _row(model: Model, system: str, case: str, found: dict[str, Any]) -> dict[str, Any]:
    progress.print(f"{model.name}: {system}: {case}: {found['decisions_per_second']:,.0f}/s {found.get('message', '')}")
    return {"model": model.name, "system": system, "case": case, **found}


def _some(rows: Rows, model: str, system: str, case: str) -> Rows:
    return [row for row in rows if (row["model"], row["system"], row["case"]) == (model, system, case)]


def _median(rows: Rows, column: str) -> float:
    return statistics.median(float(row[column]) for row in rows)


def show(rows: Rows) -> None:
    """Print the medians."""
    names = (
        "model",
        "case",
        "decisions/s",
        "of echo",
        "of runtime",
        "processor us",
        "p50 ms",
        "p99 ms",
        "p99/p50 at 70 %",
    )
    table = Table(*names, title="Medians, one worker on one core, durability disk")
    for model in dict.fromkeys(row["model"] for row in rows):
        for case in map(str, CASES):
            ours, echo = _some(rows, model, "hyperact", case), _some(rows, model, "echo", case)
            runtime, steady = _some(rows, model, "runtime", RUNTIME), _some(rows, model, "steady", case)
            rate = _median(ours, "decisions_per_second")
            calm = f"{_median(steady, 'p99_ms') / _median(steady, 'p50_ms'):.1f}" if steady else ""
            table.add_row(
                *(model, case, f"{rate:,.0f}", f"{rate / _median(echo, 'decisions_per_second'):.2f}"),
                f"{rate / _median(runtime, 'decisions_per_second'):.2f}",
                *(
                    f"{_median(ours, 'processor_us'):.0f}",
                    f"{_median(ours, 'p50_ms'):.2f}",
                    f"{_median(ours, 'p99_ms'):.2f}",
                ),
                calm,
            )
    console = Console(width=140)
    console.print(table)
    one, two = (_median([row for row in rows if row["system"] == f"{num} workers"], "processor_us") for num in (1, 2))
    console.print(
        f"Processor time of a decision: {one:.1f} us by one worker, {two:.1f} by two: {2 * one / two:.2f} times as many"
    )


def write(path: Path, rows: Rows) -> None:
    """Write every repeat."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path, help="the image's file")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="DeepSea alone, once, for a second a case")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    models: Sequence[Model] = MODELS
    seconds, repeats = arguments.seconds, arguments.repeats
    if arguments.quick:
        models, seconds, repeats = MODELS[:1], 1.0, 1
    rows = measure_workers(models[0], seconds, repeats)
    os.sched_setaffinity(0, {LOAD_CORE})
    for model in models:
        rows += measure_model(model, seconds, repeats)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(arguments.output / "serving.csv", rows)
    if arguments.plot is not None:
        plot(arguments.plot, rows)
    show(rows)


if __name__ == "__main__":
    main()
