"""One partition of the step log, read-only: what readers, the check and the export see of a database.

Damage is told as UnavailableError with reason LOG_DAMAGED and the file's name; what cannot be read now likewise with
LOG_NOT_READABLE.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from google.protobuf.message import DecodeError

from hyperact.service.errors import UnavailableError
from hyperact.service.log_damage import DamageError, is_damage
from hyperact.service.log_records import Kind, checksum, unpack
from hyperact.service.log_schema import application_id, found_version, schema_version
from hyperact.v1.log_pb2 import LogEntry

_rows_at_once = 64
_columns = "offset, record_key, model, time_ms, kind, form, payload, is_evaluation, checksum"
_query_all = f"SELECT {_columns} FROM entries WHERE offset >= ? ORDER BY offset"  # noqa: S608 a constant
_query_of_model = (
    f"SELECT {_columns} FROM entries WHERE offset >= ?"  # noqa: S608 a constant
    " AND model = (SELECT number FROM models WHERE name = ?) ORDER BY offset"
)


class Extent(NamedTuple):
    """Where a partition begins and ends: offsets, the end excluded."""

    begin: int
    end: int


class Counts(NamedTuple):
    """Steps, steps to learn from, and reports."""

    num_steps: int
    num_training_steps: int
    num_reports: int

    def plus(self, other: "Counts") -> "Counts":
        """Return the sums."""
        return Counts(*(one + two for one, two in zip(self, other, strict=True)))


class Row(NamedTuple):
    """One entry as it is stored; see log_schema.py."""

    offset: int
    record_key: bytes
    model: int
    time_ms: int
    kind: int
    form: int
    stored: bytes
    is_evaluation: int
    checksum: int

    def payload(self) -> bytes:
        """Return the serialised message. Raises DamageError if it is not what was written."""
        if checksum(self.record_key, self.stored) != self.checksum:
            raise DamageError("its bytes are not those that were written")
        try:
            return unpack(self.form, self.stored)
        except ValueError as error:
            raise DamageError(str(error)) from error

    def parse_into(self, entry: LogEntry) -> int:
        """Fill in the message and return its size in bytes. Raises DamageError if it is not what was written."""
        payload = self.payload()
        try:
            (entry.step if self.kind == Kind.STEP else entry.report).ParseFromString(payload)
        except DecodeError as error:
            raise DamageError(f"it cannot be decoded: {error}") from error
        return len(payload)


class PartitionReader:
    """One read-only connection to one partition. Used by one thread at a time.

    Attributes:
        path: its database.
        id: the partition's id; empty for a database that its worker is just making.
    """

    def __init__(self, path: Path) -> None:
        """Open the database. Raises UnavailableError, and sqlite3.Error if it is no database."""
        self.path = path
        self._connection = _connect(path)
        try:
            self._inode = path.stat().st_ino
            found = found_version(self._connection)
            if found > schema_version:
                raise UnavailableError(f"{path} has schema {found}; this release knows {schema_version}")
            self.id = self._read_id() if found else ""
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """Return a reader, or None for a database that its worker is just making. Raises UnavailableError."""
        with _telling(path):
            reader = cls(path)
        if reader.id:
            return reader
        reader.close()
        return None

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def is_current(self) -> bool:
        """Tell whether the file is still the one under its name: damaged ones are set aside while they are read."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _read_id(self) -> str:
        row: tuple[str] | None = self._connection.execute("SELECT id FROM partition").fetchone()
        if row is None:
            raise DamageError("the table partition is empty")
        return row[0]

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Hold one view of the partition for the statements inside."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def extent(self) -> Extent:
        """Return where the partition begins and ends."""
        query = "SELECT first_offset, floor_offset, (SELECT max(offset) FROM entries) FROM partition"
        with _telling(self.path):
            begin, floor, last = self._connection.execute(query).fetchone()
        return Extent(begin, max(floor, (last or 0) + 1))

    def rows(self, begin: int, model: str = "") -> Iterator[Row]:
        """Yield entries from an offset on, in order, of one model or of all."""
        with _telling(self.path):
            if model:
                cursor = self._connection.execute(_query_of_model, (begin, model))
            else:
                cursor = self._connection.execute(_query_all, (begin,))
            with contextlib.closing(cursor):
                while rows := cursor.fetchmany(_rows_at_once):
                    yield from map(Row._make, rows)

    def find(self, record_key: bytes) -> Row | None:
        """Return the entry that is known by a key."""
        query = f"SELECT {_columns} FROM entries WHERE record_key = ?"  # noqa: S608 a constant
        with _telling(self.path):
            row = self._connection.execute(query, (record_key,)).fetchone()
        return Row._make(row) if row else None

    def models(self) -> dict[int, str]:
        """Return the models' names by their numbers."""
        return dict(self._connection.execute("SELECT number, name FROM models"))

    def written(self, model: str = "") -> Counts:
        """Return how much of one model or of all was ever written."""
        return self._sum("num_steps, num_training_steps, num_reports", model)

    def removed(self, model: str = "") -> Counts:
        """Return how much of one model or of all retention took."""
        return self._sum("num_removed_steps, num_removed_training_steps, num_removed_reports", model)

    def num_dropped(self) -> int:
        """Return how many records its writer lost, as far as it could write that down."""
        count: int = self._connection.execute("SELECT num_dropped FROM partition").fetchone()[0]
        return count

    def check_pages(self, max_faults: int) -> list[str]:
        """Return what SQLite finds wrong with the database's pages and indices; empty if nothing."""
        if self._connection.execute("PRAGMA application_id").fetchone()[0] != application_id:
            return ["the file is not marked as a step log's"]
        found = [row[0] for row in self._connection.execute(f"PRAGMA integrity_check({max_faults})")]
        return [] if found == ["ok"] else [" ".join(line.split()) for line in found]

    def _sum(self, columns: str, model: str) -> Counts:
        query = f"SELECT {columns} FROM models WHERE ? IN ('', name)"  # noqa: S608 constants
        with _telling(self.path):
            counts = self._connection.execute(query, (model,)).fetchall()
        return Counts(*(sum(count[place] for count in counts) for place in range(3)))


def _connect(path: Path) -> sqlite3.Connection:
    """Connect without writing; a closed database in a directory that cannot be written is taken as it lies."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=2.0, isolation_level=None, check_same_thread=False)
        try:
            found_version(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError:
        tail = path.with_name(path.name + "-wal")
        if not path.exists() or tail.exists():
            raise
        uri += "&immutable=1"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    return connection


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn what SQLite says into an error that names the file."""
    try:
        yield
    except (sqlite3.Error, DamageError) as error:
        told = f"the step log cannot be read: {path.name}: {error}"
        if is_damage(error):
            raise UnavailableError(
                f"{told}; `hyperact log verify` tells what is wrong with it", reason="LOG_DAMAGED"
            ) from error
        raise UnavailableError(told, reason="LOG_NOT_READABLE") from error
