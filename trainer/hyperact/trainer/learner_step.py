"""One learner step as a function of tensors, for any observation and any head. Letters: B batch size.

`one_hot_step` does the same for one-hot observations without looking at the whole of the first layer.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from hyperact.trainer.adam import Adam, clipping_factor
from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.heads.summand import Summand
from hyperact.trainer.row_table import Clock
from hyperact.trainer.td_loss import Answer, Draws, TdLoss, Transitions


class StepInputs(NamedTuple):
    """What one step is given: transitions, random numbers, the time, and how many transitions the buffer holds.

    `has_future` is whether a value follows on any of the transitions; for one-shot agents none does, and no network is
    asked for targets.
    """

    transitions: Transitions
    draws: Draws
    clock: Clock
    num_transitions: Tensor
    has_future: bool


class StepState(NamedTuple):
    """What a step owns, by the names of the learnable summand's parameters, as they are at one time."""

    target: dict[str, Tensor]
    firsts: dict[str, Tensor]
    seconds: dict[str, Tensor]


class DenseStep:
    """The learner step for any observation and any head."""

    is_one_hot = False

    def __init__(self, learnable: Summand, td_loss: TdLoss, config: LearnerConfig) -> None:
        self._learnable = learnable
        self._td_loss = td_loss
        self._config = config
        self.target = copy.deepcopy(learnable).requires_grad_(False)
        self.adam = Adam(list(learnable.parameters()), config)

    def __call__(self, inputs: StepInputs) -> Tensor:
        """Make the step; return loss, mean value, loading norm and gradient norm: float32 [4]."""
        transitions = inputs.transitions
        targets = self._targets(inputs)
        online_tm1 = _answer(self._learnable, transitions.observations_tm1)
        estimate = self._td_loss.estimate(online_tm1, targets, transitions, inputs.draws)
        loss = estimate.losses.mean() + self._td_loss.penalty(inputs.num_transitions)
        loss = loss + self._gradient_penalty(estimate.mean_value)
        gradients = torch.autograd.grad(loss, self.adam.parameters)
        with torch.no_grad():
            squared_norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
            factor = clipping_factor(squared_norm, self._config.max_gradient_norm)
            self.adam.step([factor * gradient for gradient in gradients], inputs.clock.corrections)
            return torch.stack([loss, estimate.mean_value, estimate.loading_norm, squared_norm.sqrt()]).detach()

    @torch.no_grad()
    def _targets(self, inputs: StepInputs) -> Tensor:
        transitions = inputs.transitions
        if not inputs.has_future:
            return transitions.rewards_t.unsqueeze(-1)
        online_t = _answer(self._learnable, transitions.observations_t)
        target_t = _answer(self.target, transitions.observations_t)
        return self._td_loss.targets(online_t, target_t, transitions, inputs.draws)

    def _gradient_penalty(self, mean_value: Tensor) -> Tensor | float:
        """Return c * sum over weights w of |dq/dw|^2, q the mean value of the actions taken (ALGORITHM 3.3)."""
        if not self._config.gradient_penalty:
            return 0.0
        gradients = torch.autograd.grad(mean_value, self.adam.parameters, create_graph=True, allow_unused=True)
        squares = [(gradient**2).sum() for gradient in gradients if gradient is not None]
        return self._config.gradient_penalty * torch.stack(squares).sum()

    @torch.no_grad()
    def update_target(self) -> None:
        """Copy the online network to the target network."""
        for target, online in zip(self.target.parameters(), self.adam.parameters, strict=True):
            target.copy_(online)

    def get_state(self, _: Clock) -> StepState:
        """Return the state, not copied."""
        names = [name for name, _ in self._learnable.named_parameters()]
        return StepState(
            dict(zip(names, self.target.parameters(), strict=True)),
            dict(zip(names, self.adam.firsts, strict=True)),
            dict(zip(names, self.adam.seconds, strict=True)),
        )

    def set_state(self, state: StepState, clock: Clock) -> None:
        """Take on a state."""
        load(self.get_state(clock), state)


def load(mine: StepState, given: StepState) -> None:
    """Copy the tensors of one state into those of another, as far as it has them."""
    with torch.no_grad():
        for to_values, from_values in zip(mine, given, strict=True):
            for name, value in to_values.items():
                value.copy_(from_values[name])


def _answer(network: Summand, observations: Tensor) -> Answer:
    return lambda indices: network(observations, indices)
