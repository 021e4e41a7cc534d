"""`hyperact demo`: the whole loop on one machine, on DeepSea, until it is solved.

What happens:

1. A service and a trainer start as processes of their own, on an empty or an earlier registry and log.
2. Sessions play training episodes until the deployment in service has enough of them, all in the log.
3. The trainer learns from the log and deploys a version; a deployment's 100 evaluation episodes, with fresh indices,
   are measured through the service.
4. Again from 2, until all 100 are optimal.

Everything that must last is in the log and in the registry: a demo that is stopped goes on from there, and what it
shows is read from the log. A service that dies is started again; the sessions ask again and lose nothing.
"""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from hyperact.clients.children import ChildError, Children
from hyperact.clients.connection import Connection
from hyperact.clients.demo.display import DemoDisplay
from hyperact.clients.demo.report import report
from hyperact.clients.demo.run import DemoRun, call_deadline_seconds
from hyperact.clients.demo.sea import DemoSettings, make_sea, model_name, return_tolerance
from hyperact.clients.demo.stage import DemoError, end_on_signal, free_address, wait_until_ready
from hyperact.clients.errors import BatchError, ClientError
from hyperact.clients.results import by_deployment
from hyperact.v1.channels import channel_credentials


def demo(settings: DemoSettings) -> int:
    """Show the whole loop on DeepSea: act, log, retrain, promote, until it is solved."""
    signal.signal(signal.SIGTERM, end_on_signal)
    console = Console()
    try:
        return run_demo(settings, console)
    except (DemoError, ChildError) as error:
        sys.stderr.write(f"hyperact demo: {error}\n")
        return 1


def run_demo(settings: DemoSettings, console: Console) -> int:
    """Run the demo and return the exit code: 0 if it was solved."""
    data_dir = settings.data_dir.resolve()
    sea = make_sea(settings)
    title = f"DeepSea-{settings.size} by deployments of {settings.episodes_per_deployment} episodes"
    with ExitStack() as stack:
        stack.enter_context(claim(data_dir, settings))
        display = stack.enter_context(DemoDisplay(console, title, sea.optimal_return - return_tolerance))
        environment = {"OMP_NUM_THREADS": "1", **settings.to_environment()}
        children = stack.enter_context(Children(environment, notify=display.say))
        try:
            demo_run = start(settings, data_dir, children, display, stack, sea.optimal_return)
            is_solved = demo_run.run()
        except KeyboardInterrupt:
            display.say("stopping the service and the trainer; run the same command again to go on from here")
            raise
        except (ClientError, BatchError) as error:
            children.check()
            raise DemoError(f"{error}; the service's and the trainer's words are in {data_dir}/*.log") from error
        display.now("stopping the service and the trainer")
    results = by_deployment(demo_run.log.episodes)
    console.print(display.table(results))
    report(settings, data_dir, title, demo_run.log.episodes, is_solved, console)
    return 0 if is_solved else 1


def start(
    settings: DemoSettings,
    data_dir: Path,
    children: Children,
    display: DemoDisplay,
    stack: ExitStack,
    optimal_return: float,
) -> DemoRun:
    """Start the service and the trainer and return the demo's run once the service is ready."""
    address, metrics_address = free_address(), free_address()
    for name, command in commands(settings, data_dir, address, metrics_address).items():
        display.watch(children.start(name, command, data_dir / f"{name}.log"))
    display.say(f"service at {address}, metrics at http://{metrics_address}/metrics, everything in {data_dir}")
    display.now("the service starts")
    credentials = channel_credentials(settings)
    connection = stack.enter_context(
        Connection(address, timeout_seconds=call_deadline_seconds, credentials=credentials)
    )
    wait_until_ready(connection, children, settings.start_seconds)
    transcript = stack.enter_context(open_transcript(settings.transcript))
    return DemoRun(settings, connection, children, display, optimal_return, transcript)


def commands(settings: DemoSettings, data_dir: Path, address: str, metrics_address: str) -> dict[str, list[str]]:
    """Return the command lines of the processes, by name."""
    common = ["--data-dir", str(data_dir)]
    sea = {"size": settings.size, "mapping_seed": settings.seed}
    return {
        "serve": [
            "serve",
            *common,
            *("--models", model_name(settings)),
            *("--address", address),
            *("--metrics-address", metrics_address),
            *("--fallback-num-actions", "2"),
            *("--poll-seconds", "0.2"),
        ],
        "retrain": [
            "retrain",
            *common,
            *("--model", model_name(settings)),
            *("--address", address),
            *("--env", "hyperact/DeepSea-v0"),
            *("--env-kwargs", json.dumps(sea)),
            *("--min-new-steps", str(settings.episodes_per_deployment * settings.size)),
            *("--seed", str(settings.seed)),
        ],
    }


def open_transcript(file: str) -> TextIO:
    """Return where the acknowledged steps' ids go: a file that is appended to, or nowhere."""
    return Path(file or os.devnull).open("a")


@contextmanager
def claim(data_dir: Path, settings: DemoSettings) -> Iterator[None]:
    """Hold a demo's directory; DemoError if another demo runs in it or it is one of another sea."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demo is running in {data_dir}") from None
        check_sea(data_dir / "demo.json", {"size": settings.size, "seed": settings.seed})
        yield


def check_sea(file: Path, sea: dict[str, int]) -> None:
    """Raise DemoError if an earlier demo of another sea is in the directory."""
    if file.exists():
        earlier = json.loads(file.read_text())
        if earlier != sea:
            raise DemoError(f"{file.parent} holds a demo of {earlier}, not {sea}: give another --data-dir")
    else:
        file.write_text(json.dumps(sea) + "\n")
