"""Candidates to judge: a serving version, what it played, an honest successor, and ones that something is wrong with.

All are real: learned in a small stochastic decision process, exported, registered, and judged on a log behind a real
LogService.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import toys
from hyperact.trainer.config import LearnerConfig, NetworkConfig
from hyperact.trainer.environments import spec_of
from hyperact.trainer.export import Lineage, OnnxGraph, to_onnx, write_version
from hyperact.trainer.learner import Learner, State
from hyperact.trainer.n_step import NStepAssembler
from hyperact.v1 import golden, manifests
from hyperact.v1.golden import Golden
from hyperact.v1.made_up import made_up_observations
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.transitions import Transition, TransitionAssembler
from toy_log_service import DeepSeaPlayer, ToyLog, served
from toy_mdp import ToyMdp, num_actions, num_states, reward_noise

# What is wrong with each, and at least one gate that must see it.
planted = {
    "worse return": "off-policy gain",
    "collapsed exploration": "exploration",
    "mirrored observations": "divergence",
    "blank observations": "divergence",
    "permuted actions": "divergence",
    "NaN weights": "finite",
}
_network = NetworkConfig(hidden_sizes=(32,), prior_scale=1.0)
_config = LearnerConfig(network=_network, batch_size=64, learning_rate=3e-3, perturbation_scale=0.1)
_num_random_episodes, _num_serving_episodes = 300, 300
_lineage = Lineage("default")


class Process(gymnasium.Env[NDArray[np.float32], int]):
    """The toy process as an environment."""

    def __init__(self, seed: int) -> None:
        self._process = ToyMdp(seed=seed)
        self._random = np.random.default_rng(seed)
        self._state = self._number = 0
        self.observation_space = gymnasium.spaces.Box(-1.0, 5.0, (num_states + 1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(num_actions)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin in state 0."""
        self._state = self._number = 0
        return self._process.observe(0, 0), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move on; the reward is noisy."""
        reward = float(self._process.rewards[self._state, action] + reward_noise * self._random.normal())
        self._state = int(self._random.choice(num_states, p=self._process.moves[self._state, action]))
        self._number += 1
        is_over = self._number == self._process.horizon
        return self._process.observe(self._state, self._number), reward, is_over, False, {}


@dataclass
class ProcessPlayer(DeepSeaPlayer):
    """Plays the process instead, with the seed `size`."""

    def __post_init__(self) -> None:
        self._environment = Process(self.size)


@dataclass
class Scene:
    """A registry whose alias stands at a version, and the log of what it played.

    Attributes:
        honest: what learned on from what was played.
        spiteful: what learned the opposite of the rewards.
    """

    data_dir: Path
    uri: str
    log: ToyLog
    address: str
    seed: int
    spec: ModelSpec
    honest: Learner
    spiteful: Learner

    def register(self, kind: str = "", seed: int = 0) -> str:
        """Register an honest candidate, or one with something wrong, and return its version.

        Golden answers are made after the fault: they agree with the graph, as they do when a learner is at fault.
        """
        directory = self.data_dir / "made" / f"{kind or 'honest'}-{seed}"
        learner = self.spiteful if kind == "worse return" else self.honest
        made_up = made_up_observations(self.spec)
        manifest = write_version(directory, learner.hypermodel, self.spec, made_up, _lineage, datetime.now(UTC))
        graph = spoil((directory / manifest.onnx_file).read_bytes(), kind, self.spec, seed)
        (directory / manifest.onnx_file).write_bytes(graph)
        manifest.onnx_sha256 = hashlib.sha256(graph).hexdigest()
        (directory / manifests.file_name).write_text(manifests.to_json(manifest))
        answers = Golden(made_up, OnnxGraph(graph).coefficients(made_up), 10.0)
        if kind != "NaN weights":
            (directory / golden.file_name).write_bytes(answers.to_bytes())
        return toys.register(self.uri, directory)

    def play(self, graph: bytes, num_episodes: int) -> list[float]:
        """Return the returns of a graph's episodes, played apart from the log."""
        player = ProcessPlayer(ToyLog(), self.seed, session="elsewhere")
        return player.play(num_episodes, OnnxGraph(graph).coefficients, self.spec, version="9")


@contextmanager
def staged(data_dir: Path, seed: int = 0, num_updates: int = 1500) -> Iterator[Scene]:
    """Learn a version from random episodes, let it play, and learn on from that; serve the log meanwhile."""
    uri = toys.make_registry(data_dir)
    spec = spec_of(Process(seed), AgentKind.AGENT_KIND_EPISODIC, 0.99, 4)
    log = ToyLog()
    player = ProcessPlayer(log, seed, session=f"agent-{seed}")
    player.play(_num_random_episodes)
    serving = learn(log, spec, seed, num_updates)
    directory = data_dir / "made" / "serving"
    made_up = made_up_observations(spec)
    write_version(directory, serving.hypermodel, spec, made_up, _lineage, datetime.now(UTC))
    version = toys.register(uri, directory, alias="champion")
    graph = OnnxGraph(to_onnx(serving.hypermodel, spec))
    player.play(_num_serving_episodes, graph.coefficients, spec, version=version, deployment=1)
    honest = learn(log, spec, seed, num_updates // 5, serving.get_state())
    spiteful = learn(log, spec, seed, num_updates, sign=-1.0)
    with served(log) as address:
        yield Scene(data_dir, uri, log, address, seed, spec, honest, spiteful)


def learn(
    log: ToyLog, spec: ModelSpec, seed: int, num_updates: int, state: State | None = None, sign: float = 1.0
) -> Learner:
    """Return what a learner, newborn or of some state, makes of a log; with a sign of -1, of the opposite rewards."""
    learner = Learner(spec, _config, seed)
    if state is not None:
        learner.set_state(state)
    replay = learner.make_replay()
    steps = [replace(step, reward=sign * step.reward) for step in transitions(log, spec)]
    replay.add(NStepAssembler(1, spec.discount, "raw").push(steps))
    for _ in range(num_updates):
        learner.update(replay)
    return learner


def transitions(log: ToyLog, spec: ModelSpec) -> list[Transition]:
    """Return everything in a log as transitions."""
    assembler = TransitionAssembler(spec)
    entries = [entry for partition in log.partitions.values() for entry in partition]
    return assembler.push(entries).transitions


def spoil(graph: bytes, kind: str, spec: ModelSpec, seed: int) -> bytes:
    """Return a graph with something wrong with it."""
    model = onnx.load_model_from_string(graph)
    random = np.random.default_rng(seed)
    if kind == "collapsed exploration":
        scale = np.full((num_actions, spec.index_dim + 1), random.uniform(0.0, 0.05), np.float32)
        scale[:, 0] = 1.0
        _wrap_output(model, "Mul", scale)
    elif kind == "permuted actions":
        _wrap_output(model, "Gather", np.roll(np.arange(num_actions), 1 + seed % (num_actions - 1)), axis=1)
    elif kind == "mirrored observations":
        _wrap_input(model, np.arange(num_states + 1)[::-1].copy())
    elif kind == "blank observations":
        _wrap_input(model, np.full(num_states + 1, random.integers(num_states + 1)))
    elif kind == "NaN weights":
        _spoil_a_weight(model, random)
    return model.SerializeToString()


def _wrap_output(model: onnx.ModelProto, operator: str, constant: np.ndarray, **attributes: Any) -> None:
    """Put an operator after the graph's answer."""
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "coefficients" else name for name in node.output]
        node.input[:] = ["inner" if name == "coefficients" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(constant, "planted"))
    model.graph.node.append(helper.make_node(operator, ["inner", "planted"], ["coefficients"], **attributes))


def _wrap_input(model: onnx.ModelProto, places: np.ndarray) -> None:
    """Have the graph see other elements of the observation in each place."""
    for node in model.graph.node:
        node.input[:] = ["inner_observations" if name == "observations" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(places, "planted"))
    first = helper.make_node("Gather", ["observations", "planted"], ["inner_observations"], axis=1)
    nodes = [first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _spoil_a_weight(model: onnx.ModelProto, random: np.random.Generator) -> None:
    """Make one number of the largest weight NaN."""
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    largest = max(floats, key=lambda tensor: int(np.prod(tensor.dims)))
    values = numpy_helper.to_array(largest).copy()
    values.flat[random.integers(values.size)] = np.nan
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
