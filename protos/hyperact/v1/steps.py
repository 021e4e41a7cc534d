"""Names of steps, and the rules for the names that clients choose.

A step is named by (model, session, run, episode, number). Its text form joins the five by "/", with "/", "%" and
anything outside printable ASCII percent-encoded, so that every name has one text and every text one name.
"""

import hashlib
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from hyperact.v1.decision_pb2 import StepId
from hyperact.v1.errors import FieldError

max_session_bytes = 256
max_report_id_length = 64
_run_pattern = re.compile(r"[0-9A-Za-z_.\-]{1,64}")
_control_character = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_max_number = 2**64 - 1
_num_parts = 5


class StepKey(NamedTuple):
    """A step's name, as a value that can be hashed, compared and sorted."""

    model: str
    session: str
    run: str
    episode: int
    number: int

    def to_message(self) -> StepId:
        """Return the wire form."""
        return StepId(model=self.model, session=self.session, run=self.run, episode=self.episode, number=self.number)

    def __str__(self) -> str:
        """Return the text form."""
        return "/".join(quote(str(part), safe=" !\"#$&'()*+,:;<=>?@[\\]^`{|}~") for part in self)


class RunNames:
    """What the names of the steps of one run have in common, encoded once."""

    __slots__ = ("_head", "_ids")

    def __init__(self, model: str, session: str, run: str) -> None:
        self._head = StepId(model=model, session=session, run=run).SerializeToString()
        self._ids = encode_ids(model, session, run)

    def message(self, episode: int, number: int) -> bytes:
        """Return the serialised StepId of a step."""
        return self._head + _place_in_run(episode, number)

    def digest(self, episode: int, number: int) -> bytes:
        """Return `step_digest` of a step."""
        return _digest(self._ids + episode.to_bytes(8, "little") + number.to_bytes(8, "little"))


@lru_cache(maxsize=4096)
def _place_in_run(episode: int, number: int) -> bytes:
    """Return the last two fields of a serialised StepId. Sessions that began together ask for the same ones."""
    return StepId(episode=episode, number=number).SerializeToString()


def to_key(step_id: StepId) -> StepKey:
    """Return the value form of a step's name."""
    return StepKey(step_id.model, step_id.session, step_id.run, step_id.episode, step_id.number)


def parse_step_id(text: str) -> StepKey:
    """Return the step that a text form names; FieldError if it is not one."""
    parts = text.split("/")
    problem = FieldError("step_id", f"expected model/session/run/episode/number, got {text[:200]!r}")
    if len(parts) != _num_parts:
        raise problem
    try:
        model, session, run = (unquote(part, errors="strict") for part in parts[:3])
        key = StepKey(model, session, run, int(parts[3]), int(parts[4]))
    except ValueError:
        raise problem from None
    # Only the text that the name itself would have: no second spelling of a number or of a letter.
    if str(key) != text or not all(0 <= number <= _max_number for number in key[3:]):
        raise problem
    return key


def encode_ids(*ids: str | int) -> bytes:
    """Return an unambiguous encoding of ids, the input of every hash here.

    Text: its length in UTF-8 bytes (4 bytes, little-endian), then the bytes. Integer: 8 bytes, little-endian.
    """
    parts = []
    for part in ids:
        if isinstance(part, str):
            text = part.encode()
            parts.append(len(text).to_bytes(4, "little") + text)
        else:
            parts.append(part.to_bytes(8, "little"))
    return b"".join(parts)


def step_digest(key: StepKey) -> bytes:
    """Return 16 bytes that stand for the step's name (BLAKE2b, person "hyperact.step.id")."""
    return _digest(encode_ids(*key))


def _digest(ids: bytes) -> bytes:
    return hashlib.blake2b(ids, digest_size=16, person=b"hyperact.step.id").digest()


def check_session(session: str) -> None:
    """Raise FieldError unless `session` is 1 to 256 bytes of UTF-8 without control characters."""
    if session.isascii() and session.isprintable() and 1 <= len(session) <= max_session_bytes:
        return  # the usual case, told without a search
    num_bytes = len(session.encode())
    if not 1 <= num_bytes <= max_session_bytes:
        raise FieldError("session", f"expected 1 to {max_session_bytes} bytes, got {num_bytes}", "BAD_NAME")
    if _control_character.search(session):
        raise FieldError("session", "expected no control characters", "BAD_NAME")


def check_run(run: str) -> None:
    """Raise FieldError unless `run` is 1 to 64 characters of [0-9A-Za-z_.-]."""
    if not _run_pattern.fullmatch(run):
        raise FieldError("run", f"expected 1 to 64 characters of [0-9A-Za-z_.-], got {run[:80]!r}", "BAD_NAME")


def make_run(milliseconds: int, entropy: bytes) -> str:
    """Return a run id that sorts by time: 12 hexadecimal digits of Unix milliseconds, then the entropy's."""
    return f"{milliseconds:012x}{entropy.hex()}"
