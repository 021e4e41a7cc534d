"""The server's side of TLS: certificates that are read anew for the connections that come after a change."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from hyperact.service.watched_file import WatchedFiles


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the server's certificate chain and key are, and the authorities that callers' certificates come from.

    `client_ca` None: callers need no certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> Sequence[Path]:
        """All of them."""
        return [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]


def make_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials for a secure port. OSError or ValueError if the files cannot be used.

    With authorities, a connection without a certificate of theirs is not made. The files are looked at once a
    handshake; connections that stand keep what they were made with.
    """
    watched = WatchedFiles("TLS certificate", files.paths, lambda: read_configuration(files))

    def fetch() -> grpc.ServerCertificateConfiguration:
        watched.refresh()
        return watched.content

    return grpc.dynamic_ssl_server_credentials(watched.content, fetch, files.client_ca is not None)


def read_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Read the files. OSError or ValueError if one is missing, or key and certificate do not belong together."""
    _check(files)
    return grpc.ssl_server_certificate_configuration(
        [(files.key.read_bytes(), files.certificate.read_bytes())],
        root_certificates=files.client_ca.read_bytes() if files.client_ca else None,
    )


def _check(files: TlsFiles) -> None:
    """Let Python's own TLS try them, for gRPC would only tell that handshakes fail."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        problem = f"{files.certificate} and {files.key} are not a certificate and its unencrypted key, in PEM"
        raise ValueError(f"{problem}: {error.reason or error}") from None
    if files.client_ca is None:
        return
    try:
        context.load_verify_locations(files.client_ca)
    except ssl.SSLError as error:
        raise ValueError(f"{files.client_ca} holds no certificates in PEM: {error.reason or error}") from None


def _no_password() -> str:
    raise ValueError("the TLS key is encrypted; give it unencrypted, in a file that only the service can read")
