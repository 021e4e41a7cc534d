"""`hyperact play`: agents in an environment, acting by a service."""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from pydantic_settings import CliPositionalArg
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hyperact.clients.connection import Connection, default_address
from hyperact.clients.errors import BatchError, ClientError
from hyperact.clients.results import DeploymentResult, by_deployment
from hyperact.clients.retries import Retries
from hyperact.clients.sessions import VectorSession
from hyperact.v1.channels import ConnectionSettings, channel_credentials


class PlaySettings(ConnectionSettings):
    """Plays an environment's episodes by a service: every step is a decision of its model."""

    model_config = ConfigDict(extra="forbid")

    environment: CliPositionalArg[str] = Field(
        "deepsea", description='"deepsea", "atari", or a Gymnasium id ("module:id" if a module registers it).'
    )
    episodes: int = Field(10, ge=1, description="How many episodes to play, all sessions together.")
    sessions: int = Field(1, ge=1, le=1024, description="How many agents play side by side.")
    session: str = Field("", description="The agents' name, to which their number is added; empty: a new one.")
    model: str = Field("", description="The registered model; empty: the service's default.")
    address: str = Field(
        default_address, description="The service's address, HOST:PORT; of several replicas, HOST:PORT,HOST:PORT."
    )
    evaluation: bool = Field(False, description="Whether the steps are only for measuring and never learned from.")
    seed: int = Field(0, description="The seed of the environments.")
    size: int = Field(10, ge=2, description="deepsea: the length of the sea's side.")
    mapping_seed: int = Field(42, description="deepsea: which sea it is.")
    game: str = Field("Freeway", description="atari: the game.")
    env_kwargs: dict[str, Any] = Field({}, description="More arguments for the environment, as JSON.")
    record: Path | None = Field(None, description="A folder for videos of the first agent's episodes.")
    plot: str = Field("hyperact-play.png", description="The plot's file; empty: none.")
    timeout_seconds: float = Field(5.0, gt=0, description="How long the service may take to be reached.")
    deadline_seconds: float = Field(30.0, gt=0, description="How long one step may take, all attempts together.")


def play(settings: PlaySettings) -> int:
    """Play an environment's episodes by a service, with progress, a table and a plot."""
    from hyperact.clients.games import UnplayableError

    try:
        return play_episodes(settings, Console())
    except (ClientError, BatchError, UnplayableError) as error:
        sys.stderr.write(f"hyperact play: {error}\n")
        return 1


def play_episodes(settings: PlaySettings, console: Console) -> int:
    """Play and show; ClientError, BatchError or UnplayableError if it cannot be done."""
    from hyperact.clients.games import check_model, make_environments, resolve_game

    game = resolve_game(
        settings.environment,
        settings.env_kwargs,
        size=settings.size,
        mapping_seed=settings.mapping_seed,
        game=settings.game,
        training=not settings.evaluation,
    )
    prefix = settings.session or f"play-{secrets.token_hex(3)}"
    record = settings.record / prefix if settings.record else None
    credentials = channel_credentials(settings)
    with Connection(settings.address, timeout_seconds=settings.timeout_seconds, credentials=credentials) as connection:
        connection.wait_until_reachable()
        num_rows = min(settings.sessions, settings.episodes)
        environments = make_environments(game, num_rows, record)
        try:
            spec = connection.get_spec(settings.model)
            check_model(game, environments, spec)
            with VectorSession(
                connection,
                [f"{prefix}-{row}" for row in range(num_rows)],
                model=spec.model,
                evaluation=settings.evaluation,
                max_batch=spec.max_batch or num_rows,
                retries=Retries(deadline_seconds=settings.deadline_seconds),
            ) as sessions:
                episodes = list(follow(settings, environments, sessions, console))
        finally:
            environments.close()
    show(settings, f"{game.label} by model {spec.model}", episodes, console)
    if record is not None:
        remove_unplayed(record, sum(episode.row == 0 for episode in episodes))
        console.print(f"videos: {record}-episode-*.mp4", highlight=False)
    return 0


def follow(settings: PlaySettings, environments: Any, sessions: VectorSession, console: Console) -> Iterator[Any]:
    """Play with a progress bar and yield the episodes as they end."""
    from hyperact.clients.episodes import track_episodes
    from hyperact.clients.run_loop import at_most, play_steps

    steps = play_steps(environments, sessions, seed=settings.seed, may_begin=at_most(settings.episodes))
    with make_progress(console) as progress:
        task = progress.add_task("episodes", total=settings.episodes, steps=0, last="")
        for number, (_, episode) in enumerate(track_episodes(steps, is_evaluation=settings.evaluation), start=1):
            progress.update(task, steps=number)
            if episode is not None:
                progress.update(task, advance=1, last=f"return {episode.episode_return:g}")
                yield episode


def make_progress(console: Console) -> Progress:
    """Return the bar: episodes, steps, the last return, time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[steps]} steps"),
        TextColumn("{task.fields[last]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def remove_unplayed(record: Path, num_episodes: int) -> None:
    """Remove videos of what came after the last episode: vector environments go on by themselves."""
    from hyperact.clients.games import video_file

    episode = num_episodes
    while video_file(record, episode).exists():
        video_file(record, episode).unlink()
        episode += 1


def show(settings: PlaySettings, title: str, episodes: list[Any], console: Console) -> None:
    """Print the table; write the plot and say where it is."""
    from hyperact.clients.plots import plot_returns

    console.print(returns_table(title, by_deployment(episodes), settings.evaluation))
    if settings.plot:
        plot_returns(Path(settings.plot), title, episodes)
        console.print(f"plot: {settings.plot}", highlight=False)


def returns_table(title: str, results: list[DeploymentResult], evaluation: bool) -> Table:
    """Return the table of returns per deployment."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for heading in ("deployment", "version", "episodes", "mean return", "best return", "steps"):
        table.add_column(heading, justify="right")
    steps_before = 0
    for result in results:
        mean, best = result.mean_return, result.best_return
        number = result.num_episodes
        if evaluation and result.evaluation_returns:
            mean, best, number = result.evaluation_return, max(result.evaluation_returns), result.num_evaluations
        who = (str(result.deployment), result.version) if result.deployment else ("none", "uniform")
        steps = result.total_steps - steps_before
        table.add_row(*who, str(number), _number(mean), _number(best), str(steps))
        steps_before = result.total_steps
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
