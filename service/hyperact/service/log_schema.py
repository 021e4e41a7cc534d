"""The layout of a partition's database, how it is made, and how an older one is brought up to it.

Schema 2 (`PRAGMA user_version`), `PRAGMA application_id` 0x48594C47:

    partition   one row: id (32 hexadecimal digits, made once), worker, first_offset (retention took what was before),
                floor_offset (the next entry's offset is at least this), is_clean (closed properly), num_dropped (since
                its writer started)
    models      one row a model: number, name, and counts that are kept in the same transaction: num_steps,
                num_training_steps, num_reports of all that was ever written, num_removed_… of what retention took
    entries     offset, record_key (unique), model (its number), time_ms, kind, is_evaluation, form, payload, checksum
                (log_records.py)
    probe       always empty
"""

import sqlite3

from hyperact.service.log_records import Kind, checksum, unpack
from hyperact.v1.decision_pb2 import Step

schema_version = 2
application_id = 0x48594C47
tables = frozenset({"partition", "models", "entries", "probe"})
_create = f"""
PRAGMA application_id = {application_id};
CREATE TABLE partition (
    id TEXT NOT NULL, worker INTEGER NOT NULL, first_offset INTEGER NOT NULL, floor_offset INTEGER NOT NULL,
    is_clean INTEGER NOT NULL, num_dropped INTEGER NOT NULL
);
CREATE TABLE models (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    num_steps INTEGER NOT NULL, num_training_steps INTEGER NOT NULL, num_reports INTEGER NOT NULL,
    num_removed_steps INTEGER NOT NULL DEFAULT 0, num_removed_training_steps INTEGER NOT NULL DEFAULT 0,
    num_removed_reports INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE entries (
    offset INTEGER PRIMARY KEY, record_key BLOB NOT NULL, model INTEGER NOT NULL, time_ms INTEGER NOT NULL,
    kind INTEGER NOT NULL, form INTEGER NOT NULL, payload BLOB NOT NULL,
    is_evaluation INTEGER NOT NULL DEFAULT 0, checksum INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX entries_by_key ON entries (record_key);
CREATE INDEX entries_by_model ON entries (model);
CREATE TABLE probe (filler BLOB NOT NULL);
"""
_upgrade_from_1 = """
ALTER TABLE models ADD COLUMN num_removed_steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN num_removed_training_steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN num_removed_reports INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entries ADD COLUMN is_evaluation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entries ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;
UPDATE entries SET is_evaluation = is_evaluation(kind, form, payload), checksum = checksum(record_key, payload);
"""


def found_version(connection: sqlite3.Connection) -> int:
    """Return the schema of a database; 0 if it has none yet."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def bring_up(connection: sqlite3.Connection, found: int) -> None:
    """Make the tables or bring those of an older release up to this schema, inside of the caller's transaction."""
    connection.create_function("is_evaluation", 3, _is_evaluation, deterministic=True)
    connection.create_function("checksum", 2, checksum, deterministic=True)
    for statement in (_create if found == 0 else _upgrade_from_1).split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {schema_version}")


def _is_evaluation(kind: int, form: int, stored: bytes) -> bool:
    return kind == Kind.STEP and Step.FromString(unpack(form, stored)).evaluation
