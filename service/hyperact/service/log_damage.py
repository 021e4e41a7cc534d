"""Databases of the log that are damaged: how they are known, and what becomes of them.

A damaged database is set aside, and its worker goes on with a new partition: serving must not wait for a person, and
what can still be read from the damaged one must not be written over. It keeps its name behind "damaged-", the time and
the partition's id, together with its write-ahead log, so that SQLite's tools can open it. Nothing deletes it but a
person. Files that cannot be opened or read *now* (permissions, an I/O error) are not damaged: those are waited for.
"""

import logging
import sqlite3
from datetime import datetime
from pathlib import Path

logger = logging.getLogger(__name__)
_prefix = "damaged-"
_companions = ("", "-wal", "-shm")
_primary_code = 0xFF
_codes = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DamageError(Exception):
    """A database that is not what was written."""


def is_damage(error: BaseException) -> bool:
    """Tell whether an error means that the database is damaged, and not that it cannot be had now."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(error, DamageError) or (code is not None and code & _primary_code in _codes)


def set_aside(path: Path, partition: str, now: datetime, reason: str) -> Path:
    """Rename a damaged database and its companions, say so, and return its new name."""
    stamp = now.strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{_prefix}{stamp}-{partition or 'unknown'}-{path.name}")
    for suffix in _companions:
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    logger.error(
        "the step log %s is damaged (%s): it was set aside as %s, and a new partition begins. Its steps are in no "
        "reader's log until somebody mends it",
        path,
        reason,
        aside.name,
    )
    return aside


def find_set_aside(directory: Path) -> list[Path]:
    """Return the damaged databases under a directory, the oldest first."""
    names = {path.name for path in directory.glob(f"{_prefix}*")}
    return sorted({directory / name.removesuffix("-wal").removesuffix("-shm") for name in names})


def partition_of(aside: Path) -> str:
    """Return the id of the partition that was set aside; "unknown" if nobody knew it."""
    return aside.name.removeprefix(_prefix).split("-")[1]
