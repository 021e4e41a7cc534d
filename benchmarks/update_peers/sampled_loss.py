"""HyperAgent's update written down straightforwardly: the sampled loss with K indices per transition, in eager torch.

What the papers' formulas say, term by term, with torch's own layers and optimiser, and with none of the trainer's
shortcuts: the last layer's weights are generated for each transition and index, the frozen prior's network runs
whenever the network does, and indices are drawn at every update.

Letters: B batch size, K indices of the loss, M index_dim, A num_actions, h feature_dim.
Source: arXiv:2402.10228 equations 1 to 4.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from benchmarks.update_peers.plain_torsos import plain_torso
from numpy.typing import NDArray
from torch import Tensor, nn

from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.n_step import NStepTransition


class SampledHypermodel(nn.Module):
    """Observations float32 [B, *shape] and indices [B, K, M] to values [B, K, A]."""

    def __init__(self, shape: tuple[int, ...], num_actions: int, index_dim: int, config: LearnerConfig) -> None:
        super().__init__()
        network = config.network
        self.num_actions = num_actions
        self.scales = (network.posterior_scale, network.prior_scale)
        self.torsos = nn.ModuleList(plain_torso(shape, network) for _ in self.scales)
        self.generators = nn.ModuleList(
            nn.Linear(index_dim, network.hidden_sizes[-1] * num_actions) for _ in self.scales
        )
        self.torsos[1].requires_grad_(False)
        self.generators[1].requires_grad_(False)

    def forward(self, observations: Tensor, indices: Tensor) -> Tensor:
        """Return the values."""
        parts = enumerate(self.scales)
        return torch.stack([scale * self._values(place, observations, indices) for place, scale in parts]).sum(0)

    def _values(self, place: int, observations: Tensor, indices: Tensor) -> Tensor:
        features = self.torsos[place](observations)
        weights = self.generators[place](indices).unflatten(-1, (-1, self.num_actions))
        return torch.einsum("bh,bkha->bka", features, weights)


class SampledLearner:
    """Learns from transitions that it holds as whole arrays."""

    def __init__(
        self,
        transitions: Sequence[NStepTransition],
        num_actions: int,
        index_dim: int,
        config: LearnerConfig,
    ) -> None:
        self._config = config
        self._index_dim = index_dim
        self._online = SampledHypermodel(transitions[0].observation.shape, num_actions, index_dim, config)
        self._target = copy.deepcopy(self._online)
        trainable = [parameter for parameter in self._online.parameters() if parameter.requires_grad]
        self._adam = torch.optim.Adam(trainable, config.learning_rate, eps=config.adam_epsilon)
        self._rng = np.random.default_rng(0)
        self._num_updates = 0
        self._observations = np.stack([transition.observation for transition in transitions])
        self._next_observations = np.stack([transition.next_observation for transition in transitions])
        self._actions = np.array([transition.action for transition in transitions])
        self._rewards = np.array([transition.reward for transition in transitions], np.float32)
        self._discounts = np.array([transition.discount for transition in transitions], np.float32)
        perturbations = self._rng.normal(size=(len(transitions), index_dim)).astype(np.float32)
        self._perturbations = perturbations / np.linalg.norm(perturbations, axis=1, keepdims=True)

    def update(self) -> None:
        """Take one step of Adam on the sampled loss."""
        config = self._config
        rows = self._rng.integers(len(self._rewards), size=config.batch_size)
        indices = torch.randn(config.batch_size, config.num_indices, self._index_dim)
        values = self._online(self._tensor(self._observations, rows).float(), indices)
        taken = self._tensor(self._actions, rows).reshape(-1, 1, 1).expand(-1, config.num_indices, 1)
        noise = (indices @ self._tensor(self._perturbations, rows).unsqueeze(-1)).squeeze(-1)
        targets = self._targets(rows).unsqueeze(-1) + config.perturbation_scale * noise
        loss = (values.gather(-1, taken).squeeze(-1) - targets).square().mean()
        self._adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._online.parameters(), config.max_gradient_norm)
        self._adam.step()
        self._num_updates += 1
        if self._num_updates % config.target_update_period == 0:
            self._target.load_state_dict(self._online.state_dict())

    @torch.no_grad()
    def _targets(self, rows: NDArray[np.int64]) -> Tensor:
        """Return Double DQN's targets under one fresh index per transition: float32 [B]."""
        observations = self._tensor(self._next_observations, rows).float()
        indices = torch.randn(len(rows), 1, self._index_dim)
        best = self._online(observations, indices).argmax(-1, keepdim=True)
        values: Tensor = self._target(observations, indices).gather(-1, best).flatten()
        return self._tensor(self._rewards, rows) + self._tensor(self._discounts, rows) * values

    def _tensor(self, array: NDArray[Any], rows: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array[rows])
