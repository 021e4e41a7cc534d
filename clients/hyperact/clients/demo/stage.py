"""What demos need around them: addresses, a service that is ready, an end that is said."""

import socket
import time
from typing import NoReturn

from hyperact.clients.children import Children
from hyperact.clients.connection import Connection
from hyperact.clients.errors import UnavailableError

poll_seconds = 0.1


class DemoError(Exception):
    """A demo that cannot go on, said in a line."""


def free_address() -> str:
    """Return a loopback address that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until_ready(connection: Connection, children: Children, timeout_seconds: float) -> None:
    """Return once the service is ready; DemoError or ChildError if it will not be."""
    deadline = time.monotonic() + timeout_seconds
    problem = "it does not answer"
    while time.monotonic() < deadline:
        children.check()
        try:
            connection.wait_until_reachable(0.5)
            status = connection.get_status()
        except UnavailableError:
            continue
        if status.is_ready:
            return
        problem = status.problem
        time.sleep(poll_seconds)
    raise DemoError(f"the service is not ready after {timeout_seconds:.0f} s: {problem}")


def end_on_signal(number: int, _frame: object) -> NoReturn:
    """End as a process that a signal ended says that it did."""
    raise SystemExit(128 + number)
