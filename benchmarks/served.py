"""`hyperact serve` as a process of its own, watched from outside: its memory, its metrics, its versions."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from hyperact.clients.connection import Connection
from hyperact.clients.errors import UnavailableError

HYPERACT = [sys.executable, "-m", "hyperact.command_line"]
START_SECONDS = 120.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NATURE_LEARNER = {"network": {"torso": "nature", "hidden_sizes": [512]}}
ATARI_SPEC = {"observation": {"dtype": "DATA_TYPE_UINT8", "shape": [4, 84, 84], "minimum": 0, "maximum": 255}}


@dataclass(frozen=True)
class Served:
    """A running service."""

    process: "subprocess.Popen[bytes]"
    address: str
    metrics_address: str
    log_file: Path

    def rss_bytes(self) -> int:
        """Return how much memory is resident."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES

    def cpu_seconds(self) -> float:
        """Return how much processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> dict[str, float]:
        """Return its metrics, a name with its labels each."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as page:
            lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if " # " not in line)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def home(directory: Path | None) -> Iterator[Path]:
    """Give a directory that is kept, or one that is not."""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.resolve()
        return
    with tempfile.TemporaryDirectory() as fresh:
        yield Path(fresh)


@contextmanager
def serving(data_dir: Path, *flags: str, core: int | None = None) -> Iterator[Served]:
    """Run a service on a data directory, pinned to a core if one is given, until the block ends."""
    address, metrics_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [*HYPERACT, "serve", "--data-dir", str(data_dir), "--address", address]
    command += ["--metrics-address", metrics_address, *flags]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    log_file = data_dir / "serve.txt"
    with log_file.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        served = Served(process, address, metrics_address, log_file)
        wait_until_ready(served)
        yield served
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(served: Served) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Connection(served.address, timeout_seconds=2) as connection:
        while time.monotonic() < deadline and served.process.poll() is None:
            try:
                if connection.get_status().is_ready:
                    return
            except UnavailableError:
                pass
            time.sleep(0.1)
    raise SystemExit(served.log_file.read_text())


def make_versions(data_dir: Path, arguments: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Register random-born versions by `hyperact init`, promote the first, and return where their files are.

    Those that an earlier run made in the same directory are taken as they are.
    """
    is_made = (data_dir / "mlflow.db").exists()
    for place, seed in enumerate([] if is_made else seeds):
        command = [*HYPERACT, "init", "--data-dir", str(data_dir), "--seed", str(seed), *arguments]
        command += ["--promote"] if place == 0 else []
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(data_dir / "trainer")  # or the next one would have to go on with this learner
    client = registry_of(data_dir)
    client.set_registered_model_alias("default", "champion", "1")
    return [client.get_model_version_download_uri("default", str(place + 1)) for place in range(len(seeds))]


def registry_of(data_dir: Path) -> MlflowClient:
    uri = f"sqlite:///{data_dir.resolve() / 'mlflow.db'}"
    return MlflowClient(uri, uri)


def nature_arguments(directory: Path) -> list[str]:
    """Return what `hyperact init` needs for Nature's network on stacks of four frames, without an emulator."""
    spec = {**ATARI_SPEC, "action": {"discrete": {"numActions": 3}}, "agentKind": "AGENT_KIND_EPISODIC"}
    spec |= {"indexSchedule": "INDEX_SCHEDULE_EPISODE", "indexDim": 4, "discount": 0.99}
    path = directory / "atari.json"
    path.write_text(json.dumps(spec | {"referenceDistribution": "REFERENCE_DISTRIBUTION_GAUSSIAN"}))
    return ["--spec", str(path), "--learner", json.dumps(NATURE_LEARNER)]
