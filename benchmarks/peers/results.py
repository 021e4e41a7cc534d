"""The file of all repeats: one row for each, and one for a peer that could not be measured, which says why."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from benchmarks.peers.catalogue import Case
from benchmarks.peers.load import Found


@dataclass(frozen=True, slots=True)
class Row:
    """What one repeat found; of a failure only names and note are set.

    Attributes:
        model, peer: their names.
        release: the peer's package and version.
        way, num_rows, in_flight: the case.
        repeat: its number, from 0.
        decisions_per_second: rows answered.
        p50_ms, p99_ms: latencies of messages.
        generator_share: the share of its core that the load generator used.
        note: why there is nothing else.
    """

    model: str
    peer: str
    release: str
    way: str = ""
    num_rows: int = 0
    in_flight: int = 0
    repeat: int = 0
    decisions_per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    generator_share: float = 0.0
    note: str = ""

    @property
    def case(self) -> Case:
        """The case that it belongs to."""
        return Case(self.way, self.num_rows, self.in_flight)

    def with_found(self, case: Case, repeat: int, found: Found) -> "Row":
        """Return the row of a repeat."""
        return replace(
            self,
            **asdict(case),
            repeat=repeat,
            decisions_per_second=round(found.messages_per_second * case.num_rows, 1),
            p50_ms=round(found.p50_ms, 3),
            p99_ms=round(found.p99_ms, 3),
            generator_share=round(found.generator_share, 3),
        )


class Results:
    """Rows that stand in a file as soon as they are there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows = read_rows(path)

    def add(self, row: Row) -> None:
        """Append a row."""
        is_new = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(asdict(row))
        self.rows.append(row)

    def has(self, model: str, peer: str, case: Case, repeat: int) -> bool:
        """Tell whether a repeat was measured."""
        return any(
            (row.model, row.peer, row.case, row.repeat) == (model, peer, case, repeat) and not row.note
            for row in self.rows
        )

    def missing(self, model: str, peer: str, cases: Iterable[Case], repeats: int) -> list[tuple[int, Case]]:
        """Return what is still to be measured; nothing of a peer that could not be."""
        if any((row.model, row.peer) == (model, peer) and row.note for row in self.rows):
            return []
        turns = [(repeat, case) for repeat in range(repeats) for case in cases]
        return [(repeat, case) for repeat, case in turns if not self.has(model, peer, case, repeat)]


def read_rows(path: Path) -> list[Row]:
    """Return a file's rows; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [parse(texts) for texts in csv.DictReader(file)]


def parse(texts: dict[str, str]) -> Row:
    """Return a row from its texts."""
    return Row(**{field.name: field.type(texts[field.name]) for field in fields(Row) if callable(field.type)})


def median(rows: Sequence[Row], model: str, peer: str, case: Case) -> Row | None:
    """Return the medians of a case's repeats, or None if it was not measured."""
    some = [row for row in rows if (row.model, row.peer, row.case, row.note) == (model, peer, case, "")]
    if not some:
        return None
    names = ("decisions_per_second", "p50_ms", "p99_ms", "generator_share")
    return replace(some[0], **{name: statistics.median(getattr(row, name) for row in some) for name in names})


def note(rows: Sequence[Row], model: str, peer: str) -> str:
    """Return why a peer could not be measured, or nothing."""
    return next((row.note for row in rows if (row.model, row.peer) == (model, peer) and row.note), "")
