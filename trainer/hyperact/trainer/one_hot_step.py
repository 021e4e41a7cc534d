"""The learner step for one-hot observations and an MLP: its work does not grow with the observation.

The same step as `learner_step.DenseStep`, equal up to rounding, with the first layer as a table of rows (`row_table`).
Letters: B batch size, H width of the first layer, D numbers in an observation.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from hyperact.trainer.adam import Adam, beta1, beta2, clipping_factor
from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.heads.last_layer import Part
from hyperact.trainer.heads.summand import Summand, indexed_values
from hyperact.trainer.learner_step import StepInputs, StepState, load
from hyperact.trainer.networks import MlpTorso
from hyperact.trainer.row_table import Clock, Rows, RowTable, summed_by_position
from hyperact.trainer.td_loss import Answer, TdLoss
from hyperact.v1.indices import Float32s

first_weight = "torso.layers.0.weight"


def takes_one_hot(summand: Summand) -> bool:
    """Tell whether a summand is a torso and a head whose first layer sees observations as they are."""
    if not isinstance(summand, Part) or not isinstance(summand.torso, MlpTorso):
        return False
    inputs = summand.torso.inputs
    return len(summand.torso.layers) > 0 and (inputs.scale, inputs.shift) == (1.0, 0.0)


def first_layer(part: Part) -> nn.Linear:
    """Return the first layer of a summand that `takes_one_hot`."""
    layer = part.torso.layers[0]
    assert isinstance(layer, nn.Linear)
    return layer


class RestOfPart(nn.Module):
    """What follows on the first weight: rows float32 [B, H] in, coefficients float32 [B, A, M + 1] out, or values."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.bias = first_layer(part).bias
        self.layers = nn.ModuleList(part.torso.layers[1:])
        self.head = part.head
        self.scale = part.scale

    def forward(self, rows: Tensor, indices: Tensor | None) -> Tensor:
        """Return coefficients, or values under indices [B, K, M]."""
        features = torch.relu(rows if self.bias is None else rows + self.bias)
        for layer in self.layers:
            features = torch.relu(layer(features))
        coefficients: Tensor = self.scale * self.head(features)
        return coefficients if indices is None else indexed_values(coefficients, indices)


class OneHotStep:
    """The learner step, for a summand that `takes_one_hot`.

    The module's first weight is out of date while this is at work; `publish` brings it up to date.
    """

    is_one_hot = True

    def __init__(self, learnable: Summand, td_loss: TdLoss, config: LearnerConfig) -> None:
        assert isinstance(learnable, Part)
        self._learnable = learnable
        self._first_weight = first_layer(learnable).weight
        self._td_loss = td_loss
        self._config = config
        self.online = RestOfPart(learnable)
        self._target = copy.deepcopy(self.online).requires_grad_(False)
        self.adam = Adam(list(self.online.parameters()), config)
        width, num_rows = self._first_weight.shape
        self.table = RowTable(num_rows, width, config.adam_epsilon, self._first_weight.device)

    def __call__(self, inputs: StepInputs) -> Tensor:
        """Make the step; return loss, mean value, loading norm and gradient norm: float32 [4]."""
        transitions = inputs.transitions
        clock, positions = inputs.clock, transitions.observations_tm1
        with torch.no_grad():
            targets = self._targets(inputs)
            rows = self.table.read(positions, clock.times[0], clock.nodes[0])
        values = rows.values.detach().requires_grad_()
        estimate = self._td_loss.estimate(_answer(self.online, values), targets, transitions, inputs.draws)
        loss = estimate.losses.mean() + self._td_loss.penalty(inputs.num_transitions)
        row_gradients, *gradients = torch.autograd.grad(loss, [values, *self.adam.parameters])
        with torch.no_grad():
            # The row after the last stands for blank observations, to which the first weight says nothing.
            is_row = (positions < self.table.num_rows).unsqueeze(-1)
            summed, counts = summed_by_position(positions, row_gradients * is_row)
            squared_norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
            squared_norm = squared_norm + (summed.square().sum(1) / counts).sum()
            factor = clipping_factor(squared_norm, self._config.max_gradient_norm)
            self.adam.step([factor * gradient for gradient in gradients], clock.corrections)
            self.table.step(positions, rows, factor * summed, clock)
            return torch.stack([loss, estimate.mean_value, estimate.loading_norm, squared_norm.sqrt()]).detach()

    @torch.no_grad()
    def _targets(self, inputs: StepInputs) -> Tensor:
        transitions, clock = inputs.transitions, inputs.clock
        if not inputs.has_future:
            return transitions.rewards_t.unsqueeze(-1)
        online_t = self.table.read(transitions.observations_t, clock.times[0], clock.nodes[0]).values
        target_t = self.table.read_target(transitions.observations_t, clock)
        answers = _answer(self.online, online_t), _answer(self._target, target_t)
        return self._td_loss.targets(*answers, transitions, inputs.draws)

    @torch.no_grad()
    def update_target(self) -> None:
        """Copy the online network to the target network; the table does it by the clock."""
        for target, online in zip(self._target.parameters(), self.adam.parameters, strict=True):
            target.copy_(online)

    @torch.no_grad()
    def publish(self, clock: Clock) -> None:
        """Bring the module's first weight up to date."""
        self._first_weight.copy_(self.table.read_all(clock)[0].values.T)

    def get_state(self, clock: Clock) -> StepState:
        """Return the state as the dense step would have it."""
        rows, target = self.table.read_all(clock)
        state = self.rest_state()
        state.target[first_weight] = target.T
        state.firsts[first_weight] = rows.firsts.T
        state.seconds[first_weight] = rows.roots.square().T
        return state

    def set_state(self, state: StepState, clock: Clock) -> None:
        """Take on a state of the dense step's; the module's first weight must be up to date."""
        load(self.rest_state(), state)
        values, target = self._first_weight.detach().T, state.target[first_weight].T
        rows = Rows(values, state.firsts[first_weight].T, state.seconds[first_weight].sqrt().T)
        self.table.load(rows, target, clock)

    def set_rest_state(self, state: StepState) -> None:
        """Take on a state but for the table."""
        load(self.rest_state(), state)

    def rest_state(self) -> StepState:
        """Return the state but for the table."""
        names_of = {id(parameter): name for name, parameter in self._learnable.named_parameters()}
        names = [names_of[id(parameter)] for parameter in self.adam.parameters]
        return StepState(
            dict(zip(names, self._target.parameters(), strict=True)),
            dict(zip(names, self.adam.firsts, strict=True)),
            dict(zip(names, self.adam.seconds, strict=True)),
        )


class OneHotActor:
    """Coefficients at single positions, in NumPy: for one row it is several times as fast as torch.

    Its arrays share their memory with the step's tensors.
    """

    def __init__(self, step: OneHotStep) -> None:
        self._table = {name: getattr(step.table, name).numpy() for name in RowTable.names}
        rest = step.online
        self._bias = _array(rest.bias)
        self._layers = [
            (layer.get_parameter("weight").detach().numpy(), _array(layer._parameters["bias"]))  # noqa: SLF001 -- may be None
            for layer in rest.layers
        ]
        head = rest.head
        num_actions, num_coefficients, width = head.weight.shape
        self._shape = (num_actions, num_coefficients)
        self._head_weight = head.weight.detach().numpy().reshape(-1, width)
        self._head_bias = _array(head.bias).reshape(-1)
        self._scale = np.float32(rest.scale)

    def coefficients(self, position: int, time: int, nodes: Float32s) -> Float32s:
        """Return the learnable summand's coefficients at a position: float32 [A, M + 1]."""
        features = np.maximum(self._row(position, time, nodes) + self._bias, 0.0)
        for weight, bias in self._layers:
            features = np.maximum(weight @ features + bias, 0.0)
        flat: Float32s = self._scale * (self._head_weight @ features + self._head_bias)
        return flat.reshape(self._shape)

    def _row(self, position: int, time: int, nodes: Float32s) -> Float32s:
        """Return `RowTable.read` of one position."""
        table = self._table
        age = time - int(table["stamps"][position])
        root = table["roots"][position] * np.float32(beta2 ** (0.5 * age))
        left = (nodes[0, :, np.newaxis] / (root + nodes[1, :, np.newaxis])).sum(0)
        row: Float32s = table["limits"][position] + table["firsts"][position] * np.float32(beta1**age) * left
        return row


def _array(bias: Tensor | None) -> Float32s:
    return np.zeros(1, np.float32) if bias is None else bias.detach().numpy()


def _answer(network: RestOfPart, rows: Tensor) -> Answer:
    return lambda indices: network(rows, indices)
