"""Small learners, transitions and trainers for the trainer's tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.learner import Learner
from hyperact.trainer.n_step import NStepTransition
from hyperact.trainer.replay import Replay
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.steps import StepKey
from hyperact.v1.transitions import Transition
from toys import toy_spec

atari_shape = (4, 84, 84)
small = LearnerConfig(network=NetworkConfig(hidden_sizes=(8,)), batch_size=16, replay_capacity=1000)

_retrain = """
import json, sys
from hyperact.trainer.commands import retrain
from hyperact.trainer.settings import RetrainSettings
sys.exit(retrain(RetrainSettings.model_validate(json.loads(sys.argv[1]))))
"""


def atari_spec(num_actions: int = 6) -> ModelSpec:
    """Return the spec of an Atari game."""
    return toy_spec(num_actions=num_actions, observation_shape=atari_shape, observation_dtype=np.uint8)


def key(episode: int = 0, number: int = 0, session: str = "agent") -> StepKey:
    """Return the name of a step."""
    return StepKey("default", session, "run", episode, number)


def transition(
    number: int,
    reward: float = 0.0,
    *,
    terminated: bool = False,
    truncated: bool = False,
    episode: int = 0,
    session: str = "agent",
    mask: bytes = b"",
) -> Transition:
    """Return one step's transition; its observation holds three times 100 * episode + number."""
    here = np.full(3, 100 * episode + number, np.float32)
    return Transition(
        key=key(episode, number, session),
        observation=here,
        action=number % 2,
        reward=reward,
        next_observation=here + 1,
        terminated=terminated,
        truncated=truncated,
        propensity=1.0,
        version="",
        deployment=0,
        action_mask=b"",
        next_action_mask=mask,
    )


def n_step_transition(number: int, episode: int = 0, discount: float = 0.9, mask: bytes = b"") -> NStepTransition:
    """Return a transition to learn from, within a long episode."""
    step = transition(number, reward=0.1 * number, episode=episode)
    return NStepTransition(
        key=step.key,
        observation=step.observation,
        action=step.action,
        reward=step.reward,
        discount=discount,
        next_observation=step.next_observation,
        next_number=number + 1 if discount else number,
        next_action_mask=mask,
    )


def learner_with_replay(config: LearnerConfig = small, seed: int = 0, **spec: Any) -> tuple[Learner, Replay]:
    """Return a learner of three-number observations, and a replay buffer that holds a hundred transitions."""
    learner = Learner(toy_spec(**spec), config, seed)
    replay = learner.make_replay()
    replay.add([n_step_transition(number % 20, episode=number // 20) for number in range(100)])
    return learner, replay


def start_retrain(address: str, data_dir: Path, **settings: Any) -> subprocess.Popen[bytes]:
    """Start a trainer in a process of its own."""
    values = {"address": address, "data_dir": str(data_dir), "poll_seconds": 0.05} | settings
    return subprocess.Popen([sys.executable, "-c", _retrain, json.dumps(values)], stderr=subprocess.DEVNULL)
