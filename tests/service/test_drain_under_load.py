"""A rolling update under load: one of two replicas gets SIGTERM while sessions play through both."""

import signal
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from hyperact.clients.connection import Connection
from hyperact.clients.retries import Retries
from hyperact.clients.sessions import VectorSession
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.log_pb2 import ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub
from hyperact.v1.steps import StepKey, to_key
from toy_replicas import write_keys
from toy_serve import serve
from toy_worker import registry_with_version

num_players, num_rows, num_episodes, num_steps = 4, 8, 6, 10
observation = np.array([0.1, -0.2, 0.3], np.float32)


class Player(threading.Thread):
    """Plays episodes with some sessions through both replicas; keeps what was acknowledged, and what went wrong."""

    def __init__(self, addresses: list[str], name: str, first: threading.Barrier) -> None:
        super().__init__(name=name)
        self.acknowledged: dict[StepKey, int] = {}
        self.error: Exception | None = None
        self._addresses = addresses
        self._first = first

    def run(self) -> None:
        """Play; the first episode is over when the barrier falls."""
        try:
            names = [f"{self.name}-{row}" for row in range(num_rows)]
            with (
                Connection(",".join(self._addresses), timeout_seconds=60) as connection,
                VectorSession(connection, names, retries=Retries(deadline_seconds=60)) as sessions,
            ):
                for episode in range(num_episodes):
                    self._play_episode(sessions)
                    if episode == 0:
                        self._first.wait(120)
        except Exception as error:  # noqa: BLE001 it is raised where the player is waited for
            self.error = error
            self._first.abort()

    def _play_episode(self, sessions: VectorSession) -> None:
        for number in range(num_steps):
            for decision in sessions.act([observation] * num_rows):
                assert decision is not None
                self.acknowledged[decision.step_id] = decision.action
            for row in range(num_rows):
                sessions.observe(row, 1.0, number == num_steps - 1, False)


def steps_of(address: str) -> list[Step]:
    with grpc.insecure_channel(address) as channel:
        pages = LogServiceStub(channel).Read(ReadRequest(), wait_for_ready=True, timeout=60)
        return [entry.step for page in pages for entry in page.entries if entry.HasField("step")]


@pytest.mark.timeout(400)
def test_sigterm_under_load_loses_nothing_and_fails_nobody_who_may_ask_elsewhere(tmp_path: Path) -> None:
    """Every call is answered, by the other replica if need be, and every acknowledged step is in a log as it was told.

    The replica that was stopped ends by itself with 0, and its log is whole when it comes back.
    """
    uri = registry_with_version(tmp_path)
    write_keys(tmp_path)
    keys = [f"--{key}-key-file={tmp_path / key}.key" for key in ("index", "token")]
    flags = ["--tracking-uri", uri, *keys]
    with serve(tmp_path / "one", *flags) as one, serve(tmp_path / "two", *flags) as two:
        addresses = [served.wait_for("serving")["address"] for served in (one, two)]
        first = threading.Barrier(num_players + 1)
        players = [Player(addresses, f"player-{number}", first) for number in range(num_players)]
        for player in players:
            player.start()
        first.wait(120)
        one.process.send_signal(signal.SIGTERM)
        exit_code = one.end()
        for player in players:
            player.join()
        logged = steps_of(addresses[1])
    with serve(tmp_path / "one", *flags) as one:
        before = steps_of(one.wait_for("serving")["address"])

    acknowledged = {key: action for player in players for key, action in player.acknowledged.items()}
    actions = {to_key(step.step_id): step.action for step in [*before, *logged]}
    assert [None] * num_players == [player.error for player in players]
    assert 0 == exit_code
    assert before
    assert logged
    assert num_players * num_rows * num_episodes * num_steps == len(acknowledged)
    assert acknowledged == {key: actions.get(key) for key in acknowledged}
