"""One peer and one model: install, start, check, measure, stop."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.catalogue import SERVERS, Case, Peer
from benchmarks.peers.environments import interpreter
from benchmarks.peers.load import Agent, AskError, Found, ask_once, measure
from benchmarks.peers.models import Model
from benchmarks.peers.processes import LOAD_CORE, Server, free_port, running
from benchmarks.peers.questions import FixedAgent, HyperactAgent, HyperactProof, WrongAnswerError

from hyperact.clients.load.agents import LoadAgent
from hyperact.v1.made_up import made_up_observations

READY_SECONDS = 120.0
ANSWER_SECONDS = 10.0


@dataclass
class Subject:
    """A running server of a model, and what its agents say."""

    peer: Peer
    model: Model
    port: int
    num_agents: int = 0

    def measure(self, case: Case, seconds: float) -> Found:
        """Put the load of a case on it."""
        agents = [self._agent(case) for _ in range(case.in_flight)]
        return measure(self.port, agents, self.peer.ways[case.way].connect_for(case), seconds)

    def complaint(self) -> str:
        """Return why it does not yet answer as ONNX Runtime does, or nothing."""
        try:
            ask_once(self.port, self._proof(), self.peer.ways["unary"].connect, ANSWER_SECONDS)
        except (AskError, WrongAnswerError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _proof(self) -> Agent:
        if self.peer.script:
            return self._agent(Case("unary", 1, 1))
        observations = made_up_observations(self.model.spec, 1)
        return HyperactProof(observations[0], self.model.coefficients(observations)[0])

    def _agent(self, case: Case) -> Agent:
        """Return an agent that nobody was before."""
        self.num_agents += 1
        if self.peer.script:
            observations = made_up_observations(self.model.spec, case.num_rows, seed=self.num_agents)
            expected = self.model.coefficients(observations) if self.peer.is_checked else None
            return FixedAgent(self.peer.ways[case.way].language, observations, expected)
        names = [f"peers-{os.getpid()}-{self.num_agents}-{row}" for row in range(case.num_rows)]
        return HyperactAgent(case.way, [LoadAgent(name, "", self.model.spec, seed=hash_of(name)) for name in names])


def hash_of(name: str) -> int:
    """Return a seed for a name, the same in every run."""
    return int.from_bytes(name.encode()[-8:], "big")


@contextmanager
def serving(peer: Peer, model: Model, cache: Path, log_file: str | None) -> Iterator[Subject]:
    """Run a peer until the block ends; it answers rightly when the block begins.

    Raises:
        InstallError, StartError: it cannot be had, or does not answer as it should.
    """
    python, port = interpreter(peer.requirements, cache), free_port()
    with command_of(peer, model, python, port) as command, running(command, log_file) as server, on_load_core():
        subject = Subject(peer, model, port)
        wait(server, subject.complaint)
        yield subject


def wait(server: Server, complaint: Callable[[], str]) -> None:
    """Wait until a server has nothing to complain of."""
    server.wait_until(complaint, READY_SECONDS)


@contextmanager
def command_of(peer: Peer, model: Model, python: Path, port: int) -> Iterator[list[str]]:
    """Make what a server needs and give the command that starts it."""
    if peer.script:
        yield [str(python), str(SERVERS / peer.script), "--graph", str(model.graph), "--port", str(port)]
        return
    with tempfile.TemporaryDirectory() as folder:
        # A copy, for steps are logged: gigabytes of them when observations are frames.
        shutil.copytree(model.data_dir, folder, dirs_exist_ok=True)
        yield [
            *(sys.executable, "-m", "hyperact.command_line", "serve", "--data-dir", folder),
            *("--address", f"127.0.0.1:{port}", "--metrics-address", "127.0.0.1:0", "--durability", "disk"),
        ]


@contextmanager
def on_load_core() -> Iterator[None]:
    """Keep this process on the load generator's core until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE} & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
