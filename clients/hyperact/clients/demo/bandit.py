"""`hyperact demo bandit`: a contextual bandit from nothing, by few deployments, on one machine.

What happens:

1. An untrained version is registered and promoted: deployment 1, which knows nothing.
2. A service and a trainer start as processes of their own.
3. Decisions are made one after the other; rewards are reported late, and some never.
4. When so many decisions are in the log as the schedule says, decisions wait until the trainer has deployed what it
   learned. Rewards that are still under way then stay under way: they come later, by the step's id.

The schedule is geometric: a version from few decisions is worth much when it is the first, and little later on.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator
from rich.console import Console

from hyperact.clients.bandit import BanditStep
from hyperact.clients.bandit_report import plot_regret, regret_table, write_regret
from hyperact.clients.children import ChildError, Children
from hyperact.clients.connection import Connection
from hyperact.clients.demo.stage import DemoError, end_on_signal, free_address, poll_seconds, wait_until_ready
from hyperact.clients.errors import ClientError
from hyperact.clients.labels import environment_id
from hyperact.clients.play_bandit import StreamSettings, follow, steps_of
from hyperact.clients.retries import Retries
from hyperact.clients.sessions import Session

call_deadline_seconds = 90.0
index_dim = 8
# Long enough for every reward of a demo; what has not come by then is not learned from.
reward_window_seconds = 3600.0
never = 10**9


class DemoBanditSettings(StreamSettings):
    """Shows a contextual bandit from nothing: decide, report late, retrain, promote, on a schedule."""

    model_config = ConfigDict(extra="forbid")

    data_dir: Path = Field(
        Path("hyperact-bandit"),
        description="Where log, registry, results and the processes' logs will be.",
    )
    deployments: int = Field(20, ge=2, description="Deployments in all, the untrained one included.")
    first_deployment: int = Field(50, ge=1, description="Decisions before the first version that learned something.")
    plot: str = Field("", description="The plot's file; empty: regret.png in data_dir.")
    start_seconds: float = Field(300.0, gt=0, description="How long the service, or a deployment, may take.")

    @model_validator(mode="after")
    def _check(self) -> "DemoBanditSettings":
        if self.first_deployment >= self.decisions:
            raise ValueError("first_deployment must be less than decisions")
        return self


def demo(settings: DemoBanditSettings) -> int:
    """Show a contextual bandit from nothing: decide, report late, retrain, promote, on a schedule."""
    signal.signal(signal.SIGTERM, end_on_signal)
    console = Console()
    try:
        steps = run_demo(settings, console)
    except (DemoError, ChildError, ClientError) as error:
        sys.stderr.write(f"hyperact demo bandit: {error}\n")
        return 1
    report(settings, steps, console)
    return 0


def run_demo(settings: DemoBanditSettings, console: Console) -> list[BanditStep]:
    """Run the demo and return its decisions; DemoError, ChildError, ClientError."""
    data_dir = settings.data_dir.resolve()
    if (data_dir / "mlflow.db").exists():
        raise DemoError(f"{data_dir} holds a registry already: give another --data-dir")
    data_dir.mkdir(parents=True, exist_ok=True)
    register_untrained(settings, data_dir)
    address = free_address()
    schedule = geometric_schedule(settings.first_deployment, settings.decisions, settings.deployments - 1)
    with ExitStack() as stack:
        children = stack.enter_context(Children({"OMP_NUM_THREADS": "1"}, notify=console.print))
        for name, command in commands(settings, data_dir, address, schedule).items():
            children.start(name, command, data_dir / f"{name}.log")
        console.print(f"service at {address}, everything in {data_dir}", highlight=False, soft_wrap=True)
        connection = stack.enter_context(Connection(address, timeout_seconds=call_deadline_seconds))
        wait_until_ready(connection, children, settings.start_seconds)
        retries = Retries(deadline_seconds=call_deadline_seconds)
        session = Session(connection, "bandit", model=settings.data, retries=retries)
        steps = steps_of(settings, session)
        paced = wait_at(steps, schedule, connection, children, settings)
        return list(follow(paced, settings.decisions, console))


def geometric_schedule(first: int, end: int, number: int) -> list[int]:
    """Return so many numbers of decisions, from `first` to before `end`, each by about the same factor greater."""
    factor = (end / first) ** (1 / number)
    return sorted({min(round(first * factor**power), end - 1) for power in range(number)})


def register_untrained(settings: DemoBanditSettings, data_dir: Path) -> None:
    """Register and promote a version that learned nothing, by `hyperact init`; DemoError."""
    command = [
        *(sys.executable, "-m", "hyperact.command_line", "init", "--promote", "--data-dir", str(data_dir)),
        *("--model", settings.data, "--agent-kind", "one-shot", "--index-dim", str(index_dim)),
        *("--env", environment_id, "--env-kwargs", json.dumps({"data": settings.data})),
        *("--reward-window-seconds", str(reward_window_seconds), "--seed", str(settings.seed)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"no version could be registered: {done.stderr.strip()}")


def commands(
    settings: DemoBanditSettings, data_dir: Path, address: str, schedule: Sequence[int]
) -> dict[str, list[str]]:
    """Return the command lines of the processes, by name."""
    common = ["--data-dir", str(data_dir), "--poll-seconds", "0.2"]
    return {
        "serve": ["serve", *common, "--models", settings.data, "--address", address, "--metrics-address", ""],
        "retrain": [
            *("retrain", *common, "--model", settings.data, "--address", address),
            *("--schedule", json.dumps(list(schedule)), "--min-new-steps", str(never)),
        ],
    }


def wait_at(
    steps: Iterable[BanditStep],
    schedule: Sequence[int],
    connection: Connection,
    children: Children,
    settings: DemoBanditSettings,
) -> Iterator[BanditStep]:
    """Yield the steps; after as many as the schedule says, go on only when another deployment is in service."""
    for number, step in enumerate(steps, 1):
        yield step
        if number in schedule:
            await_deployment(step.deployment, connection, children, settings)


def await_deployment(deployment: int, connection: Connection, children: Children, settings: DemoBanditSettings) -> None:
    """Return when a later deployment is in service; DemoError if that takes too long."""
    deadline = time.monotonic() + settings.start_seconds
    while connection.get_spec(settings.data).deployment <= deployment:
        children.check()
        if time.monotonic() > deadline:
            raise DemoError(f"no new deployment for {settings.start_seconds:.0f} s; see {settings.data_dir}/*.log")
        time.sleep(poll_seconds)


def report(settings: DemoBanditSettings, steps: Sequence[BanditStep], console: Console) -> None:
    """Print the table; write the plot and the figures and say where they are."""
    title = f"{settings.data}: {len(steps)} decisions"
    plot = Path(settings.plot) if settings.plot else settings.data_dir / "regret.png"
    figures = settings.data_dir / "regret.csv"
    console.print(regret_table(title, steps))
    plot_regret(plot, title, steps)
    write_regret(figures, steps)
    for line in (f"plot: {plot}", f"figures: {figures}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
