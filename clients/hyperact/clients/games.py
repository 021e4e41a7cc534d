"""Environments by the names that `hyperact play` takes, and whether a service's model fits them."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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


def resolve_name(name: str, *, size: int, mapping_seed: int, game: str, training: bool) -> tuple[str, dict[str, Any]]:
    """Return Gymnasium's id and the arguments for "deepsea", "atari", "ALE/<Game>-v5" or an id."""
    if name == "deepsea":
        return deep_sea_id, {"size": size, "mapping_seed": mapping_seed}
    if name == "atari":
        return f"{atari_module}:hyperact/{game}-v5", {"training": training}
    if name.startswith("ALE/"):
        return f"{atari_module}:hyperact/{name.removeprefix('ALE/')}", {"training": training}
    return name, {}


def make_environments(
    name: str, arguments: Mapping[str, Any], num_environments: int, record: Path | None = None
) -> SyncVectorEnv:
    """Return so many environments as one, after checking that sessions can play them.

    Args:
        record: a folder for videos of the first one's episodes; None for none.

    Raises:
        UnplayableError: there is no such environment, or its spaces are not Box observations and Discrete actions.
    """
    makers = [partial(make_environment, name, arguments) for _ in range(num_environments)]
    if record is not None:
        makers[0] = partial(make_recorded, name, arguments, record)
    environments = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        check_spaces(name, environments.single_observation_space, environments.single_action_space)
    except UnplayableError:
        environments.close()
        raise
    return environments


def make_environment(name: str, arguments: Mapping[str, Any]) -> Environment:
    """Return one environment; UnplayableError."""
    try:
        return gymnasium.make(name, **arguments)
    except (gymnasium.error.Error, ModuleNotFoundError, TypeError, ValueError) as error:
        raise UnplayableError(f"environment {name} cannot be made: {error}") from error


def make_recorded(name: str, arguments: Mapping[str, Any], folder: Path) -> Environment:
    """Return one environment whose every episode is written as a video; UnplayableError if it shows no pictures."""
    environment = make_environment(name, {**arguments, "render_mode": "rgb_array"})
    if "rgb_array" not in environment.metadata.get("render_modes", ()):
        environment.close()
        raise UnplayableError(f"environment {name} cannot be recorded: it has no render mode rgb_array")
    return gymnasium.wrappers.RecordVideo(
        environment, str(folder), episode_trigger=lambda episode: episode >= 0, disable_logger=True
    )


def check_spaces(name: str, observation: Any, action: Any) -> None:
    """Raise UnplayableError unless observations are a Box and actions Discrete from 0."""
    if not isinstance(observation, spaces.Box):
        raise UnplayableError(f"environment {name}: expected Box observations, it has {observation}")
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise UnplayableError(f"environment {name}: expected Discrete actions from 0, it has {action}")
    try:
        data_type(observation.dtype or np.dtype(np.float32))
    except FieldError as error:
        raise UnplayableError(f"environment {name}: its observations cannot be sent: {error}") from error


def check_model(name: str, environments: SyncVectorEnv, answer: GetSpecResponse) -> None:
    """Raise UnplayableError unless the service's model takes these observations and returns these actions."""
    observation, action = environments.single_observation_space, environments.single_action_space
    num_actions = int(action.n)  # type: ignore[attr-defined] # checked to be Discrete
    if not answer.HasField("spec"):
        if answer.fallback_num_actions != num_actions:
            raise UnplayableError(_without_version(name, num_actions, answer))
        return
    spec = answer.spec
    expected = f"{numpy_dtype(spec.observation.dtype).name} {list(spec.observation.shape)}"
    found = f"{observation.dtype} {list(observation.shape or ())}"
    if expected != found:
        raise UnplayableError(f"the service's model {answer.model!r} observes {expected}, and {name} shows {found}")
    if spec.action.discrete.num_actions != num_actions:
        raise UnplayableError(
            f"the service's model {answer.model!r} has {spec.action.discrete.num_actions} actions, "
            f"and {name} has {num_actions}"
        )


def _without_version(name: str, num_actions: int, answer: GetSpecResponse) -> str:
    fallback = answer.fallback_num_actions
    reason = (
        f"its fallback acts among {fallback} actions, {name} has {num_actions}" if fallback else "it has no fallback"
    )
    return (
        f"the service has no version of model {answer.model!r} yet and {reason}; make one by "
        f"`hyperact init --env {name} --model {answer.model} --promote`, "
        f"or start `hyperact serve --fallback-num-actions {num_actions}`"
    )
