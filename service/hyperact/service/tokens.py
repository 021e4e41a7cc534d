"""Session tokens: where a session stands, signed, so that a client can carry it and any replica can trust it.

A token is a serialized hyperact.v1.SessionState followed by 16 bytes: its BLAKE2b under the token key, person
"hyperact.token.1". Pure: the key is an argument.
"""

import hashlib
import hmac

from google.protobuf.message import DecodeError

from hyperact.service.errors import InvalidRequestError, UnauthenticatedError
from hyperact.v1.decision_pb2 import SessionState

mac_bytes = 16
max_token_bytes = 4096
_person = b"hyperact.token.1"


def sign(key: bytes, state: SessionState) -> bytes:
    """Return the token of a state."""
    return seal(key, state.SerializeToString())


def seal(key: bytes, content: bytes) -> bytes:
    """Return the token of a state that is serialised."""
    return content + _mac(key, content)


def verify(key: bytes, token: bytes, *, model: str, session: str) -> SessionState:
    """Return the state that a token carries.

    Raises:
        UnauthenticatedError: this service's key did not sign it.
        InvalidRequestError: it is of another session or model.
    """
    if len(token) > max_token_bytes:
        raise UnauthenticatedError(f"token: expected at most {max_token_bytes} bytes, got {len(token)}", field="token")
    content, mac = token[:-mac_bytes], token[-mac_bytes:]
    if not hmac.compare_digest(mac, _mac(key, content)):
        raise UnauthenticatedError("token: not signed by this service's key", field="token")
    state = _parse(content)
    for name, found, expected in (("session", state.session, session), ("model", state.model, model)):
        if found != expected:
            message = f"token: it is of {name} {found[:80]!r}, the request of {expected[:80]!r}"
            raise InvalidRequestError(message, reason="WRONG_TOKEN", field="token")
    return state


def _parse(content: bytes) -> SessionState:
    try:
        return SessionState.FromString(content)
    except DecodeError:
        raise UnauthenticatedError("token: signed, but not a session's state", field="token") from None


def _mac(key: bytes, content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=mac_bytes, key=key, person=_person).digest()
