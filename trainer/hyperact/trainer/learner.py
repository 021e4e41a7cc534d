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
from hyperact.trainer.adam_drift import DriftNodes, bias_corrections
from hyperact.trainer.compiling import StepCompiler
from hyperact.trainer.config import LearnerConfig
from hyperact.trainer.devices import Tensors, cpu, on_device
from hyperact.trainer.draw_stream import DrawStream
from hyperact.trainer.hypermodel import Hypermodel
from hyperact.trainer.learner_step import DenseStep, StepInputs, StepState
from hyperact.trainer.observations import Observations
from hyperact.trainer.one_hot_step import OneHotActor, OneHotStep, takes_one_hot
from hyperact.trainer.positions import PriorTable, one_hot_position
from hyperact.trainer.replay import Replay
from hyperact.trainer.row_table import Clock, RowTable
from hyperact.trainer.td_loss import TdLoss, Transitions
from hyperact.v1.indices import Float32s
from hyperact.v1.model_pb2 import GraphKind, ModelSpec

State = dict[str, NDArray[Any]]


class UpdateStatistics(NamedTuple):
    """What one update saw, as means over its batch; tensors, so that nobody waits for numbers that nobody reads."""

    loss: Tensor
    mean_value: Tensor
    loading_norm: Tensor
    gradient_norm: Tensor


class Learner:
    """Learns a hypermodel from a replay buffer."""

    def __init__(self, spec: ModelSpec, config: LearnerConfig, seed: int, device: torch.device = cpu) -> None:
        """Make a newborn learner. ValueError if the settings or the spec's index do not go together."""
        self.device = device
        self.spec = with_acting_rule(spec, config)
        self.config = config
        self.num_learner_steps = 0
        self._published_at = -1
        self._hypermodel = Hypermodel(spec, config.network, seed).to(device)
        self._td_loss = TdLoss(spec, config, self._hypermodel)
        self._stream = DrawStream(self._td_loss, np.random.SeedSequence(seed))
        self._drift_nodes = DriftNodes(config.learning_rate, config.adam_epsilon)
        nothing = np.zeros((1, *spec.observation.shape))
        self._prior_shape = self.prior_answers(nothing).shape[1:]
        self._prior_table: PriorTable | None = None
        # The penalty differentiates twice, also by the rows, and weight decay moves rows that nothing touches.
        is_plain = not config.gradient_penalty and not config.weight_decay
        if is_plain and takes_one_hot(self._hypermodel.learnable):
            self._prior_table = PriorTable(spec, self.prior_answers, self._prior_shape)
        self._take_up(DenseStep(self._hypermodel.learnable, self._td_loss, config))

    @property
    def hypermodel(self) -> Hypermodel:
        """The hypermodel as learned so far, on the learner's device."""
        if isinstance(self._step, OneHotStep) and self._published_at != self.num_learner_steps:
            self._step.publish(self._clock())
            self._published_at = self.num_learner_steps
        return self._hypermodel

    def make_replay(self) -> Replay:
        """Return an empty replay buffer that knows this learner's prior."""
        return Replay(
            self.spec,
            self.config.replay_capacity,
            self.prior_answers,
            num_stacked=self.config.num_stacked_frames,
            prior_shape=self._prior_shape,
            has_gaussian_perturbations=self.config.perturbation == "gaussian",
            mask_probability=self.config.mask_probability,
            prior_table=self._prior_table,
        )

    def update(self, replay: Replay) -> UpdateStatistics:
        """Take one learner step on a batch from the replay buffer."""
        if replay.is_one_hot != self._step.is_one_hot:
            self._change_step()
        uniforms, draws = self._stream.next()
        batch = replay.take(uniforms)
        inputs = StepInputs(
            Transitions(*map(torch.from_numpy, batch)),
            draws,
            self._clock(),
            torch.tensor(float(len(replay))),
            has_future=bool(batch.discounts_t.any()),
        )
        statistics = self._run(self._here(inputs), self.num_learner_steps)
        self.num_learner_steps += 1
        if self.num_learner_steps % self.config.target_update_period == 0:
            self._step.update_target()
        return UpdateStatistics(*statistics.unbind())

    def coefficients(self, observations: Observations) -> Float32s:
        """Return the coefficients of observations [N, *shape]: float32 [N, A, M + 1]. ValueError if there are none."""
        if self._actor is not None and len(observations) == 1:
            position = one_hot_position(observations[0])
            if position is not None:
                return self._coefficients_at(position)[np.newaxis]
        with torch.no_grad():
            coefficients: Float32s = self.hypermodel(self._here(torch.from_numpy(observations))).cpu().numpy()
        return coefficients

    def values(self, observations: Observations, indices: Float32s) -> Float32s:
        """Return the values of observations [N, *shape] under indices [N, K, M]: float32 [N, K, A]."""
        if self._hypermodel.graph_kind == GraphKind.GRAPH_KIND_COEFFICIENTS:
            return values_of(self.coefficients(observations), indices)
        with torch.no_grad():
            given = (self._here(torch.from_numpy(array)) for array in (observations, indices))
            values: Float32s = self.hypermodel(*given).cpu().numpy()
        return values

    @torch.no_grad()
    def prior_answers(self, observations: Observations) -> Float32s:
        """Return what the prior says of observations [N, *shape] without an index: its coefficients, if it has some."""
        answers: Float32s = self._hypermodel.prior.encode(self._here(torch.from_numpy(observations))).cpu().numpy()
        return answers

    def hypermodel_on_cpu(self) -> Hypermodel:
        """Return the hypermodel as learned so far for whoever exports it: a copy, where the learner is elsewhere."""
        return self.hypermodel if self.device == cpu else copy.deepcopy(self.hypermodel).cpu()

    def get_state(self) -> State:
        """Return everything that the next update depends on, but for the replay buffer, as copies."""
        state: State = {f"hypermodel/{name}": value for name, value in _arrays(self.hypermodel.state_dict()).items()}
        step = self._step
        step_state = step.rest_state() if isinstance(step, OneHotStep) else step.get_state(self._clock())
        for kind, values in step_state._asdict().items():
            state |= {f"{kind}/{name}": value for name, value in _arrays(values).items()}
        if isinstance(step, OneHotStep):
            tables = {name: getattr(step.table, name) for name in RowTable.names}
            state |= {f"rows/{name}": value for name, value in _arrays(tables).items()}
        scalars = {"num_learner_steps": self.num_learner_steps, "draws": self._stream.get_state()}
        state["scalars"] = np.frombuffer(json.dumps(scalars).encode(), np.uint8)
        return state

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take on a state that a learner of the same spec and config returned."""
        self._hypermodel.load_state_dict(_under(state, "hypermodel/"))
        scalars = json.loads(state["scalars"].tobytes())
        self.num_learner_steps = scalars["num_learner_steps"]
        self._stream.set_state(scalars["draws"])
        learned = StepState(*(_under(state, f"{kind}/") for kind in StepState._fields))
        tables = _under(state, "rows/")
        step = self._make_step(is_one_hot=bool(tables))
        if isinstance(step, OneHotStep):
            step.set_rest_state(learned)
            for name, value in tables.items():
                getattr(step.table, name).copy_(value)
        else:
            step.set_state(learned, self._clock())
        self._take_up(step)

    def _coefficients_at(self, position: int) -> Float32s:
        assert self._actor is not None
        assert self._prior_table is not None
        nodes = self._drift_nodes.at(self.num_learner_steps).numpy()
        learnable = self._actor.coefficients(position, self.num_learner_steps, nodes)
        coefficients: Float32s = learnable + self._prior_table.answers(np.array([position]))[0]
        return coefficients

    def _clock(self) -> Clock:
        """Return the time before the next learner step."""
        time, config = self.num_learner_steps, self.config
        copied = time - time % config.target_update_period
        nodes = [self._drift_nodes.at(when) for when in (time, time + 1, copied)]
        corrections = bias_corrections(time + 1, config.learning_rate)
        return self._here(Clock(torch.tensor([time, copied]), corrections, torch.stack(nodes)))

    def _here(self, value: Tensors) -> Tensors:
        """Return tensors on the learner's device."""
        return value if self.device == cpu else on_device(value, self.device)

    def _change_step(self) -> None:
        """Go on with the other form of the step: the buffer's observations are all one-hot, or no longer are."""
        clock = self._clock()
        state = self._step.get_state(clock)
        step = self._make_step(is_one_hot=not self._step.is_one_hot)
        if isinstance(self._step, OneHotStep):
            self._step.publish(clock)
        step.set_state(state, clock)
        self._take_up(step)

    def _make_step(self, *, is_one_hot: bool) -> DenseStep | OneHotStep:
        kind = OneHotStep if is_one_hot else DenseStep
        return kind(self._hypermodel.learnable, self._td_loss, self.config)

    def _take_up(self, step: DenseStep | OneHotStep) -> None:
        self._published_at = -1
        self._step = step
        self._run = StepCompiler(step, self.config.compile)
        # It shares the step's memory, which NumPy can only do on the CPU.
        self._actor = OneHotActor(step) if isinstance(step, OneHotStep) and self.device == cpu else None


def values_of(coefficients: Float32s, indices: Float32s) -> Float32s:
    """Return q = m + v . z: float32 [N, K, A] from coefficients [N, A, M + 1] and indices [N, K, M]."""
    values: Float32s = coefficients[:, np.newaxis, :, 0] + indices @ coefficients[..., 1:].swapaxes(1, 2)
    return values


def _arrays(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def _under(state: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a state whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): torch.from_numpy(value.copy())
        for name, value in state.items()
        if name.startswith(prefix)
    }
