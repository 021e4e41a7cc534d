"""Environments by the names that `hyperact play` takes, and whether a service's model fits them."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hyperact.v1.decision_pb2 import GetSpecResponse
from hyperact.v1.errors import FieldError
from hyperact.v1.tensors import data_type, numpy_dtype

Environment = gymnasium.Env[Any, Any]
deep_sea_id = "hyperact.clients.deep_sea:hyperact/DeepSea-v0"
atari_module = "hyperact.clients.atari"


class UnplayableError(ValueError):
    """An environment that cannot be made or played, or that a model does not fit."""


class Game(NamedTuple):
    """An environment to play.

    Attributes:
        name: Gymnasium's id, with the module that registers it.
        arguments: for `gymnasium.make`.
        label: for people.
        init_flags: what `hyperact init` takes to make a model for it.
    """

    name: str
    arguments: dict[str, Any]
    label: str
    init_flags: str


def resolve_game(
    name: str, arguments: Mapping[str, Any], *, size: int, mapping_seed: int, game: str, training: bool
) -> Game:
    """Return the environment that "deepsea", "atari", "ALE/<Game>-v5" or an id of Gymnasium's stands for."""
    if name == "deepsea":
        sea = {"size": size, "mapping_seed": mapping_seed, **arguments}
        flags = f"--env hyperact/DeepSea-v0 --env-kwargs '{json.dumps(sea)}'"
        return Game(deep_sea_id, sea, f"DeepSea-{sea['size']}", flags)
    if name == "atari":
        name = f"ALE/{game}-v5"
    if name.startswith("ALE/"):
        full_name = f"{atari_module}:hyperact/{name.removeprefix('ALE/')}"
        return Game(full_name, {"training": training, **arguments}, name, f"--env {name}")
    return Game(name, dict(arguments), name, f"--env {name}")


def make_environments(game: Game, num_environments: int, record: Path | None = None) -> SyncVectorEnv:
    """Return so many environments as one, after checking that sessions can play them.

    Args:
        record: where videos of the first one's episodes go, folder and name, to which the episode's number is added;
            None for none.

    Raises:
        UnplayableError: there is no such environment, or its spaces are not Box observations and Discrete actions.
    """
    makers = [partial(make_environment, game) for _ in range(num_environments)]
    if record is not None:
        makers[0] = partial(make_recorded, game, record)
    environments = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        check_spaces(game.label, environments.single_observation_space, environments.single_action_space)
    except UnplayableError:
        environments.close()
        raise
    return environments


def make_environment(game: Game, render_mode: str | None = None) -> Environment:
    """Return one environment; UnplayableError."""
    arguments = {**game.arguments, "render_mode": render_mode} if render_mode else game.arguments
    try:
        return gymnasium.make(game.name, **arguments)
    except (gymnasium.error.Error, ModuleNotFoundError, TypeError, ValueError) as error:
        raise UnplayableError(f"environment {game.label} cannot be made: {error}") from error


def make_recorded(game: Game, record: Path) -> Environment:
    """Return one environment whose every episode is written as a video; UnplayableError if it shows no pictures."""
    environment = make_environment(game, "rgb_array")
    if "rgb_array" not in environment.metadata.get("render_modes", ()):
        environment.close()
        raise UnplayableError(f"environment {game.label} cannot be recorded: it has no render mode rgb_array")
    try:
        environment.reset()
        environment.render()
    except gymnasium.error.DependencyNotInstalled as error:
        environment.close()
        raise UnplayableError(f"environment {game.label} cannot be recorded: {error}") from error
    return gymnasium.wrappers.RecordVideo(
        environment,
        str(record.parent),
        name_prefix=record.name,
        episode_trigger=lambda episode: episode >= 0,
        disable_logger=True,
    )


def video_file(record: Path, episode: int) -> Path:
    """Return where the video of an episode, numbered from 0, is written."""
    return record.with_name(f"{record.name}-episode-{episode}.mp4")


def check_spaces(label: str, observation: Any, action: Any) -> None:
    """Raise UnplayableError unless observations are a Box and actions Discrete from 0."""
    if not isinstance(observation, spaces.Box):
        raise UnplayableError(f"environment {label}: expected Box observations, it has {observation}")
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise UnplayableError(f"environment {label}: expected Discrete actions from 0, it has {action}")
    try:
        data_type(observation.dtype or np.dtype(np.float32))
    except FieldError as error:
        raise UnplayableError(f"environment {label}: its observations cannot be sent: {error}") from error


def check_model(game: Game, environments: SyncVectorEnv, answer: GetSpecResponse) -> None:
    """Raise UnplayableError unless the service's model takes these observations and returns these actions."""
    observation, action = environments.single_observation_space, environments.single_action_space
    num_actions = int(action.n)  # type: ignore[attr-defined] # checked to be Discrete
    if not answer.HasField("spec"):
        if answer.fallback_num_actions != num_actions:
            raise UnplayableError(_without_version(game, num_actions, answer))
        return
    spec = answer.spec
    expected = f"{numpy_dtype(spec.observation.dtype).name} {list(spec.observation.shape)}"
    found = f"{observation.dtype} {list(observation.shape or ())}"
    if expected != found:
        raise UnplayableError(
            f"the service's model {answer.model!r} observes {expected}, and {game.label} shows {found}"
        )
    if spec.action.discrete.num_actions != num_actions:
        raise UnplayableError(
            f"the service's model {answer.model!r} has {spec.action.discrete.num_actions} actions, "
            f"and {game.label} has {num_actions}"
        )


def _without_version(game: Game, num_actions: int, answer: GetSpecResponse) -> str:
    fallback = answer.fallback_num_actions
    reason = (
        f"its fallback acts among {fallback} actions, {game.label} has {num_actions}"
        if fallback
        else "it has no fallback"
    )
    return (
        f"the service has no version of model {answer.model!r} yet and {reason}; make one by "
        f"`hyperact init {game.init_flags} --model {answer.model} --promote`, "
        f"or start `hyperact serve --fallback-num-actions {num_actions}`"
    )
