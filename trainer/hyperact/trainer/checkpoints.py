"""What a trainer remembers over its own death: the learner's state and the stretch of the log that it covers.

It is one file, an .npz without pickles: the learner's arrays, and one array "trainer" with the JSON of everything
else. It is replaced in one rename, so it is always whole.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyperact.trainer.config import LearnerConfig

# 2: the learner keeps Adam's moments by the names of parameters, and its draws as one stream.
format_version = 2

_trainer_array = "trainer"


class RoundRecord(BaseModel):
    """One stretch of the log that was learned from together.

    Attributes:
        ends: for every partition, the offset after the last entry of the round.
        time_seconds: when it was fixed (Unix time); reward windows that ended before are closed.
        num_training_steps: training steps that the log held up to its end, by the service's count.
        num_transitions: transitions that it gave.
    """

    model_config = ConfigDict(extra="forbid")

    ends: dict[str, int]
    time_seconds: float
    num_training_steps: int
    num_transitions: int


class TrainerState(BaseModel):
    """Everything that a trainer must remember beside the learner's arrays."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = Field(default=format_version, description="The layout of this file.")
    model: str = Field(description="The registered model.")
    spec_json: str = Field(description="The ModelSpec that is learned, as JSON.")
    config: LearnerConfig = Field(description="The learner's settings.")
    seed: int = Field(description="The learner's seed.")
    environment: str = Field(default="", description="The environment's name, for people.")
    lineage: str = Field(description="A name for this learner's life, made at its birth.")
    parent_version: str = Field(default="", description="The version that the next one continues.")
    run_id: str = Field(default="", description="The MLflow run.")
    rounds: list[RoundRecord] = Field(default_factory=list, description="What was read, in order.")
    num_updates_due: int = Field(default=0, description="Updates still to be made for the rounds read.")
    has_candidate: bool = Field(default=False, description="Whether what was learned is not registered and judged yet.")
    num_new_transitions: int = Field(default=0, description="Training transitions since the last promotion.")

    @property
    def ends(self) -> dict[str, int]:
        """Where the next round begins."""
        return self.rounds[-1].ends if self.rounds else {}

    @property
    def num_training_steps(self) -> int:
        """Training steps of the log that were read, by the service's count."""
        return self.rounds[-1].num_training_steps if self.rounds else 0

    def needed_from(self) -> dict[str, int]:
        """Return where reading must begin to fill the replay buffer anew; empty: at the log's beginning.

        One round more than the buffer holds: its steps may have waited for their rewards.
        """
        num_transitions = 0
        for place in range(len(self.rounds) - 1, 0, -1):
            num_transitions += self.rounds[place].num_transitions
            if num_transitions >= self.config.replay_capacity:
                return self.rounds[place - 2].ends if place > 1 else {}
        return {}


class CheckpointError(Exception):
    """A checkpoint cannot be used, or another trainer is using it."""


class Checkpoints:
    """The checkpoint of one model under a data directory."""

    def __init__(self, data_dir: Path, model: str) -> None:
        self.directory = data_dir / "trainer" / quote(model, safe="")
        self.path = self.directory / "state.npz"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainers of this model out; the lock goes with the process. Raises CheckpointError."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CheckpointError(f"another trainer is at work in {self.directory}") from error
            yield

    def save(self, trainer: TrainerState, learner: Mapping[str, NDArray[Any]]) -> None:
        """Replace the checkpoint, durably."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays = dict(learner) | {_trainer_array: np.frombuffer(trainer.model_dump_json().encode(), np.uint8)}
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own flag
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        _sync_directory(self.directory)

    def load(self) -> tuple[TrainerState, dict[str, NDArray[Any]]] | None:
        """Return the checkpoint, or None if there is none. Raises CheckpointError if it cannot be read."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            trainer = TrainerState.model_validate_json(arrays.pop(_trainer_array).tobytes())
        except (OSError, ValueError, KeyError, ValidationError) as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}); move it away to begin anew") from error
        if trainer.format_version != format_version:
            raise CheckpointError(
                f"{self.path} has format {trainer.format_version}, this release knows {format_version}"
            )
        return trainer, arrays


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
