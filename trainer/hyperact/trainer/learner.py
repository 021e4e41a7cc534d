"""The learner: one update at a time, and its whole state as arrays.

The rules:

1. One update draws a batch, forms Double-DQN targets under a fresh index per transition that nothing else uses, and
   takes one Adam step on the loss averaged over all indices exactly.
2. The target network is copied from the online one before the first update and after every `target_update_period`.
3. The prior is never updated; its outputs come with the batch.
4. `get_state` and `set_state` round-trip bit for bit: the same replay then gives the same updates.

Letters: B batch size, A num_actions, M index_dim.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.losses import double_q_target, expected_td_loss
from hyperact.trainer.reference_distributions import draw_indices, moments
from hyperact.trainer.replay import Batch, Observations, Replay
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import ModelSpec

State = dict[str, NDArray[Any]]


class UpdateStatistics(NamedTuple):
    """What one update saw, as means over its batch; tensors, so that nobody waits for numbers that nobody reads."""

    loss: Tensor
    mean_value: Tensor
    loading_norm: Tensor
    gradient_norm: Tensor


class Learner:
    """Learns a hypermodel from a replay buffer."""

    def __init__(self, spec: ModelSpec, config: LearnerConfig, seed: int) -> None:
        self.spec = spec
        self.config = config
        self.num_learner_steps = 0
        self.hypermodel = Hypermodel(spec, config.network, seed)
        self._target = copy.deepcopy(self.hypermodel.learnable).requires_grad_(False)
        self._parameters = list(self.hypermodel.learnable.parameters())
        self._optimizer = torch.optim.Adam(
            self._parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True
        )
        replay_seed, index_seed = np.random.SeedSequence(seed).spawn(2)
        self._replay_rng = np.random.default_rng(replay_seed)
        self._index_rng = np.random.default_rng(index_seed)
        self._moments = moments(spec.index_dim, spec.reference_distribution)

    def make_replay(self) -> Replay:
        """Return an empty replay buffer that knows this learner's prior."""
        return Replay(self.spec, self.config.replay_capacity, self.prior_coefficients)

    def update(self, replay: Replay) -> UpdateStatistics:
        """Take one learner step on a batch from the replay buffer."""
        batch = replay.sample(self._replay_rng, self.config.batch_size)
        target_t = self._target_values(batch)
        online_tm1 = self._learnable_tm1(batch) + torch.from_numpy(batch.prior_tm1)
        losses = expected_td_loss(
            online_tm1[:, 0],
            online_tm1[:, 1:],
            target_t,
            torch.from_numpy(batch.perturbations_tm1),
            self.config.perturbation_scale,
            self._moments,
        )
        loss = losses.mean()
        gradient_norm = self._descend(loss)
        self.num_learner_steps += 1
        if self.num_learner_steps % self.config.target_update_period == 0:
            self._update_target()
        detached = online_tm1.detach()
        return UpdateStatistics(
            loss.detach(), detached[:, 0].mean(), detached[:, 1:].norm(dim=1).mean(), gradient_norm.detach()
        )

    @torch.no_grad()
    def coefficients(self, observations: Observations) -> Float32s:
        """Return the coefficients of observations [N, *shape]: float32 [N, A, M + 1]."""
        values: Float32s = self.hypermodel(torch.from_numpy(observations)).numpy()
        return values

    @torch.no_grad()
    def prior_coefficients(self, observations: Observations) -> Float32s:
        """Return the prior's part of the coefficients of observations [N, *shape]: float32 [N, A, M + 1]."""
        values: Float32s = self.hypermodel.prior(torch.from_numpy(observations)).numpy()
        return values

    def get_state(self) -> State:
        """Return everything that the next update depends on, but for the replay buffer, as copies."""
        state: State = {}
        for name, value in self.hypermodel.state_dict().items():
            state[f"hypermodel/{name}"] = value.numpy().copy()
        for name, value in self._target.state_dict().items():
            state[f"target/{name}"] = value.numpy().copy()
        for number, parameter in enumerate(self._parameters):
            for name, value in self._optimizer.state.get(parameter, {}).items():
                state[f"optimizer/{number}/{name}"] = value.numpy().copy()
        scalars = {
            "num_learner_steps": self.num_learner_steps,
            "replay_rng": self._replay_rng.bit_generator.state,
            "index_rng": self._index_rng.bit_generator.state,
        }
        state["scalars"] = np.frombuffer(json.dumps(scalars).encode(), np.uint8)
        return state

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take on a state that a learner of the same spec and config returned."""
        self.hypermodel.load_state_dict(_under(state, "hypermodel/"))
        self._target.load_state_dict(_under(state, "target/"))
        for number, parameter in enumerate(self._parameters):
            moments_of_parameter = _under(state, f"optimizer/{number}/")
            if moments_of_parameter:
                self._optimizer.state[parameter] = moments_of_parameter
        scalars = json.loads(state["scalars"].tobytes())
        self.num_learner_steps = scalars["num_learner_steps"]
        self._replay_rng.bit_generator.state = scalars["replay_rng"]
        self._index_rng.bit_generator.state = scalars["index_rng"]

    @torch.no_grad()
    def _target_values(self, batch: Batch) -> Tensor:
        observations_t = torch.from_numpy(batch.observations_t)
        prior_t = torch.from_numpy(batch.prior_t)
        num_transitions, num_actions = batch.is_allowed_t.shape
        index_t = draw_indices(self._index_rng, num_transitions, self.spec.index_dim, self.spec.reference_distribution)
        tie_break_t = self._index_rng.random((num_transitions, num_actions), dtype=np.float32)
        return double_q_target(
            torch.from_numpy(batch.rewards_t),
            torch.from_numpy(batch.discounts_t),
            self.hypermodel.learnable(observations_t) + prior_t,
            self._target(observations_t) + prior_t,
            torch.from_numpy(index_t),
            torch.from_numpy(batch.is_allowed_t),
            torch.from_numpy(tie_break_t),
        )

    def _learnable_tm1(self, batch: Batch) -> Tensor:
        """Return the learnable part's coefficients of the actions taken: [B, M + 1]."""
        coefficients: Tensor = self.hypermodel.learnable(torch.from_numpy(batch.observations_tm1))
        return coefficients[torch.arange(len(coefficients)), torch.from_numpy(batch.actions_tm1)]

    def _descend(self, loss: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        gradient_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_gradient_norm)
        self._optimizer.step()
        return gradient_norm

    @torch.no_grad()
    def _update_target(self) -> None:
        for target, online in zip(self._target.parameters(), self._parameters, strict=True):
            target.copy_(online)


def _under(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a state whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): torch.from_numpy(value.copy())
        for name, value in state.items()
        if name.startswith(prefix)
    }
