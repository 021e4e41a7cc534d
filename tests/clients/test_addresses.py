import socket
from typing import Any

import pytest

from hyperact.clients.addresses import to_target
from hyperact.clients.errors import RequestError


def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
    """Know two names, of which one has an address of version 6."""
    known = {"one": "10.0.0.1", "six": "fd00::6"}
    found = known.get(host, host)
    if not any(character.isdigit() for character in found):
        raise socket.gaierror(f"{host} is not known")
    return [(None, None, None, "", (found, port))]


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "dns:///replicas:50051", "unix:/run/hyperact"])
def test_one_address_is_left_to_grpc(address: str) -> None:
    """It has resolvers of its own, also for names with many addresses."""
    assert address == to_target(address, look_up)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("one:1, 127.0.0.2:2", "ipv4:10.0.0.1:1,127.0.0.2:2"),
        ("[::1]:1,six:2", "ipv6:[::1]:1,[fd00::6]:2"),
        ("one:1,six:2", "ipv6:[::ffff:10.0.0.1]:1,[fd00::6]:2"),
    ],
)
def test_several_addresses_are_one_target(address: str, target: str) -> None:
    """Addresses of both kinds and names together, for a channel to balance over."""
    assert target == to_target(address, look_up)


@pytest.mark.parametrize("address", ["127.0.0.1:1,", "127.0.0.1:1,127.0.0.2", ":1,127.0.0.1:1", "127.0.0.1:1,a:b"])
def test_what_is_no_address_is_said(address: str) -> None:
    """Which of them it is, and what was expected."""
    with pytest.raises(RequestError, match="expected HOST:PORT"):
        to_target(address, look_up)


def test_a_name_that_nobody_knows_is_said() -> None:
    """At once: a replica that is never found is worse than an error."""
    with pytest.raises(RequestError, match="nowhere"):
        to_target("one:1,nowhere:2", look_up)
