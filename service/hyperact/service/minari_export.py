"""The log as a Minari dataset: the ended training episodes of one model, for offline learning.

What goes in is decided by the rules of transitions.py, as for the trainer: raw rewards, late rewards settled, retries
collapsed. Evaluation steps, episodes that have not ended, and episodes with a step that lacks its reward are left out.
The last observation of an episode that terminated without telling it is zeros. Beside each step stand, as infos of
shape [1], its propensity and its deployment (zeros in the row after the last step), and with each episode its session,
run, episode and version.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.tensors import TensorChecker, to_array
from hyperact.v1.transitions import Assembled, EpisodeSummary, Transition, TransitionAssembler

Messages = Callable[[], Iterable[Sequence[LogEntry]]]
_all_windows_closed_seconds = 1e12


class NothingToExportError(Exception):
    """The log holds no step of the model."""


@dataclass(slots=True)
class Exported:
    """What went into the dataset, and how many ended episodes had to be left out."""

    num_episodes: int = 0
    num_steps: int = 0
    num_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """What every observation and action of the dataset is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    num_actions: int

    def observation_space(self) -> gymnasium.spaces.Box:
        """Return all that the dtype can hold."""
        if self.dtype.kind == "f":
            return gymnasium.spaces.Box(-np.inf, np.inf, self.shape, self.dtype.type)
        if self.dtype.kind == "b":
            return gymnasium.spaces.Box(0, 1, self.shape, np.uint8)
        limits = np.iinfo(self.dtype.type)
        return gymnasium.spaces.Box(limits.min, limits.max, self.shape, self.dtype.type)

    def fits(self, transition: Transition) -> bool:
        """Tell whether a transition can stand in the dataset."""
        observations = (transition.observation, transition.next_observation)
        return transition.action < self.num_actions and all(
            array.shape == self.shape and array.dtype == self.dtype for array in observations
        )


def find_layout(messages: Messages, spec: ModelSpec | None) -> Layout:
    """Return the layout that a spec declares, or else that of the first observation and the greatest action.

    Raises NothingToExportError.
    """
    if spec is not None:
        checker = TensorChecker(spec.observation)
        return Layout(checker.shape, np.dtype(checker.dtype), spec.action.discrete.num_actions)
    first, num_actions = None, 1
    for entries in messages():
        for entry in entries:
            if entry.HasField("step"):
                first = to_array(entry.step.observation) if first is None else first
                num_actions = max(num_actions, entry.step.action + 1, len(entry.step.action_mask))
    if first is None:
        raise NothingToExportError("the log holds no step of this model")
    return Layout(first.shape, first.dtype, num_actions)


def write_minari(
    messages: Messages,
    root: Path,
    dataset_id: str,
    spec: ModelSpec | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Write one model's episodes as the dataset `dataset_id` under `root` (MINARI_DATASETS_PATH, to load it).

    Args:
        messages: returns the model's entries from the beginning, each time it is called.
        root: the directory of datasets.
        dataset_id: as Minari writes it, such as hyperact/default-v0.
        spec: what the model expects; None: an episodic agent without a reward window, spaces as in `find_layout`.
        advance: hears how many entries were read since the last time.

    Raises:
        NothingToExportError: there is no step.
        ValueError: there is such a dataset, or that is not an id.
    """
    layout = find_layout(messages, spec)
    path = root / dataset_id / "data"
    if path.exists():
        raise ValueError(f"there is a dataset {dataset_id!r} at {path}: name another with --dataset-id")
    partial = path.with_name("data.partial")
    if partial.exists():
        shutil.rmtree(partial)  # of an export that was broken off
    partial.mkdir(parents=True)
    storage = MinariStorage.new(
        partial,
        observation_space=layout.observation_space(),
        action_space=gymnasium.spaces.Discrete(layout.num_actions),
        data_format="arrow",
        jpeg_encoding=False,  # lossless
    )
    storage.update_metadata(
        {
            "dataset_id": dataset_id,
            "minari_version": minari.__version__,
            "algorithm_name": "Thompson sampling from a hypermodel",
            "description": "Ended training episodes from a Hyperact step log.",
        }
    )
    exported = Exported()
    episodes = _Episodes(layout, spec or ModelSpec(agent_kind=AgentKind.AGENT_KIND_EPISODIC), exported)
    storage.update_episodes(episodes.read(messages(), advance))
    partial.rename(path)
    return exported


class _Episodes:
    """Gathers transitions until their episode is summed up."""

    def __init__(self, layout: Layout, spec: ModelSpec, exported: Exported) -> None:
        self._layout = layout
        self._assembler = TransitionAssembler(spec)
        self._open: dict[tuple[str, str, int], list[Transition]] = {}
        self._exported = exported

    def read(self, messages: Iterable[Sequence[LogEntry]], advance: Callable[[int], None]) -> Iterator[EpisodeBuffer]:
        """Yield the episodes that end in the messages."""
        for entries in messages:
            yield from self._take(self._assembler.push(entries))
            advance(len(entries))
        yield from self._take(self._assembler.advance(_all_windows_closed_seconds))

    def _take(self, assembled: Assembled) -> Iterator[EpisodeBuffer]:
        for transition in assembled.transitions:
            _, session, run, episode, _ = transition.key
            self._open.setdefault((session, run, episode), []).append(transition)
        for summary in assembled.episodes:
            transitions = self._open.pop((summary.session, summary.run, summary.episode), [])
            transitions.sort(key=lambda transition: transition.key.number)
            if summary.is_evaluation:
                continue
            if len(transitions) != summary.num_steps or not all(map(self._layout.fits, transitions)):
                self._exported.num_left_out += 1
                continue
            self._exported.num_episodes += 1
            self._exported.num_steps += len(transitions)
            yield _to_buffer(summary, transitions)


def _to_buffer(summary: EpisodeSummary, transitions: Sequence[Transition]) -> EpisodeBuffer:
    observations = [transition.observation for transition in transitions] + [transitions[-1].next_observation]
    propensities = [*(transition.propensity for transition in transitions), 0.0]
    deployments = [*(transition.deployment for transition in transitions), 0]
    return EpisodeBuffer(
        observations=[array.astype(np.uint8) if array.dtype.kind == "b" else array for array in observations],
        actions=[transition.action for transition in transitions],
        rewards=[transition.reward for transition in transitions],
        terminations=[transition.terminated for transition in transitions],
        truncations=[transition.truncated for transition in transitions],
        infos={  # Minari cannot read back infos that are scalars
            "propensity": np.array(propensities, np.float32)[:, np.newaxis],
            "deployment": np.array(deployments, np.int64)[:, np.newaxis],
        },
        options={
            "session": summary.session,
            "run": summary.run,
            "episode": summary.episode,
            "version": summary.version,
        },
    )
