"""The client library against `hyperact serve` as a process: answers, errors, kills and restarts."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

import toys
from hyperact.clients.connection import AsyncConnection, Connection
from hyperact.clients.episode_log import EpisodeLog
from hyperact.clients.errors import (
    AuthenticationError,
    BatchError,
    FencedError,
    PreconditionError,
    RequestError,
    UnavailableError,
)
from hyperact.clients.retries import Retries
from hyperact.clients.session_core import Rows
from hyperact.clients.session_memory import Decision
from hyperact.clients.sessions import AsyncSession, AsyncVectorSession, Session, VectorSession
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.transitions import TransitionAssembler

start_seconds = 60.0
observation = np.array([0.1, -0.2, 0.3], np.float32)


class Served:
    """A service as a process of its own, which can be killed and started again at the same address."""

    def __init__(self, data_dir: Path, log_file: Path) -> None:
        self.data_dir = data_dir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it need not be ready when this returns."""
        flags = ["--data-dir", str(self.data_dir), "--address", self.address, "--metrics-address", ""]
        with self._log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hyperact.command_line", "serve", *flags, "--poll-seconds", "0.1"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def wait_until_ready(self) -> None:
        """Return when it is ready."""
        deadline = time.monotonic() + start_seconds
        with Connection(self.address) as connection:
            while True:
                assert time.monotonic() < deadline, self._log_file.read_text()
                try:
                    if connection.get_status().is_ready:
                        return
                except UnavailableError:
                    pass
                time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal and wait for its end."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(start_seconds)


@contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """Run a service with one version of two actions."""
    tracking_uri = toys.make_registry(directory / "data")
    toys.toy_version(directory / "version")
    toys.register(tracking_uri, directory / "version", alias="champion")
    service = Served(directory / "data", directory / "serve.log")
    service.start()
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.end(signal.SIGKILL)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run one service for the tests that leave it as it is."""
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def connection(service: Served) -> Iterator[Connection]:
    """Connect to it."""
    with Connection(service.address) as opened:
        yield opened


def answered(decisions: list[Decision | None]) -> list[Decision]:
    """Return the decisions of a batch in which every row was answered."""
    assert all(decision is not None for decision in decisions)
    return [decision for decision in decisions if decision is not None]


def logged(connection: Connection, session: str) -> list[StepKey]:
    """Return the ids of a session's steps in the log, duplicates included."""
    return [
        to_key(entry.step.step_id)
        for part in connection.read_log()
        for entry in part.entries
        if entry.HasField("step") and entry.step.step_id.session == session
    ]


class TestSession:
    def test_an_episode_is_played_and_logged_whole(self, connection: Connection) -> None:
        """Every decision is in the log with its outcome, and says who decided."""
        with Session(connection, "whole") as session:
            for number in range(5):
                decision = session.act(observation, want_posterior=number == 0)
                session.observe(float(number), number == 4, False, observation)
                assert (number, "1", 1) == (decision.step_id.number, decision.version, decision.deployment)
                assert decision.action in (0, 1)
                assert 0 < decision.propensity <= 1
                if decision.posterior is not None:
                    assert decision.posterior.probabilities.sum() == pytest.approx(1, abs=1e-5)

        log = EpisodeLog(connection, "default")
        log.refresh()
        (episode,) = [episode for episode in log.episodes if episode.session == "whole"]
        assert (10.0, 5, "1", 1) == (episode.episode_return, episode.num_steps, episode.version, episode.deployment)

    def test_the_next_episode_follows_by_itself(self, connection: Connection) -> None:
        """The outcome that ends one travels with the first observation of the next."""
        with Session(connection, "next") as session:
            places = []
            for number in range(6):
                step = session.act(observation).step_id
                places.append((step.episode, step.number))
                session.observe(0.0, number % 3 == 2, False)

        assert [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] == places

    def test_a_reward_may_come_later(self, connection: Connection) -> None:
        """By its step's id."""
        with Session(connection, "late") as session:
            first = session.act(observation).step_id
            session.act(observation)
            assert first == session.report(2.5, step_id=first)

        assembler = TransitionAssembler(toys.toy_spec())
        found = [one for part in connection.read_log() for one in assembler.push(part.entries).transitions]
        assert [2.5] == [one.reward for one in found if one.key == first]

    def test_evaluation_is_logged_and_not_learned_from(self, connection: Connection) -> None:
        """The log can tell."""
        with Session(connection, "judge", evaluation=True) as session:
            session.act(observation)
            session.observe(1.0, True, False)

        log = EpisodeLog(connection, "default")
        log.refresh()
        assert [True] == [episode.is_evaluation for episode in log.episodes if episode.session == "judge"]

    async def test_asyncio_is_the_same(self, service: Served, connection: Connection) -> None:
        """As the blocking one."""
        async with AsyncConnection(service.address) as opened, AsyncSession(opened, "async") as session:
            for number in range(3):
                decision = await session.act(observation)
                session.observe(1.0, number == 2, False)
            assert (await opened.get_spec()).version == decision.version

        assert [0, 1, 2] == [step.number for step in logged(connection, "async")]


class TestWhoIsAtFault:
    def test_a_wrong_observation_names_its_field(self, connection: Connection) -> None:
        """The agent's own fault; nothing is logged and the session can go on."""
        session = Session(connection, "wrong-shape")

        with pytest.raises(RequestError) as raised:
            session.act(np.zeros(4, np.float32))

        assert ("observation.shape", "WRONG_SHAPE") == (raised.value.field, raised.value.reason)
        assert [] == logged(connection, "wrong-shape")
        assert session.act(observation).step_id.number == 0

    def test_an_unknown_model(self, connection: Connection) -> None:
        """Named."""
        with pytest.raises(RequestError) as raised:
            Session(connection, "lost", model="no-such-model").act(observation)

        assert raised.value.code == grpc.StatusCode.NOT_FOUND

    def test_a_restarted_agent_fences_its_old_self(self, connection: Connection) -> None:
        """The old process must stop, and is told why."""
        old, new = (Session(connection, "fenced", run=run) for run in ("run-1", "run-2"))
        old.act(observation)
        new.act(observation)

        with pytest.raises(FencedError, match="run"):
            old.act(observation)

    def test_a_forged_token(self, connection: Connection) -> None:
        """Neither believed nor logged."""
        session = Session(connection, "forger")
        session.act(observation)
        session.memory._token = session.memory._token[:-1] + bytes([session.memory._token[-1] ^ 1])

        with pytest.raises(AuthenticationError):
            session.act(observation)

    def test_another_observation_for_the_same_step(self, connection: Connection) -> None:
        """A step was decided once, for what was seen then."""
        first, second = (Session(connection, "twice", run="run-1") for _ in range(2))
        first.act(observation)

        with pytest.raises(PreconditionError):
            second.act(observation + 1)

    def test_giving_up_leaves_nothing_behind(self) -> None:
        """No thread goes on to look for the service, to complain once its connection is closed."""
        before = set(threading.enumerate())

        with Connection("127.0.0.1:9") as connection:
            with pytest.raises(UnavailableError):
                connection.wait_until_reachable(0.05)

            assert set(threading.enumerate()) <= before

    def test_nobody_there(self) -> None:
        """One line says where we looked, soon."""
        with Connection("127.0.0.1:1") as nowhere, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 within"):
            nowhere.wait_until_reachable(0.2)


class TestVectorSession:
    @pytest.mark.parametrize("stream", [False, True])
    def test_rows_act_together(self, connection: Connection, stream: bool) -> None:
        """By single batches or on one stream, with the same result."""
        names = [f"row-{stream}-{row}" for row in range(5)]
        with VectorSession(connection, names, stream=stream, max_batch=3) as sessions:
            for number in range(4):
                decisions = answered(sessions.act(np.tile(observation, (5, 1))))
                assert [(name, number) for name in names] == [
                    (decision.step_id.session, decision.step_id.number) for decision in decisions
                ]
                for row in range(5):
                    sessions.observe(row, 1.0, number == 3, False)

        log = EpisodeLog(connection, "default")
        log.refresh()
        assert [4.0] * 5 == [episode.episode_return for episode in log.episodes if episode.session in names]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_rows_act_together_in_asyncio(self, service: Served, connection: Connection, stream: bool) -> None:
        """As blocking ones do."""
        names = [f"async-row-{stream}-{row}" for row in range(3)]
        async with (
            AsyncConnection(service.address) as opened,
            AsyncVectorSession(opened, names, stream=stream) as sessions,
        ):
            for _ in range(3):
                answered(await sessions.act([observation] * 3))
                for row in range(3):
                    sessions.observe(row, 0.5, False, False)

        assert [[0, 1, 2]] * 3 == [[step.number for step in logged(connection, name)] for name in names]

    def test_one_bad_row_leaves_the_others_unharmed(self, connection: Connection) -> None:
        """Its error says what was wrong with it alone."""
        with VectorSession(connection, ["good", "bad", "fine"]) as sessions:
            rows: Rows = [observation, np.zeros(7, np.float32), observation]

            with pytest.raises(BatchError) as raised:
                sessions.act(rows)

            assert [1] == list(raised.value.errors)
            assert "observation.shape" == raised.value.errors[1].field
            assert [0, None, 0] == [None if one is None else one.step_id.number for one in raised.value.decisions]


class TestKills:
    @pytest.mark.parametrize("stream", [False, True])
    def test_sessions_go_on_after_the_service_was_killed(self, tmp_path: Path, stream: bool) -> None:
        """No step is lost, none is in the log twice, and the agents notice nothing but a delay."""
        names = [f"survivor-{row}" for row in range(4)]
        with serving(tmp_path) as service, Connection(service.address) as connection:
            retries = Retries(deadline_seconds=start_seconds)
            with VectorSession(connection, names, stream=stream, retries=retries) as sessions:
                acknowledged = []
                for number in range(12):
                    if number in (4, 8):
                        service.end(signal.SIGKILL)
                        service.start()
                    decisions = answered(sessions.act([observation] * 4))
                    acknowledged += [decision.step_id for decision in decisions]
                    for row in range(4):
                        sessions.observe(row, 1.0, number == 11, False)

            in_log = [step for name in names for step in logged(connection, name)]
            log = EpisodeLog(connection, "default")
            log.refresh()

        assert sorted(acknowledged) == sorted(in_log)
        assert [(12.0, 12)] * 4 == [(episode.episode_return, episode.num_steps) for episode in log.episodes]
