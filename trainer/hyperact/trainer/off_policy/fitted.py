"""Fitted Q evaluation: what each component of a policy is worth, by regression on logged transitions.

    Q_k(s, a) = E[r + gamma V_k(s')],        V_k(s) = p U_k(s) + (1 - p) mean over k' of U_k'(s)
    U_k(s) = sum over a of pi_k(a | s) Q_k(s, a)

Letters: U situations (an observation and its mask), K components, A num_actions, E transitions, p persistence,
gamma discount.

Any end of an episode ends its return: what is estimated is the return as it is logged.

Sources: Le, Voloshin & Yue, arXiv:1903.08738.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hyperact.trainer.config import preset
from hyperact.trainer.networks import make_torso
from hyperact.trainer.observations import Observations
from hyperact.trainer.off_policy.components import Components
from hyperact.trainer.off_policy.trajectories import Float64s, Ints
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import ModelSpec

# Situations [n] to the values of every component and action there [n, K, A].
ActionValues = Callable[[Ints], Float64s]


class Transitions(NamedTuple):
    """What is learned from: [E] each; `next_situations` is -1 where the episode ended."""

    situations: Ints
    actions: Ints
    rewards: Float64s
    next_situations: Ints


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How much is spent on a network; a table needs none of it."""

    num_updates: int = 2000
    batch_size: int = 256
    learning_rate: float = 1e-3
    target_update_period: int = 50
    seed: int = 0


def fit_table(data: Transitions, components: Components, discount: float, max_length: int) -> ActionValues:
    """Return the values of the Markov chain that the transitions themselves make, exactly.

    For situations that come again and again. An action that was never tried in a situation is worth 0. No more sweeps
    than the longest episode's steps: nothing follows them.
    """
    num_situations, num_components, num_actions = components.shares.shape
    pairs = data.situations * num_actions + data.actions
    visits = np.maximum(np.bincount(pairs, minlength=num_situations * num_actions), 1.0)
    rewards = np.bincount(pairs, data.rewards, num_situations * num_actions) / visits
    links, counts = np.unique(np.stack([pairs, data.next_situations]), axis=1, return_counts=True)
    links, counts = links[:, links[1] >= 0], counts[links[1] >= 0]
    values = np.zeros((num_situations * num_actions, num_components))
    for _ in range(max_length):
        following = discount * _state_values(values, components)[links[1]] * (counts / visits[links[0]])[:, np.newaxis]
        improved = _sum_by(links[0], following, len(values)) + rewards[:, np.newaxis]
        change = np.abs(improved - values).max()
        values = improved
        if change < 1e-12:
            break
    table = values.reshape(num_situations, num_actions, num_components).swapaxes(1, 2)
    return lambda situations: table[situations]


def fit_network(
    data: Transitions,
    observations: Observations,
    components: Components,
    discount: float,
    spec: ModelSpec,
    config: FitConfig,
) -> ActionValues:
    """Return the values by a network over observations [U, *shape] with one head per component and action."""
    network = _Heads(spec, components.shares.shape[1], config.seed)
    target = _Heads(spec, components.shares.shape[1], config.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    rng = np.random.default_rng([config.seed, 1])
    for update in range(config.num_updates):
        if update % config.target_update_period == 0:
            target.load_state_dict(network.state_dict())
        rows = rng.integers(len(data.actions), size=config.batch_size)
        batch = Transitions(data.situations[rows], data.actions[rows], data.rewards[rows], data.next_situations[rows])
        loss = _loss(network, target, batch, observations, components, discount)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return lambda situations: network.values(observations[situations])


class _Heads(nn.Module):
    """A torso like the version's own, and a linear head: observations [B, *shape] to values [B, K, A]."""

    def __init__(self, spec: ModelSpec, num_components: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.torso = make_torso(spec, preset(spec).network, generator)
        self.shape = (num_components, spec.action.discrete.num_actions)
        self.head = nn.Linear(self.torso.feature_dim, num_components * self.shape[1])
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, observations: Tensor) -> Tensor:
        result: Tensor = self.head(self.torso(observations)).unflatten(1, self.shape)
        return result

    def values(self, observations: Observations) -> Float64s:
        """Return the values of any number of observations, in portions."""
        with torch.no_grad():
            parts = [
                self(torch.from_numpy(observations[start : start + 1024])).double().numpy()
                for start in range(0, len(observations), 1024)
            ]
        return np.concatenate(parts)


def _loss(
    network: _Heads,
    target: _Heads,
    batch: Transitions,
    observations: Observations,
    components: Components,
    discount: float,
) -> Tensor:
    with torch.no_grad():
        shares = torch.from_numpy(components.shares[batch.next_situations])
        own = (target(torch.from_numpy(observations[batch.next_situations])) * shares).sum(2)
        mixed = components.persistence * own + (1.0 - components.persistence) * own.mean(1, keepdim=True)
        goes_on = torch.from_numpy((batch.next_situations >= 0).astype(np.float32))
        wanted = torch.from_numpy(batch.rewards.astype(np.float32)) + discount * goes_on * mixed.T
    answered = network(torch.from_numpy(observations[batch.situations]))
    chosen = answered[torch.arange(len(batch.actions)), :, torch.from_numpy(batch.actions)]
    return nn.functional.mse_loss(chosen, wanted.T)


def _state_values(values: Float64s, components: Components) -> Float64s:
    """Return V [U, K] from Q [U A, K]."""
    shares: Float32s = components.shares
    table = values.reshape(shares.shape[0], shares.shape[2], shares.shape[1])
    own = np.einsum("uak,uka->uk", table, shares)
    mixed: Float64s = components.persistence * own + (1.0 - components.persistence) * own.mean(axis=1, keepdims=True)
    return mixed


def _sum_by(keys: Ints, values: Float64s, num: int) -> Float64s:
    """Sum rows [E, K] by sorted keys: [num, K]."""
    result = np.zeros((num, values.shape[1]))
    if len(keys):
        starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
        result[keys[starts]] = np.add.reduceat(values, starts, axis=0)
    return result
