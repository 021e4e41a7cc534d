"""`hyperact play bandit`: labelled data as one-shot decisions by a service, their rewards reported late."""

import secrets
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hyperact.clients.bandit import BanditStep, play_bandit
from hyperact.clients.bandit_report import plot_regret, regret_table
from hyperact.clients.connection import Connection, default_address
from hyperact.clients.errors import ClientError
from hyperact.clients.games import Game, UnplayableError, check_model, make_environments
from hyperact.clients.labels import Labels, environment_id
from hyperact.clients.late_rewards import LateRewards
from hyperact.clients.retries import Retries
from hyperact.clients.sessions import Session
from hyperact.v1.channels import ConnectionSettings, channel_credentials
from hyperact.v1.steps import StepKey


class StreamSettings(BaseModel):
    """Which decisions are to be made, and how their rewards come."""

    data: Literal["digits", "breast_cancer", "wine", "iris"] = Field(
        "digits", description="The labelled data set, one that scikit-learn bundles."
    )
    decisions: int = Field(10_000, ge=1, description="How many decisions; the rows are passed again and again.")
    max_delay: int = Field(99, ge=1, description="A reward comes 1 to so many decisions after its own.")
    lost_share: float = Field(0.1, ge=0, lt=1, description="The share of rewards that never come.")
    seed: int = Field(0, ge=0, description="The seed of the rows' order and of the rewards' delays and losses.")


class PlayBanditSettings(ConnectionSettings, StreamSettings):
    """Plays labelled data as one-shot decisions by a service; rewards are reported late, and some never."""

    model_config = ConfigDict(extra="forbid")

    session: str = Field("", description="The agent's name; empty: a new one.")
    model: str = Field("", description="The registered model; empty: the service's default.")
    address: str = Field(default_address, description="The service's address, HOST:PORT.")
    plot: str = Field("hyperact-bandit.png", description="The plot's file; empty: none.")
    timeout_seconds: float = Field(5.0, gt=0, description="How long the service may take to be reached.")
    deadline_seconds: float = Field(30.0, gt=0, description="How long one step may take, all attempts together.")


def play(settings: PlayBanditSettings) -> int:
    """Play labelled data as one-shot decisions by a service, with progress, a table and a plot of the regret."""
    console = Console()
    try:
        model, steps = decide(settings, console)
    except (ClientError, UnplayableError) as error:
        sys.stderr.write(f"hyperact play bandit: {error}\n")
        return 1
    title = f"{settings.data} by model {model}"
    console.print(regret_table(title, steps))
    if settings.plot:
        plot_regret(Path(settings.plot), title, steps)
        console.print(f"plot: {settings.plot}", highlight=False)
    return 0


def decide(settings: PlayBanditSettings, console: Console) -> tuple[str, list[BanditStep]]:
    """Play and return the model's name and the steps; ClientError, UnplayableError."""
    credentials = channel_credentials(settings)
    with Connection(settings.address, timeout_seconds=settings.timeout_seconds, credentials=credentials) as connection:
        connection.wait_until_reachable()
        model = check_service(connection, settings.data, settings.model)
        name = settings.session or f"bandit-{secrets.token_hex(3)}"
        retries = Retries(deadline_seconds=settings.deadline_seconds)
        session = Session(connection, name, model=model, retries=retries)
        return model, list(follow(steps_of(settings, session), settings.decisions, console))


def check_service(connection: Connection, data: str, model: str) -> str:
    """Return the model's name if the service's model fits the data set; ClientError, UnplayableError."""
    flags = f'--env {environment_id} --env-kwargs \'{{"data": "{data}"}}\' --agent-kind one-shot'
    game = Game(f"hyperact.clients.labels:{environment_id}", {"data": data}, data, flags)
    environments = make_environments(game, 1)
    try:
        spec = connection.get_spec(model)
        check_model(game, environments, spec)
    finally:
        environments.close()
    if not spec.HasField("spec"):
        raise UnplayableError(f"the service has no version yet: `hyperact init {flags} --promote` makes one")
    return spec.model


def steps_of(settings: StreamSettings, session: Session) -> Iterator[BanditStep]:
    """Return the decisions that settings ask for."""
    late_rewards: LateRewards[StepKey] = LateRewards(settings.max_delay, settings.lost_share, settings.seed)
    return play_bandit(Labels(settings.data), session, late_rewards, settings.seed, settings.decisions)


def follow(steps: Iterable[BanditStep], num_decisions: int, console: Console) -> Iterator[BanditStep]:
    """Yield the steps with a progress bar."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("regret {task.fields[regret]:g}  deployment {task.fields[deployment]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    regret = 0.0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("decisions", total=num_decisions, regret=regret, deployment="-")
        for step in steps:
            regret += 1.0 - step.episode_return
            progress.update(task, advance=1, regret=regret, deployment=step.deployment)
            yield step
