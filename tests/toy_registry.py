"""A registry that is really there, and really in trouble: an MLflow server's process, and a wire that can be slowed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import toys

start_seconds = 90.0
_chunk_bytes = 1 << 14
_settings = {
    # Or it starts seven more processes, for jobs that nobody gives it.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


@dataclass
class RegistryServer:
    """An MLflow server of its own process group.

    Attributes:
        database_uri: what it keeps its registry in; whoever opens that needs no server.
        artifacts: where the artefacts lie that it serves.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    database_uri: str
    artifacts: Path

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes: SIGSTOP makes it hang, SIGCONT go on."""
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Stop it."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            self.process.wait(timeout=30)


@contextmanager
def registry_server(directory: Path, port: int = 0) -> Iterator[RegistryServer]:
    """Run an MLflow server on a registry in a directory, which is made if it is not there, until the block ends."""
    if not (directory / "mlflow.db").exists():
        toys.make_registry(directory)
    port = port or free_port()
    database_uri = f"sqlite:///{directory / 'mlflow.db'}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", database_uri),
        *("--artifacts-destination", str(directory / "served")),
    ]
    log = directory / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **_settings},
        )
    server = RegistryServer(process, port, database_uri, directory / "served")
    try:
        _wait_for(server, log)
        yield server
    finally:
        server.end()


def _wait_for(server: RegistryServer, log: Path) -> None:
    import requests

    deadline = time.monotonic() + start_seconds
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{server.uri}/health", timeout=1).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Wire:
    """A TCP proxy to a port, whose answers can be slowed while it runs.

    Attributes:
        delay_seconds: how long each piece of an answer is held back.
        bytes_per_second: how fast answers come; 0: as fast as they can.
        is_cut: whether new connections are closed at once.
        port: where it listens.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_seconds = 0.0
        self.bytes_per_second = 0.0
        self.is_cut = False
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        """Where an MLflow client finds what is behind it."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Take no more connections."""
        self._is_closed = True
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.is_cut:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._target_port))
                except OSError:
                    near.close()
                    continue
                for pair in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            while content := source.recv(_chunk_bytes):
                if is_answer:
                    self._hold_back(len(content))
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)

    def _hold_back(self, num_bytes: int) -> None:
        seconds = self.delay_seconds + (num_bytes / self.bytes_per_second if self.bytes_per_second else 0.0)
        end = time.monotonic() + seconds
        while not self._is_closed and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))


@contextmanager
def slowed(target_port: int) -> Iterator[Wire]:
    """Give a wire to a port until the block ends."""
    wire = Wire(target_port)
    try:
        yield wire
    finally:
        wire.close()
