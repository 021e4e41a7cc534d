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

import csv
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pydantic import ConfigDict, Field
from rich.console import Console

from hyperact.clients.children import ChildError, Children
from hyperact.clients.connection import Connection
from hyperact.clients.deep_sea import DeepSea
from hyperact.clients.demo_display import DemoDisplay
from hyperact.clients.episode_log import EpisodeLog
from hyperact.clients.episodes import track_episodes
from hyperact.clients.errors import BatchError, ClientError, UnavailableError
from hyperact.clients.plots import plot_returns
from hyperact.clients.results import DeploymentResult, by_deployment
from hyperact.clients.retries import Retries
from hyperact.clients.run_loop import Environments, at_most, play_steps
from hyperact.clients.sessions import VectorSession
from hyperact.v1.channels import ConnectionSettings, channel_credentials
from hyperact.v1.transitions import EpisodeSummary

num_evaluation_episodes = 100
return_tolerance = 1e-6
call_deadline_seconds = 90.0
poll_seconds = 0.1
# A trainer that made nothing of what it got may want more.
patience_seconds = 60.0
# All rows of one measurement in one message.
max_batch = 256


class DemoSettings(ConnectionSettings):
    """Shows the whole loop on DeepSea: act, log, retrain, promote, until it is solved."""

    model_config = ConfigDict(extra="forbid")

    data_dir: Path = Field(
        Path("hyperact-demo"), description="Where log, registry, results and the processes' logs are."
    )
    size: int = Field(10, ge=2, description="The length of the sea's side.")
    sessions: int = Field(16, ge=1, le=256, description="How many agents play side by side.")
    episodes_per_deployment: int = Field(20, ge=1, description="Training episodes before the next deployment.")
    max_deployments: int = Field(40, ge=1, description="Deployments after which to give up.")
    seed: int = Field(0, ge=0, description="The seed of the networks and of the sea.")
    plot: str = Field("", description="The plot's file; empty: returns.png in data_dir.")
    step_seconds: float = Field(0.0, ge=0, description="A pause after each step of all sessions, to watch it longer.")
    transcript: str = Field("", description="A file to write every acknowledged step's id to, one a line.")
    start_seconds: float = Field(120.0, gt=0, description="How long the service may take to start.")


class DemoError(Exception):
    """A demo that cannot go on, said in a line."""


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
) -> "DemoRun":
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


class DemoRun:
    """Plays and measures deployment after deployment; what it knows is read from the log."""

    def __init__(
        self,
        settings: DemoSettings,
        connection: Connection,
        children: Children,
        display: DemoDisplay,
        optimal_return: float,
        transcript: TextIO,
    ) -> None:
        self.log = EpisodeLog(connection, model_name(settings))
        self._settings = settings
        self._connection = connection
        self._children = children
        self._display = display
        self._optimal_return = optimal_return
        self._transcript = transcript
        self._training = make_seas(settings, settings.sessions)
        self._evaluation = make_seas(settings, num_evaluation_episodes)
        self._divers = self._sessions("diver", settings.sessions, evaluation=False)

    def run(self) -> bool:
        """Go on until a deployment solves the sea (True) or there were too many (False)."""
        while True:
            self._refresh()
            deployment = self._deployment()
            if deployment and self.log.count(deployment, is_evaluation=True) < num_evaluation_episodes:
                self._measure(deployment)
            if self._is_solved(deployment):
                return True
            if deployment >= self._settings.max_deployments:
                return False
            self._train(deployment)
            self._await_deployment(deployment)

    def _train(self, deployment: int) -> None:
        """Play until the deployment has its training episodes, or another one is in service."""
        num_done = self.log.count(deployment)
        wanted = self._settings.episodes_per_deployment
        what = f"playing training episodes of deployment {deployment}" if deployment else "playing at random"
        self._play(self._training, self._divers, max(wanted - num_done, 0), what, deployment)

    def _measure(self, deployment: int) -> None:
        """Play evaluation episodes, each of a session of its own, so that each has a fresh index."""
        judges = self._sessions("evaluation", num_evaluation_episodes, evaluation=True)
        self._play(self._evaluation, judges, num_evaluation_episodes, f"measuring deployment {deployment}", None)
        self._display.finish(deployment)

    def _play(
        self, seas: Environments, sessions: VectorSession, num_episodes: int, what: str, only_deployment: int | None
    ) -> None:
        """Play so many episodes to their ends and report them.

        Args:
            only_deployment: begin no episode more once another deployment decides; None: whichever decides.
        """
        allowance = at_most(num_episodes)
        is_current = True
        steps = play_steps(seas, sessions, may_begin=lambda row: is_current and allowance(row))
        num_ended = 0
        for step, episode in track_episodes(steps):
            is_current = only_deployment is None or step.decision.deployment <= only_deployment
            num_ended += episode is not None
            self._transcript.write(f"{step.decision.step_id}\n")
            self._display.now(f"{what}: {num_ended} of {num_episodes} episodes")
            if self._settings.step_seconds:
                time.sleep(self._settings.step_seconds / len(sessions.memories))
        sessions.close_episodes()
        self._transcript.flush()
        self._refresh()

    def _await_deployment(self, deployment: int) -> None:
        """Return when another deployment is in service, or when the trainer seems to want more episodes."""
        begin = time.monotonic()
        while self._deployment() == deployment:
            waited_seconds = time.monotonic() - begin
            if waited_seconds > patience_seconds:
                self._display.say(
                    f"no new deployment for {patience_seconds:.0f} s; playing on with deployment {deployment}"
                )
                self._play(
                    self._training, self._divers, self._settings.episodes_per_deployment, "playing on", deployment
                )
                return
            self._display.now(f"the trainer learns and deploys ({waited_seconds:.0f} s)")
            self._children.check()
            time.sleep(poll_seconds)

    def _deployment(self) -> int:
        """Return the number of the deployment in service; 0 if there is none."""
        (status,) = self._connection.get_status(model_name(self._settings)).models
        return status.deployment.number if status.HasField("spec") else 0

    def _is_solved(self, deployment: int) -> bool:
        results = by_deployment(self.log.episodes)
        current = [result for result in results if result.deployment == deployment]
        return bool(current) and current[0].is_solved(self._optimal_return, num_evaluation_episodes, return_tolerance)

    def _refresh(self) -> None:
        self.log.refresh()
        self._display.show(by_deployment(self.log.episodes))
        self._display.count_log(self._connection.get_range(model_name(self._settings)).num_steps)

    def _sessions(self, prefix: str, number: int, *, evaluation: bool) -> VectorSession:
        return VectorSession(
            self._connection,
            [f"{prefix}-{row:02d}" for row in range(number)],
            model=model_name(self._settings),
            evaluation=evaluation,
            max_batch=max_batch,
            retries=Retries(deadline_seconds=call_deadline_seconds),
        )


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


def model_name(settings: DemoSettings) -> str:
    """Return the registered model's name."""
    return f"deepsea-{settings.size}"


def make_sea(settings: DemoSettings) -> DeepSea:
    """Return the environment of the demo."""
    return DeepSea(settings.size, mapping_seed=settings.seed)


def make_seas(settings: DemoSettings, number: int) -> Environments:
    """Return so many of the same sea, played side by side."""
    return SyncVectorEnv([lambda: make_sea(settings)] * number, autoreset_mode=AutoresetMode.SAME_STEP)


def open_transcript(file: str) -> TextIO:
    """Return where the acknowledged steps' ids go: a file that is appended to, or nowhere."""
    return Path(file or os.devnull).open("a")


def free_address() -> str:
    """Return a loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until_ready(connection: Connection, children: Children, timeout_seconds: float) -> None:
    """Return once the service is ready; DemoError or ChildError if it will not be."""
    deadline = time.monotonic() + timeout_seconds
    problem = "it does not answer"
    while time.monotonic() < deadline:
        children.check()
        try:
            connection.wait_until_reachable(0.5)
            status = connection.get_status()
        except UnavailableError:
            continue
        if status.is_ready:
            return
        problem = status.problem
        time.sleep(poll_seconds)
    raise DemoError(f"the service is not ready after {timeout_seconds:.0f} s: {problem}")


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


def end_on_signal(number: int, _frame: object) -> NoReturn:
    """End as a process that a signal ended says that it did."""
    raise SystemExit(128 + number)
