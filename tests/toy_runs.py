"""Runs of a benchmark, in small: they sum numbers, wait to be told, fail or die."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperact.trainer.bench.runs import Mark, Values

columns = ("kind", "seed", "total", "threads")


@dataclass(frozen=True)
class ToyRun:
    """Counts to three plus its seed, keeping the count in its checkpoint; other kinds fail, die or stop half-way."""

    kind: str
    seed: int

    @property
    def label(self) -> str:
        """Its kind and seed."""
        return f"{self.kind}-{self.seed}"

    def is_finished_by(self, row: Mapping[str, str]) -> bool:
        """Tell whether kind and seed are the row's."""
        return (row["kind"], row["seed"]) == (self.kind, str(self.seed))

    def play(self, checkpoint: Path, tell: Callable[[Mark], None]) -> Values:
        """Count."""
        total = int(checkpoint.read_text()) if checkpoint.exists() else self.seed
        if self.kind == "fails":
            raise ValueError("a wrong number")
        if self.kind == "dies":
            os._exit(1)
        tell(Mark(0.5, f"at {total}"))
        checkpoint.write_text(str(total + 3))
        if self.kind == "stops" and total == self.seed:
            os._exit(1)
        return {"kind": self.kind, "seed": self.seed, "total": total + 3, "threads": os.environ["OMP_NUM_THREADS"]}
