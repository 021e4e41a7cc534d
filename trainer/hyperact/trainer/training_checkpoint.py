"""What an in-process training run remembers over its own death: learner, replay buffer, and where it stood.

It is one file, an .npz without pickles, replaced in one rename, so it is always whole. A run that goes on from it
begins a new episode; steps that were waiting for the end of their n-step sums are lost.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.trainer.learner import Learner
from hyperact.trainer.replay import Replay

_facts_array = "facts"


class TrainingCheckpoint:
    """A file with the state of one training run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, learner: Learner, replay: Replay, facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint; `facts` is whatever else the run must remember, as JSON can say it."""
        arrays: dict[str, NDArray[Any]] = {f"learner/{name}": value for name, value in learner.get_state().items()}
        arrays |= {f"replay/{name}": value for name, value in replay.get_state().items()}
        arrays[_facts_array] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        partial = self._path.with_name(f"{self._path.name}.partial")
        # Not flushed to the disk: it can be a gigabyte every few minutes, and what is lost with the machine is played
        # again.
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own flag
        partial.replace(self._path)

    def facts(self) -> dict[str, Any] | None:
        """Return what the run remembered beside learner and buffer; None: no file."""
        if not self._path.exists():
            return None
        with np.load(self._path, allow_pickle=False) as file:
            facts: dict[str, Any] = json.loads(file[_facts_array].tobytes())
        return facts

    def remove(self) -> None:
        """Remove the file, if there is one: the run has ended."""
        self._path.unlink(missing_ok=True)

    def load(self, learner: Learner, replay: Replay) -> dict[str, Any] | None:
        """Bring a learner and a buffer of the same settings to where they stood and return the facts; None: no file."""
        if not self._path.exists():
            return None
        with np.load(self._path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts: dict[str, Any] = json.loads(arrays.pop(_facts_array).tobytes())
        learner.set_state(_under(arrays, "learner/"))
        replay.set_state(_under(arrays, "replay/"))
        return facts


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
