"""What a benchmark is made of: runs, each a function of its own fields alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a run has come: a fraction in [0, 1] of the most that it may take, and a few words."""

    fraction: float
    words: str


class Run(Protocol):
    """One run of a benchmark. It is sent to a process of its own, so it can be pickled."""

    @property
    def label(self) -> str:
        """A short name for people and for the checkpoint's file: letters, digits, "-", "." and "_"."""

    @property
    def seed(self) -> int:
        """The seed: runs that differ in nothing else measure the same thing."""

    def is_finished_by(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row of a results file is the outcome of this run."""

    def play(self, checkpoint: Path, tell: Callable[[Mark], None]) -> Values:
        """Run to the end, now and then telling how far it is, and return the row.

        The checkpoint is a file of the run's own in a directory that exists: whatever was saved there before an
        interruption is still there. It is removed once the row is written.
        """
