"""One partition of the step log: a SQLite database, written by one process and read by many. Everything here blocks.

Its tables are described in log_schema.py.

Rules:

1. One writer: a lock file beside the database is held (flock) as long as it is open.
2. A group of records is one transaction. A record whose key is there changes nothing; the stored one is returned.
3. Offsets are never used for two records, not even when a power failure takes back records that a reader has seen:
   after an unclean end at a level below `disk` the next offset leaps over all that may have been lost.
4. The write-ahead log is copied back after the commit, every `checkpoint_pages` or so; readers hold it for one batch at
   a time, so it cannot grow without bound.
5. The lock file remembers the partition's id, so that a database that became empty is not taken for a new one.
6. A damaged database is set aside when it is opened (log_damage.py). Opening looks at its header, its tables and its
   size, and at all pages of a small one (`max_checked_bytes`); the rest shows in use, or to `hyperact log verify`.
"""

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hyperact.service.errors import PreconditionError, UnavailableError
from hyperact.service.log_damage import DamageError, is_damage, set_aside
from hyperact.service.log_records import Kind, Record, checksum, pack, unpack
from hyperact.service.log_schema import application_id, bring_up, found_version, schema_version, tables

logger = logging.getLogger(__name__)
lost_offsets = 1 << 24
"""More records than SQLite can hold back between two syncs of its write-ahead log."""
checkpoint_pages = 1000
max_wal_pages = 16384
max_checked_bytes = 64 << 20
removed_at_once = 1024
_page_bytes = 4096
_num_columns = 9
_chunk_sizes = (256, 64, 16, 4, 1)


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
                self._lock = self._take_lock()
                undo.callback(os.close, self._lock)
                self._connection = undo.enter_context(contextlib.closing(self._open_whole()))
                self._inode = self.path.stat().st_ino
                self._remember()
            except (sqlite3.Error, OSError) as error:
                raise UnavailableError(
                    f"cannot open the step log {self.path}: {error}", reason="LOG_NOT_WRITABLE", retry_delay_seconds=1
                ) from error
            self._undo = undo.pop_all()

    def _open_whole(self) -> sqlite3.Connection:
        """Open the database, or a new one in the place of a damaged one."""
        self._known_id = self._recall()
        try:
            return self._open()
        except (DamageError, sqlite3.Error) as error:
            if not is_damage(error):
                raise
            set_aside(self.path, self._known_id, datetime.now(UTC), str(error))
            self._known_id = ""
            return self._open()

    def _open(self) -> sqlite3.Connection:
        self._check_not_emptied()
        self._connection = self._connect()
        try:
            self._prepare()
            self._check_whole()
        except BaseException:
            self._connection.close()
            raise
        return self._connection

    def _take_lock(self) -> int:
        path = self.path.with_suffix(".lock")
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            if not path.exists():
                raise
            lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (os.pread(lock, 32, 0).decode(errors="replace").split() or ["unknown"])[0]
            os.close(lock)
            raise PreconditionError(
                f"the step log {self.path} is in use by process {holder}: stop it, or give this one another data_dir",
                reason="LOG_IN_USE",
            ) from None
        return lock

    def _recall(self) -> str:
        """Return the id of the partition that was here last; empty if there was none."""
        words = os.pread(self._lock, 128, 0).decode(errors="replace").split()
        return words[1] if len(words) > 1 else ""

    def _remember(self) -> None:
        """Write down who holds the partition, and which one it is."""
        with contextlib.suppress(OSError):
            content = f"{os.getpid()}\n{self.id}\n".encode()
            os.pwrite(self._lock, content, 0)
            os.ftruncate(self._lock, len(content))

    def _check_not_emptied(self) -> None:
        """Raise DamageError if there is no content where there was some: SQLite would begin anew without a word."""
        size = self.path.stat().st_size if self.path.exists() else None
        tail = self.path.with_name(self.path.name + "-wal")
        if size == 0 and self._known_id:
            raise DamageError(f"it is empty, and partition {self._known_id} was in it")
        if not size and tail.exists() and tail.stat().st_size:
            raise DamageError("there is a write-ahead log and nothing that it belongs to")
        if size is None and self._known_id:
            logger.error("the step log %s, partition %s, was removed: a new one begins", self.path, self._known_id)

    def _check_whole(self) -> None:
        """Raise DamageError or sqlite3.Error for damage that can be seen at little cost."""
        with self._brief_patience():
            is_busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        num_bytes = self._connection.execute("PRAGMA page_count").fetchone()[0] * _page_bytes
        size = self.path.stat().st_size
        if not is_busy and size < num_bytes:
            raise DamageError(f"it has {size} bytes where {num_bytes} were written")
        if num_bytes <= max_checked_bytes:
            found = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise DamageError(" ".join(found.split()))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            self._check_schema(connection)  # before anything is written into what may be another's
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
        found = found_version(self._connection)
        with self._transaction():
            if found < schema_version:
                bring_up(self._connection, found)
            if found == 0:
                row = (os.urandom(16).hex(), self._worker)
                self._connection.execute("INSERT INTO partition VALUES (?, ?, 1, 1, 1, 0)", row)
            self._read_state()
            self._connection.execute(
                "UPDATE partition SET floor_offset = ?, is_clean = ?, num_dropped = 0",
                (self._next_offset, int(self._syncs_each_commit)),
            )
        if not self._syncs_each_commit:
            self._connection.execute("PRAGMA synchronous = NORMAL")

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Raise DamageError if this is not the database of a step log, or not the one that was here.

        PreconditionError if a later release made it.
        """
        found = found_version(connection)
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        mark = connection.execute("PRAGMA application_id").fetchone()[0]
        if found == 0 and not there and not self._known_id:
            return
        if mark != application_id or not there >= tables:
            raise DamageError("it has not the tables of a step log")
        if found > schema_version:
            raise PreconditionError(
                f"the step log {self.path} has schema {found}, this release knows {schema_version}: use a later one",
                reason="LOG_TOO_NEW",
            )

    def _read_state(self) -> None:
        query = "SELECT id, floor_offset, is_clean, (SELECT max(offset) FROM entries) FROM partition"
        row = self._connection.execute(query).fetchone()
        if row is None:
            raise DamageError("the table partition is empty")
        self.id, floor, is_clean, last = row
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

    @contextlib.contextmanager
    def _brief_patience(self) -> Iterator[None]:
        """Wait only briefly for readers."""
        self._connection.execute("PRAGMA busy_timeout = 200")
        try:
            yield
        finally:
            self._connection.execute("PRAGMA busy_timeout = 5000")

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
        Raises sqlite3.Error or DamageError, and then nothing was written.
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
            rows += (record.is_evaluation, checksum(record.key, stored))
            num_bytes += len(stored)
        with self._transaction():
            for name, number in new_models.items():
                self._connection.execute("INSERT INTO models VALUES (?, ?, 0, 0, 0, 0, 0, 0)", (number, name))
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
        written, begin = 0, 0
        for size in _chunk_sizes:
            while num_rows - begin >= size:
                chunk = values[begin * _num_columns : (begin + size) * _num_columns]
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
                form, stored = self._find_stored(record.key)
                duplicates[index] = unpack(form, stored) if record.kind == Kind.STEP else None
        return duplicates

    def _find_stored(self, key: bytes) -> tuple[int, bytes]:
        """Return the form and bytes stored under a key. Raises DamageError if they are not what was stored."""
        query = "SELECT offset, form, payload, checksum FROM entries WHERE record_key = ?"
        row: tuple[int, int, bytes, int] | None = self._connection.execute(query, (key,)).fetchone()
        if row is None:
            raise DamageError("a key is in the index and not in the table")
        offset, form, stored, expected = row
        if checksum(key, stored) != expected:
            raise DamageError(f"the entry at offset {offset} is not what was written")
        return form, stored

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
            with self._brief_patience():
                self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def remove_oldest(self, end_offset: int, before_ms: int, max_bytes: int) -> int:
        """Remove some of the oldest entries, in one transaction, and return how many.

        Removed are those before `end_offset` that are older than `before_ms`, or (if `max_bytes` is not 0) any while
        the database holds more than so many bytes. Their space is used again; the file does not shrink.
        """
        query = (
            "SELECT offset, time_ms, model, kind, is_evaluation FROM entries WHERE offset < ? ORDER BY offset LIMIT ?"
        )
        num_surplus = self._num_surplus(max_bytes) if max_bytes else 0
        removed: list[tuple[int, int, int, int]] = []
        for offset, time_ms, model, kind, is_evaluation in self._connection.execute(
            query, (end_offset, removed_at_once)
        ):
            if time_ms >= before_ms and len(removed) >= num_surplus:
                break
            removed.append((offset, model, kind, is_evaluation))
        if removed:
            self._remove(removed)
        return len(removed)

    def _num_surplus(self, max_bytes: int) -> int:
        """Return about how many entries are too many for a number of bytes."""
        num_pages, num_free = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        num_surplus_bytes = (num_pages - num_free) * _page_bytes - max_bytes
        if num_surplus_bytes <= 0:
            return 0
        query = "SELECT sum(num_steps + num_reports - num_removed_steps - num_removed_reports) FROM models"
        num_entries: int = self._connection.execute(query).fetchone()[0] or 0
        return int(1 + num_surplus_bytes * num_entries // ((num_pages - num_free) * _page_bytes))

    def _remove(self, removed: Sequence[tuple[int, int, int, int]]) -> None:
        """Remove entries, given as offset, model, kind and is_evaluation, and count them."""
        next_offset = removed[-1][0] + 1
        counts: dict[int, list[int]] = {}
        for _, model, kind, is_evaluation in removed:
            count = counts.setdefault(model, [0, 0, 0])
            count[0] += kind == Kind.STEP
            count[1] += kind == Kind.STEP and not is_evaluation
            count[2] += kind != Kind.STEP
        with self._transaction():
            self._connection.execute("DELETE FROM entries WHERE offset < ?", (next_offset,))
            self._connection.execute(
                "UPDATE partition SET first_offset = ?1, floor_offset = max(floor_offset, ?1)", (next_offset,)
            )
            for model, count in counts.items():
                self._connection.execute(
                    "UPDATE models SET num_removed_steps = num_removed_steps + ?,"
                    " num_removed_training_steps = num_removed_training_steps + ?,"
                    " num_removed_reports = num_removed_reports + ? WHERE number = ?",
                    (*count, model),
                )
        self._pages_since_checkpoint += len(removed)

    def probe(self) -> None:
        """Write about as much as a group of records and take it away again; raises what writing raises."""
        self.check_is_there()
        with self._transaction():
            self._connection.execute("INSERT INTO probe VALUES (randomblob(65536))")
        with self._transaction():
            self._connection.execute("DELETE FROM probe")

    def set_aside(self, reason: str) -> None:
        """Give the database up as damaged, and let it go: opened again, the partition is a new one."""
        set_aside(self.path, self.id, datetime.now(UTC), reason)
        self.id = ""
        self._remember()
        self._undo.close()

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
    row = f"({', '.join('?' * _num_columns)})"
    rows = ", ".join([row] * num_rows)
    return f"INSERT INTO entries VALUES {rows} ON CONFLICT (record_key) DO NOTHING"  # noqa: S608 placeholders only
