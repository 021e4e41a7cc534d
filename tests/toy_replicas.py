"""Replicas of one service, as processes: each with a log of its own, and one stream, one registry, one pair of keys."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hyperact.clients.connection import Connection
from hyperact.clients.errors import UnavailableError
from toy_nats import NatsCluster, free_ports

start_seconds = 90.0


def write_keys(shared: Path) -> None:
    """Write the keys that all replicas share."""
    for number, name in enumerate(("index", "token")):
        (shared / f"{name}.key").write_text(bytes([number + 1] * 32).hex())


class Replica:
    """One `hyperact serve` with a directory of its own, and keys, registry and stream that it shares.

    Attributes:
        name: its directory's.
        address: where it listens, however often it is started.
    """

    def __init__(self, shared: Path, name: str, broker: NatsCluster, flags: Sequence[str] = ()) -> None:
        (port,) = free_ports(1)
        self.name = name
        self.address = f"127.0.0.1:{port}"
        self._output = shared / f"{name}.txt"
        keys = [f"--{key}-key-file={shared / key}.key" for key in ("index", "token")]
        self._flags = ["serve", "--data-dir", str(shared / name), "--address", self.address, "--metrics-address", ""]
        self._flags += [*keys, "--tracking-uri", f"sqlite:///{shared / 'mlflow.db'}", "--log", broker.url, *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it is ready."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hyperact.command_line", *self._flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        deadline = time.monotonic() + start_seconds
        with Connection(self.address, timeout_seconds=1) as connection:
            while time.monotonic() < deadline:
                try:
                    if connection.get_status().is_ready:
                        return
                except UnavailableError:
                    pass
                time.sleep(0.05)
        raise AssertionError(self._output.read_text())

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal and wait for its end; do nothing if it has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(start_seconds)
            self._process = None
