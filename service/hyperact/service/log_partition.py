"""One partition of the step log: a SQLite database, written by one process and read by many. Everything here blocks.

The file, schema 1 (`PRAGMA user_version`), `PRAGMA application_id` 0x48594C47:

    partition   one row: id (32 hexadecimal digits, made once), worker, first_offset, floor_offset (the next entry's
                offset is at least this), is_clean (closed properly), num_dropped (since its writer started)
    models      one row a model: number, name, num_steps, num_training_steps, num_reports, kept in the same transaction
    entries     offset, record_key (unique), model (its number), time_ms, kind, form, payload (log_records.py)

Rules:

1. One writer: a lock file beside the database is held (flock) as long as it is open.
2. A group of records is one transaction. A record whose key is there changes nothing; the stored one is returned.
3. Offsets are never used for two records, not even when a power failure takes back records that a reader has seen:
   after an unclean end at a level below `disk` the next offset leaps over all that may have been lost.
4. The write-ahead log is copied back after the commit, every `checkpoint_pages` or so; readers hold it for one batch at
   a time, so it cannot grow without bound.
"""

import contextlib
import fcntl
import functools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hyperact.service.errors import PreconditionError, UnavailableError
from hyperact.service.log_records import Kind, Record, pack, unpack

schema_version = 1
application_id = 0x48594C47
lost_offsets = 1 << 24
"""More records than SQLite can hold back between two syncs of its write-ahead log."""
checkpoint_pages = 1000
max_wal_pages = 16384
_page_bytes = 4096
_chunk_sizes = (256, 64, 16, 4, 1)
_schema = f"""
PRAGMA application_id = {application_id};
PRAGMA user_version = {schema_version};
CREATE TABLE partition (
    id TEXT NOT NULL, worker INTEGER NOT NULL, first_offset INTEGER NOT NULL, floor_offset INTEGER NOT NULL,
    is_clean INTEGER NOT NULL, num_dropped INTEGER NOT NULL
);
CREATE TABLE models (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    num_steps INTEGER NOT NULL, num_training_steps INTEGER NOT NULL, num_reports INTEGER NOT NULL
);
CREATE TABLE entries (
    offset INTEGER PRIMARY KEY, record_key BLOB NOT NULL, model INTEGER NOT NULL, time_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL, form INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_by_key ON entries (record_key);
CREATE INDEX entries_by_model ON entries (model);
CREATE TABLE probe (filler BLOB NOT NULL);
"""


def partition_path(directory: Path, worker: int) -> Path:
    """Return where a worker's database is."""
    return directory / f"steps-{worker}.sqlite"


class Partition:
    """The writer's side of one database."""

    def __init__(self, directory: Path, worker: int, *, syncs_each_commit: bool) -> None:
        """Open or make the database.

        Raises:
            PreconditionError: another process writes it, or a later release made it.
            UnavailableError: it cannot be opened, and why.
        """
        self.path = partition_path(directory, worker)
        self._worker = worker
        self._syncs_each_commit = syncs_each_commit
        self._pages_since_checkpoint = 0
        with contextlib.ExitStack() as undo:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                undo.callback(os.close, self._take_lock())
                self._connection = undo.enter_context(contextlib.closing(self._connect()))
                self._prepare()
                self._inode = self.path.stat().st_ino
            except (sqlite3.Error, OSError) as error:
                raise UnavailableError(f"cannot open the step log {self.path}: {error}") from error
            self._undo = undo.pop_all()

    def _take_lock(self) -> int:
        path = self.path.with_suffix(".lock")
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise PreconditionError(
                f"the step log {self.path} is in use by process {holder}: stop it, or give this one another data_dir",
                reason="LOG_IN_USE",
            ) from None
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return lock

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA cache_size = -65536")
            connection.execute(f"PRAGMA journal_size_limit = {max_wal_pages * _page_bytes}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        """Make or check the schema and mark the partition as in use, synced to the disk; then set the level's sync."""
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found > schema_version:
            raise PreconditionError(
                f"the step log {self.path} has schema {found}, this release knows {schema_version}: use a later one",
                reason="LOG_TOO_NEW",
            )
        with self._transaction():
            if found == 0:
                for statement in _schema.split(";"):
                    self._connection.execute(statement)
                row = (os.urandom(16).hex(), self._worker)
                self._connection.execute("INSERT INTO partition VALUES (?, ?, 1, 1, 1, 0)", row)
            self._read_state()
            self._connection.execute(
                "UPDATE partition SET floor_offset = ?, is_clean = ?, num_dropped = 0",
                (self._next_offset, int(self._syncs_each_commit)),
            )
        if not self._syncs_each_commit:
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def _read_state(self) -> None:
        query = "SELECT id, floor_offset, is_clean, (SELECT max(offset) FROM entries) FROM partition"
        self.id, floor, is_clean, last = self._connection.execute(query).fetchone()
        self._next_offset: int = max(floor, (last or 0) + 1)
        if not is_clean:
            self._next_offset += lost_offsets
        self._models: dict[str, int] = dict(self._connection.execute("SELECT name, number FROM models"))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def check_is_there(self) -> None:
        """Raise OSError if the file was removed or replaced: writes to it would succeed and be lost."""
        if self.path.stat().st_ino != self._inode:
            raise OSError(f"{self.path} was replaced by another file")

    def free_bytes(self) -> int:
        """Return how much an ordinary user may still write on this file system."""
        status = os.statvfs(self.path.parent)
        return status.f_bavail * status.f_frsize

    def write(self, records: Sequence[Record], num_dropped: int) -> list[bytes | None]:
        """Commit the records together, with the count of dropped ones.

        Returns for each None if it was written (or a report that was there before), else the stored step's payload.
        Raises sqlite3.Error, and then nothing was written.
        """
        rows: list[Any] = []
        num_bytes = 0
        new_models: dict[str, int] = {}
        for offset, record in enumerate(records, self._next_offset):
            form, stored = pack(record.payload)
            model = self._models.get(record.model) or new_models.setdefault(
                record.model, len(self._models) + len(new_models) + 1
            )
            rows += (offset, record.key, model, record.time_ms, record.kind, form, stored)
            num_bytes += len(stored)
        with self._transaction():
            for name, number in new_models.items():
                self._connection.execute("INSERT INTO models VALUES (?, ?, 0, 0, 0)", (number, name))
            written = self._insert(rows, len(records))
            duplicates = {} if written == len(records) else self._find_duplicates(records)
            self._count(records, duplicates, num_dropped)
        self._models |= new_models
        self._next_offset += len(records)
        self._pages_since_checkpoint += len(records) + num_bytes // _page_bytes + 4
        return [duplicates.get(index) for index in range(len(records))] if duplicates else [None] * len(records)

    def _insert(self, values: list[Any], num_rows: int) -> int:
        """Insert rows given as one flat list; return how many were new.

        Many rows a statement: SQLite is entered, and Python's lock given up and fought for again, once a statement.
        """
        num_columns, written, begin = 7, 0, 0
        for size in _chunk_sizes:
            while num_rows - begin >= size:
                chunk = values[begin * num_columns : (begin + size) * num_columns]
                written += self._connection.execute(_insert_statement(size), chunk).rowcount
                begin += size
        return written

    def _find_duplicates(self, records: Sequence[Record]) -> dict[int, bytes | None]:
        """Return the stored payload (None for reports) of each record that was there before, by its place."""
        query = "SELECT offset FROM entries WHERE offset >= ?"
        written = {row[0] for row in self._connection.execute(query, (self._next_offset,))}
        duplicates: dict[int, bytes | None] = {}
        for index, record in enumerate(records):
            if self._next_offset + index not in written:
                query = "SELECT form, payload FROM entries WHERE record_key = ?"
                form, stored = self._connection.execute(query, (record.key,)).fetchone()
                duplicates[index] = unpack(form, stored) if record.kind == Kind.STEP else None
        return duplicates

    def _count(self, records: Sequence[Record], duplicates: dict[int, bytes | None], num_dropped: int) -> None:
        counts: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            if index not in duplicates:
                count = counts.setdefault(record.model, [0, 0, 0])
                if record.kind == Kind.STEP:
                    count[0] += 1
                    count[1] += not record.is_evaluation
                else:
                    count[2] += 1
        for model, count in counts.items():
            self._connection.execute(
                "UPDATE models SET num_steps = num_steps + ?, num_training_steps = num_training_steps + ?,"
                " num_reports = num_reports + ? WHERE name = ?",
                (*count, model),
            )
        if num_dropped:
            self._connection.execute("UPDATE partition SET num_dropped = ?", (num_dropped,))

    def checkpoint_if_due(self) -> None:
        """Copy the write-ahead log back if it has grown; wait briefly for readers if it has grown far."""
        if self._pages_since_checkpoint < checkpoint_pages:
            return
        self._pages_since_checkpoint = 0
        _, num_pages, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if num_pages > max_wal_pages:
            self._connection.execute("PRAGMA busy_timeout = 200")
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            self._connection.execute("PRAGMA busy_timeout = 5000")

    def probe(self) -> None:
        """Write about as much as a group of records and take it away again; raises what writing raises."""
        self.check_is_there()
        with self._transaction():
            self._connection.execute("INSERT INTO probe VALUES (randomblob(65536))")
        with self._transaction():
            self._connection.execute("DELETE FROM probe")

    def close(self) -> None:
        """Mark the partition as properly closed, if it can be written, and let it go."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self._connection.execute("PRAGMA synchronous = FULL")
            with self._transaction():
                self._connection.execute(
                    "UPDATE partition SET is_clean = 1, floor_offset = max(floor_offset, ?)", (self._next_offset,)
                )
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._undo.close()


@functools.cache
def _insert_statement(num_rows: int) -> str:
    rows = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * num_rows)
    return f"INSERT INTO entries VALUES {rows} ON CONFLICT (record_key) DO NOTHING"  # noqa: S608 placeholders only
