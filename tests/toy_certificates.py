"""Authorities and certificates that live for a day, made at test time."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write both into a directory and return where they are."""
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)
        return certificate, key


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "toy authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = make_name(name)

    @cached_property
    def certificate(self) -> bytes:
        """Its own, PEM."""
        builder = make_builder(self._name, self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, common_name: str, *names: str) -> Certificate:
        """Return a certificate; names with a colon are URIs, the others hosts or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = make_builder(make_name(common_name), self._name, key)
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([make_alternative(name) for name in names]), critical=False
            )
        return Certificate(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def issue_for_server(self) -> Certificate:
        """Return a certificate for this machine."""
        return self.issue("server", "localhost", "127.0.0.1")

    def credentials(self, client: Certificate | None = None, token: str = "") -> grpc.ChannelCredentials:
        """Return what a caller connects with who trusts this authority."""
        pair = (client.key, client.certificate) if client else (None, None)
        channel = grpc.ssl_channel_credentials(self.certificate, *pair)
        if not token:
            return channel
        return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(token))


def make_name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def make_alternative(name: str) -> x509.GeneralName:
    if ":" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def make_builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
