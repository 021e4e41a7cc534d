"""The results of a benchmark: a CSV file with one row for each finished run.

The rules:

1. A row is written once, whole, when its run has finished; whoever reads finds finished runs only. A line that a crash
   left half written is dropped.
2. Two campaigns may write to one file at the same time.
3. A run is known by its identity: a few columns that say what was run. Rows of other identities are not touched.
"""

import csv
import fcntl
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = dict[str, str]


class ResultsFile:
    """Rows under named columns; every value is text, as in the file."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Take the file, which need not exist. ValueError if it has other columns."""
        self.path = path
        self._columns = list(columns)
        found = _header(path)
        if found and found != self._columns:
            raise ValueError(f"{path}: expected the columns {', '.join(self._columns)}, found {', '.join(found)}")

    def rows(self) -> list[Row]:
        """Return the finished runs, in the order in which they finished."""
        return read_rows(self.path)

    def append(self, row: Mapping[str, object]) -> None:
        """Write a finished run to the disk. KeyError if a column is missing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_half_line(file.fileno())
            is_empty = os.fstat(file.fileno()).st_size == 0
            lines = ([self._columns] if is_empty else []) + [[str(row[name]) for name in self._columns]]
            file.write(_to_csv(lines))
            file.flush()
            os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a results file; none if there is no file."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return list(csv.DictReader(io.StringIO(whole)))


def _header(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open() as file:
        return next(csv.reader(file), [])


def _to_csv(lines: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _drop_half_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    content = os.pread(descriptor, size, 0)
    whole = content.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(descriptor, whole)
