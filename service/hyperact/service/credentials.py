"""The credentials file: which token and which certificate is whose, and what they may do.

    [callers.robots]
    roles = ["act"]
    tokens = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    certificates = ["robots.example.com", "spiffe://example.com/robots"]
    sessions = ["robot-"]

The rules:

1. The file holds no secret: a token stands in it as its SHA-256. Tokens are random (`hyperact token` makes them), so a
   plain hash is enough; a password would not be safe here.
2. A token is looked up by its hash, which tells nothing of it by its timing, and the hash is compared in constant time.
3. A certificate goes by its subject's alternative names, or, if it has none, by its common name. It was verified
   against `tls_client_ca_file` before anyone looks here. "*" stands for every such certificate.
4. Nothing of the file's values is ever in a message.
"""

import hashlib
import hmac
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hyperact.service.access import Role

any_certificate = "*"
_digest_prefix = "sha256:"
_digest = re.compile(r"sha256:[0-9a-f]{64}")


class DeclaredCaller(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    roles: frozenset[Role] = Field(min_length=1)
    tokens: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    @field_validator("tokens")
    @classmethod
    def _check_tokens(cls, tokens: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_digest.fullmatch(token) for token in tokens):
            raise ValueError('expected "sha256:" and 64 hexadecimal digits each, never the token itself')
        return tokens


class CredentialsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    callers: dict[str, DeclaredCaller] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the file says, ready to be asked."""

    callers: Mapping[str, DeclaredCaller]
    _name_of_digest: Mapping[bytes, tuple[bytes, str]]
    _name_of_certificate: Mapping[str, str]

    @property
    def has_certificates(self) -> bool:
        """Whether a certificate is anybody's."""
        return bool(self._name_of_certificate)

    def find_token(self, token: str) -> str:
        """Return whose a token is; empty if it is nobody's."""
        digest = hashlib.sha256(token.encode()).digest()
        known, name = self._name_of_digest.get(digest, (b"", ""))
        return name if hmac.compare_digest(digest, known) else ""

    def find_certificate(self, names: Iterable[str]) -> str:
        """Return whose a verified certificate is, by its names; empty if it is nobody's."""
        found = next(filter(None, map(self._name_of_certificate.get, names)), None)
        return found or self._name_of_certificate.get(any_certificate, "")


def read_credentials(path: Path) -> Credentials:
    """Return what a credentials file says. ValueError or OSError if it cannot be used; neither shows its values."""
    if path.stat().st_mode & stat.S_IWOTH:
        raise ValueError(f"{path}: everyone may write it; take that permission away")
    try:
        content = CredentialsFile.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError:
        raise ValueError(f"{path}: not TOML") from None
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise ValueError(f"{path}: {'; '.join(problems)}") from None
    digests: dict[bytes, tuple[bytes, str]] = {}
    certificates: dict[str, str] = {}
    for name, caller in content.callers.items():
        for token in caller.tokens:
            digest = bytes.fromhex(token.removeprefix(_digest_prefix))
            if digest in digests:
                raise ValueError(f"{path}: callers.{name}.tokens: one stands there twice")
            digests[digest] = digest, name
        for certificate in caller.certificates:
            if certificate in certificates:
                raise ValueError(f"{path}: callers.{name}.certificates: one stands there twice")
            certificates[certificate] = name
    return Credentials(content.callers, digests, certificates)


def hash_token(token: str) -> str:
    """Return the form in which a token stands in the file."""
    return _digest_prefix + hashlib.sha256(token.encode()).hexdigest()
