"""A server as a process group of its own, held to its core."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from benchmarks.peers.environments import last_line

SERVER_CORE, LOAD_CORE = 0, 1
# More threads than the one core would wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class StartError(Exception):
    """A server did not become ready."""


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def wait_until(self, is_ready: Callable[[], str], seconds: float) -> None:
        """Return once `is_ready` has no complaint.

        Raises:
            StartError: the process ended, or the complaint stayed.
        """
        deadline = time.monotonic() + seconds
        while complaint := is_ready():
            if self.process.poll() is not None:
                self.output.seek(0)
                raise StartError(f"ended: {last_line(self.output.read().decode(errors='replace'))}")
            if time.monotonic() > deadline:
                raise StartError(f"not ready after {seconds:g} s: {complaint}")
            time.sleep(0.25)


@contextmanager
def running(command: list[str], log_file: str | None = None) -> Iterator[Server]:
    """Run a server pinned to its core until the block ends; its whole process group ends with it."""
    with open(log_file, "w+b") if log_file else tempfile.TemporaryFile() as output:  # noqa: PTH123  # either kind
        process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CORE), *command],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **ONE_THREAD},
        )
        try:
            yield Server(process, output)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and the others of its group."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
