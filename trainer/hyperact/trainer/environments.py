"""Gymnasium environments by name, and the spec of the model that would play one."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from hyperact.v1.indices import GAUSSIAN, UNIT_SPHERE
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule, ModelSpec
from hyperact.v1.tensors import make_spec

Environment = gymnasium.Env[Any, Any]

# ALGORITHM 3.4: M = 4 and discount 0.99 everywhere.
default_index_dim = 4
default_discount = 0.99

_modules = {
    "ALE/": "hyperact.clients.atari:hyperact/",
    "hyperact/DeepSea-": "hyperact.clients.deep_sea:hyperact/DeepSea-",
    "hyperact/Labels-": "hyperact.clients.labels:hyperact/Labels-",
}


def environment_name(name: str) -> str:
    """Return the name in the form that imports what registers it.

    "ALE/Freeway-v5" becomes the papers' preprocessing of that game, "hyperact.clients.atari:hyperact/Freeway-v5".
    """
    for prefix, replacement in _modules.items():
        if name.startswith(prefix):
            return replacement + name.removeprefix(prefix)
    return name


def make_environment(name: str, keywords: Mapping[str, Any] | None = None) -> Environment:
    """Make an environment; ValueError if there is none of that name or it cannot be learned from.

    Name: Gymnasium's id, or "module:id" if a module must be imported first.
    """
    try:
        environment = gymnasium.make(environment_name(name), **dict(keywords or {}))
    except ModuleNotFoundError as error:
        advice = ": pip install 'hyperact[clients]'" if environment_name(name).startswith("hyperact.clients.") else ""
        raise ValueError(f"environment {name!r} cannot be made: {error}{advice}") from error
    except (gymnasium.error.Error, TypeError) as error:
        raise ValueError(f"environment {name!r} cannot be made: {error}") from error
    observation, action = environment.observation_space, environment.action_space
    if not isinstance(observation, spaces.Box):
        raise ValueError(f"environment {name!r}: expected Box observations, got {observation}")  # noqa: TRY004 -- a bad name
    if not isinstance(action, spaces.Discrete) or action.start != 0:
        raise ValueError(f"environment {name!r}: expected Discrete actions that start at 0, got {action}")
    return environment


def spec_of(
    environment: Environment,
    agent_kind: "AgentKind.ValueType" = AgentKind.AGENT_KIND_EPISODIC,
    discount: float = default_discount,
    index_dim: int = default_index_dim,
) -> ModelSpec:
    """Return the spec of a model that plays an environment.

    Indices are Gaussian, as in the papers' DeepSea; on the unit sphere for the shape of Atari's stacks, as in the
    released code.
    """
    observation, action = environment.observation_space, environment.action_space
    if not isinstance(observation, spaces.Box) or not isinstance(action, spaces.Discrete):
        raise TypeError(f"expected Box observations and Discrete actions, got {observation} and {action}")
    is_continuing = agent_kind == AgentKind.AGENT_KIND_CONTINUING
    spec = ModelSpec(
        observation=make_spec(observation.dtype or np.dtype(np.float32), observation.shape),
        agent_kind=agent_kind,
        index_schedule=(
            IndexSchedule.INDEX_SCHEDULE_GEOMETRIC if is_continuing else IndexSchedule.INDEX_SCHEDULE_EPISODE
        ),
        reference_distribution=UNIT_SPHERE if observation.shape == (4, 84, 84) else GAUSSIAN,
        index_dim=index_dim,
        discount=discount,
    )
    spec.action.discrete.num_actions = int(action.n)
    low, high = float(observation.low.min()), float(observation.high.max())
    is_uniform = (observation.low == low).all() and (observation.high == high).all()
    if is_uniform and np.isfinite(low) and np.isfinite(high):
        spec.observation.minimum, spec.observation.maximum = low, high
    return spec


def optimal_return(environment: Environment) -> float | None:
    """Return the mean return of the best policy if the environment declares it (as DeepSea does)."""
    value = getattr(environment.unwrapped, "optimal_return", None)
    return None if value is None else float(value)
