"""Where services are: one address, several, or a name that stands for several, as a target of gRPC."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from hyperact.clients.errors import RequestError

Lookup = Callable[..., Sequence[tuple[Any, ...]]]


def to_target(address: str, look_up: Lookup = socket.getaddrinfo) -> str:
    """Return the gRPC target of an address; calls are balanced over all that it stands for.

    One address, or whatever else gRPC understands ("dns:///name:port": all addresses of a name, looked up again when
    they fail), is the target itself. Of several, "HOST:PORT,HOST:PORT", each name is looked up once, now, and stands
    for its first address. RequestError if one is not HOST:PORT or a name is not known.
    """
    if "," not in address:
        return address
    places = [_look_up(part.strip(), look_up) for part in address.split(",")]
    if all(":" not in host for host, _ in places):
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in places)
    return "ipv6:" + ",".join(f"[{_to_ipv6(host)}]:{port}" for host, port in places)


def _look_up(address: str, look_up: Lookup) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise _unknown(f"expected HOST:PORT,HOST:PORT, got {address!r}")
    try:
        found = look_up(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _unknown(f"{address}: {error}") from error
    return str(found[0][4][0]), int(port)


def _unknown(message: str) -> RequestError:
    return RequestError(message, grpc.StatusCode.INVALID_ARGUMENT, field="address")


def _to_ipv6(host: str) -> str:
    """Return an address of either kind as one of version 6, for a target has addresses of one kind."""
    return host if ":" in host else f"::ffff:{ipaddress.IPv4Address(host)}"
