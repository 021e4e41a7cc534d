"""The learner: one update at a time, and its whole state as arrays. All variants are settings of it.

The rules:

1. One update draws a batch, forms its targets (by default Double DQN's under a fresh index per transition that nothing
   else uses) and takes one Adam step on the loss averaged over indices (by default exactly).
2. The target network is copied from the online one before the first update and after every `target_update_period`.
3. The prior is never updated; what it says without an index comes with the batch.
4. `get_state` and `set_state` round-trip bit for bit: the same replay then gives the same updates.

Letters: B batch size, A num_actions, M index_dim, K indices of the loss and J of the target per transition.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperact.trainer.acting import with_acting_rule
from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.observations import Observations
from hyperact.trainer.replay import Replay
from hyperact.trainer.td_loss import Answers, Draws, TdLoss, Transitions
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
        """Make a newborn learner. ValueError if the settings or the spec's index do not go together."""
        self.spec = with_acting_rule(spec, config)
        self.config = config
        self.num_learner_steps = 0
        self.hypermodel = Hypermodel(spec, config.network, seed)
        self._td_loss = TdLoss(spec, config, self.hypermodel)
        self._target = copy.deepcopy(self.hypermodel.learnable).requires_grad_(False)
        self._parameters = list(self.hypermodel.learnable.parameters())
        # Without a decay AdamW is Adam.
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learning_rate,
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        replay_seed, index_seed = np.random.SeedSequence(seed).spawn(2)
        self._replay_rng = np.random.default_rng(replay_seed)
        self._index_rng = np.random.default_rng(index_seed)

    def make_replay(self) -> Replay:
        """Return an empty replay buffer that knows this learner's prior."""
        nothing = np.zeros((1, *self.spec.observation.shape))
        return Replay(
            self.spec,
            self.config.replay_capacity,
            self.prior_answers,
            num_stacked=self.config.num_stacked_frames,
            prior_shape=self.prior_answers(nothing).shape[1:],
            has_gaussian_perturbations=self.config.perturbation == "gaussian",
            mask_probability=self.config.mask_probability,
        )

    def update(self, replay: Replay) -> UpdateStatistics:
        """Take one learner step on a batch from the replay buffer."""
        batch = replay.sample(self._replay_rng, self.config.batch_size)
        transitions = Transitions(*map(torch.from_numpy, batch))
        draws = Draws(*map(torch.from_numpy, self._td_loss.draw(self._index_rng, len(batch.actions_tm1))))
        targets = self._targets(transitions, draws)
        encoded_tm1 = self.hypermodel.learnable.encode(transitions.observations_tm1)
        estimate = self._td_loss.estimate(encoded_tm1, targets, transitions, draws)
        loss = estimate.losses.mean() + self._td_loss.penalty(len(replay)) + self._gradient_penalty(estimate.mean_value)
        gradient_norm = self._descend(loss)
        self.num_learner_steps += 1
        if self.num_learner_steps % self.config.target_update_period == 0:
            self._update_target()
        return UpdateStatistics(
            loss.detach(), estimate.mean_value.detach(), estimate.loading_norm.detach(), gradient_norm.detach()
        )

    @torch.no_grad()
    def coefficients(self, observations: Observations) -> Float32s:
        """Return the coefficients of observations [N, *shape]: float32 [N, A, M + 1]. ValueError if there are none."""
        coefficients: Float32s = self.hypermodel(torch.from_numpy(observations)).numpy()
        return coefficients

    @torch.no_grad()
    def values(self, observations: Observations, indices: Float32s) -> Float32s:
        """Return the values of observations [N, *shape] under indices [N, K, M]: float32 [N, K, A]."""
        values: Float32s = self.hypermodel(torch.from_numpy(observations), torch.from_numpy(indices)).numpy()
        return values

    @torch.no_grad()
    def prior_answers(self, observations: Observations) -> Float32s:
        """Return what the prior says of observations [N, *shape] without an index: its coefficients, if it has some."""
        answers: Float32s = self.hypermodel.prior.encode(torch.from_numpy(observations)).numpy()
        return answers

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

    def _gradient_penalty(self, mean_value: Tensor) -> Tensor | float:
        """Return c * sum over weights w of |dq/dw|^2, q the mean value of the actions taken (ALGORITHM 3.3)."""
        if not self.config.gradient_penalty:
            return 0.0
        gradients = torch.autograd.grad(mean_value, self._parameters, create_graph=True, allow_unused=True)
        squares = [(gradient**2).sum() for gradient in gradients if gradient is not None]
        return self.config.gradient_penalty * torch.stack(squares).sum()

    @torch.no_grad()
    def _targets(self, transitions: Transitions, draws: Draws) -> Tensor:
        """Return the targets [B, J]; where no value follows, as for one-shot agents, no network is asked."""
        if not transitions.discounts_t.any():
            return transitions.rewards_t.unsqueeze(-1)
        answers_t = Answers(
            self.hypermodel.learnable.encode(transitions.observations_t),
            self._target.encode(transitions.observations_t),
        )
        return self._td_loss.targets(answers_t, self._target, transitions, draws)

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
