"""How a step or a report is stored: what it is known by, and the form of its bytes.

Rules:

1. A record is known by its key: the step's digest for a step, the digest followed by the report's id for a report.
2. Its payload is the message as protobuf serialises it. Form PLAIN is just that; form ZSTANDARD is one zstandard frame
   of it (with its content size), used where it saves at least an eighth. Payloads under `min_compressed_bytes` stay
   plain: a vector of a few numbers has nothing to save, an image has most of itself.
3. Kinds and forms are written into files: numbers are added, never changed.
4. Beside it stands a checksum of key and stored bytes: SQLite's own check knows the structure of its pages and not
   their content. It finds damage, not forgery. It stands alone and is not chained to the record before: retention takes
   the oldest away, a power cut may take the newest back, and what is left must still be provable.
"""

import threading
import zlib
from enum import IntEnum
from typing import NamedTuple

import zstandard

from hyperact.v1.decision_pb2 import Report, Step
from hyperact.v1.steps import StepKey, step_digest

min_compressed_bytes = 512
compression_level = 1


class Kind(IntEnum):
    """What a record is."""

    STEP = 0
    REPORT = 1


class Form(IntEnum):
    """What a payload's bytes are."""

    PLAIN = 0
    ZSTANDARD = 1


class Record(NamedTuple):
    """One thing to log, serialised when it was handed over: the caller's message may change afterwards."""

    key: bytes
    model: str
    time_ms: int
    kind: Kind
    is_evaluation: bool
    payload: bytes


def to_record(message: Step | Report) -> Record:
    """Return the record of a step or a report."""
    step_id, time = message.step_id, message.time
    digest = step_digest(StepKey(step_id.model, step_id.session, step_id.run, step_id.episode, step_id.number))
    time_ms = time.seconds * 1000 + time.nanos // 1_000_000
    payload = message.SerializeToString()
    if isinstance(message, Step):
        return Record(digest, step_id.model, time_ms, Kind.STEP, message.evaluation, payload)
    return Record(digest + message.report_id.encode(), step_id.model, time_ms, Kind.REPORT, False, payload)


class _Codec(threading.local):
    """zstandard's objects are not to be shared among threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=compression_level)
        self.decompressor = zstandard.ZstdDecompressor()


_codec = _Codec()


def pack(payload: bytes) -> tuple[Form, bytes]:
    """Return the form in which a payload is stored, and its bytes in that form."""
    num_bytes = len(payload)
    if num_bytes < min_compressed_bytes:
        return Form.PLAIN, payload
    packed = _codec.compressor.compress(payload)
    return (Form.ZSTANDARD, packed) if len(packed) <= num_bytes - num_bytes // 8 else (Form.PLAIN, payload)


def checksum(key: bytes, stored: bytes) -> int:
    """Return the CRC-32 of a record as it is stored."""
    return zlib.crc32(stored, zlib.crc32(key))


def unpack(form: int, stored: bytes) -> bytes:
    """Return the payload; ValueError if the form is of a later release or the bytes are damaged."""
    if form == Form.PLAIN:
        return stored
    if form == Form.ZSTANDARD:
        try:
            return _codec.decompressor.decompress(stored)
        except zstandard.ZstdError as error:
            raise ValueError(f"damaged payload: {error}") from error
    raise ValueError(f"unknown form {form}: it was written by a later release")
