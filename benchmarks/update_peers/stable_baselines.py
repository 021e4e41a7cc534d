"""Stable-Baselines3's DQN on the networks, batches and target periods of the cases.

Its update is DQN's: the maximum over the target network and Huber's loss, no index, no prior, one reward. So it has
less to do than Double DQN and HyperAgent. Its network is `plain_torso` and one linear layer.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from benchmarks.update_peers.plain_torsos import plain_torso
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.n_step import NStepTransition

Environment = gymnasium.Env[Any, Any]


class PlainFeatures(BaseFeaturesExtractor):
    """The plain torso, as the library wants it."""

    def __init__(self, observation_space: spaces.Box, network: NetworkConfig) -> None:
        super().__init__(observation_space, network.hidden_sizes[-1])
        self._torso = plain_torso(observation_space.shape, network)

    def forward(self, observations: Tensor) -> Tensor:
        """Return the features."""
        features: Tensor = self._torso(observations)
        return features


class Nowhere(gymnasium.Env[Any, Any]):
    """An environment that has spaces and is never played."""

    def __init__(self, shape: tuple[int, ...], num_actions: int) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(num_actions)


def make_dqn(environment: Environment, config: LearnerConfig) -> DQN:
    """Return the library's DQN with the settings of ours."""
    dqn = DQN(
        "MlpPolicy",
        environment,
        learning_rate=config.learning_rate,
        buffer_size=config.replay_capacity,
        learning_starts=config.min_replay_size,
        batch_size=config.batch_size,
        train_freq=1,
        gradient_steps=1,
        target_update_interval=config.target_update_period,
        policy_kwargs={
            "features_extractor_class": PlainFeatures,
            "features_extractor_kwargs": {"network": config.network},
            "net_arch": [],
            "normalize_images": False,
            "optimizer_kwargs": {"eps": config.adam_epsilon},
        },
        device="cpu",
        seed=0,
    )
    dqn.set_logger(Logger(None, []))
    return dqn


class StableBaselinesLearner:
    """The library's DQN over a buffer that is full already."""

    def __init__(self, transitions: Sequence[NStepTransition], num_actions: int, config: LearnerConfig) -> None:
        self._dqn = make_dqn(Nowhere(transitions[0].observation.shape, num_actions), config)
        self._period = config.target_update_period
        self._num_updates = 0
        assert self._dqn.replay_buffer is not None
        for transition in transitions:
            self._dqn.replay_buffer.add(
                transition.observation[np.newaxis],
                transition.next_observation[np.newaxis],
                np.array([transition.action]),
                np.array([transition.reward]),
                np.array([False]),
                [{}],
            )

    def update(self) -> None:
        """Take one gradient step, and now and then copy the target network."""
        self._dqn.train(gradient_steps=1, batch_size=self._dqn.batch_size)
        self._num_updates += 1
        if self._num_updates % self._period == 0:
            with torch.no_grad():
                pairs = zip(self._dqn.q_net_target.parameters(), self._dqn.q_net.parameters(), strict=True)
                for target, online in pairs:
                    target.copy_(online)


def play_steps(dqn: DQN, num_steps: int) -> None:
    """Play some steps with an update each."""
    dqn.learn(num_steps, reset_num_timesteps=False, log_interval=1_000_000)
