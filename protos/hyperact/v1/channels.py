"""How a client connects and says who it is: the settings that every command with an address has, and their channels.

The rules:

1. A token travels only over TLS.
2. A token in a file is read anew when the file changes, so it can be replaced while a client runs. Certificates are
   read when the channel is made.
3. A secret is never in a message.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
from pydantic import BaseModel, Field, SecretStr, model_validator

from hyperact.v1.errors import ConnectionSettingsError


class ConnectionSettings(BaseModel):
    """How to connect to a service."""

    tls: bool = Field(
        default=False, description="Whether to connect with TLS; every other setting of TLS and tokens switches it on."
    )
    tls_ca_file: Path | None = Field(
        default=None, description="The authorities of the service's certificate, PEM; unset: gRPC's own list."
    )
    client_certificate_file: Path | None = Field(
        default=None, description="The certificate chain that says who we are, PEM, for mTLS."
    )
    client_key_file: Path | None = Field(default=None, description="That certificate's key, PEM, unencrypted.")
    api_token: SecretStr = Field(
        default=SecretStr(""), description="The token that says who we are; best by HYPERACT_API_TOKEN. Over the file."
    )
    api_token_file: Path | None = Field(default=None, description="A file with the token, read anew when it changes.")

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.client_certificate_file is None) != (self.client_key_file is None):
            raise ValueError("client_certificate_file and client_key_file: give both or none")
        return self

    def to_environment(self) -> dict[str, str]:
        """Return the variables that give a child process the same connection; the token is among them."""
        values = {name: getattr(self, name) for name in ConnectionSettings.model_fields}
        values |= {"api_token": self.api_token.get_secret_value(), "tls": "true" if self.tls else ""}
        return {f"HYPERACT_{name.upper()}": str(value) for name, value in values.items() if value}

    @property
    def is_secure(self) -> bool:
        """Whether the connection is encrypted."""
        files = (self.tls_ca_file, self.client_certificate_file, self.api_token_file)
        return self.tls or bool(self.api_token.get_secret_value()) or any(file is not None for file in files)


def channel_credentials(settings: ConnectionSettings) -> grpc.ChannelCredentials | None:
    """Return what a channel is made with; None for one without TLS. ConnectionSettingsError if a file is of no use."""
    if not settings.is_secure:
        return None
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.tls_ca_file),
        private_key=_read(settings.client_key_file),
        certificate_chain=_read(settings.client_certificate_file),
    )
    find_token = _token_finder(settings)
    if find_token is None:
        return credentials
    return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(_Bearer(find_token)))


def open_channel(address: str, settings: ConnectionSettings, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
    """Return a channel. ConnectionSettingsError if a file is of no use."""
    credentials = channel_credentials(settings)
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def open_aio_channel(
    address: str, settings: ConnectionSettings, options: Sequence[tuple[str, Any]] = ()
) -> grpc.aio.Channel:
    """As open_channel, for asyncio."""
    credentials = channel_credentials(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


class _Bearer(grpc.AuthMetadataPlugin):
    """Adds the token to each call. gRPC lets it near connections with TLS only."""

    def __init__(self, find_token: Callable[[], str]) -> None:
        self._find_token = find_token

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """Hand over the metadata of one call."""
        try:
            metadata = (("authorization", f"Bearer {self._find_token()}"),)
        except ConnectionSettingsError as error:
            callback((), error)
        else:
            callback(metadata, None)


def _token_finder(settings: ConnectionSettings) -> Callable[[], str] | None:
    given = settings.api_token.get_secret_value().strip()
    if given:
        return lambda: given
    if settings.api_token_file is None:
        return None
    file = _TokenFile(settings.api_token_file)
    file.token()
    return file.token


class _TokenFile:
    """A token in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def token(self) -> str:
        """Return the token that the file holds now."""
        try:
            found = self._path.stat()
            stamp = found.st_mtime_ns, found.st_size, found.st_ino
            if stamp != self._stamp:
                self._token, self._stamp = self._path.read_text().strip(), stamp
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(self._path, error) from None
        if not self._token.isascii() or not self._token.isprintable() or not self._token:
            raise ConnectionSettingsError(f"{self._path}: expected one line with a token")
        return self._token


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path | None, error: Exception) -> ConnectionSettingsError:
    return ConnectionSettingsError(f"{path}: {getattr(error, 'strerror', None) or type(error).__name__}")
