"""Two replicas behind one connection, and one stream of what they logged."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import toys
from hyperact.clients.connection import Connection
from hyperact.clients.retries import Retries
from hyperact.clients.session_memory import Decision
from hyperact.clients.sessions import VectorSession
from hyperact.trainer.ingest import Ingest
from hyperact.trainer.jet_stream_source import JetStreamSource
from hyperact.trainer.log_source import LogUnavailableError
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.streams import StreamAccess, parse_stream_address
from toy_nats import NatsCluster, running_nats
from toy_replicas import Replica, start_seconds, write_keys

num_rows, num_steps, kill_at = 4, 20, 7
observation = np.array([0.1, -0.2, 0.3], np.float32)


@contextmanager
def two_replicas(shared: Path, broker: NatsCluster) -> Iterator[list[Replica]]:
    """Run two replicas of one version."""
    tracking_uri = toys.make_registry(shared)
    toys.toy_version(shared / "version")
    toys.register(tracking_uri, shared / "version", alias="champion")
    write_keys(shared)
    replicas = [Replica(shared, name, broker) for name in ("one", "two")]
    try:
        for replica in replicas:
            replica.start()
        yield replicas
    finally:
        for replica in replicas:
            replica.end(signal.SIGKILL)


def play(replicas: list[Replica]) -> list[Decision]:
    """Play an episode with each of some sessions, while a replica is killed in the middle; return all decisions."""
    names = [f"diver-{row}" for row in range(num_rows)]
    decisions: list[Decision] = []
    retries = Retries(deadline_seconds=start_seconds)
    with (
        Connection(",".join(replica.address for replica in replicas)) as connection,
        VectorSession(connection, names, retries=retries) as sessions,
    ):
        for number in range(num_steps):
            if number == kill_at:
                replicas[0].end(signal.SIGKILL)
            decisions += [one for one in sessions.act([observation + number] * num_rows) if one is not None]
            for row in range(num_rows):
                sessions.observe(row, 1.0, number == num_steps - 1, False)
    return decisions


def read_stream(broker: NatsCluster) -> list[LogEntry]:
    """Return what a trainer reads."""
    with JetStreamSource(parse_stream_address(broker.url), StreamAccess(), "default") as source:
        extent = source.extent()
        return [entry for part in source.read({}, extent.ends, extent, fail) for entry in part]


def fail(error: LogUnavailableError) -> None:
    raise error


def steps_of(entries: list[LogEntry]) -> dict[StepKey, Step]:
    steps = [entry.step for entry in entries if entry.HasField("step")]
    assert len({to_key(step.step_id) for step in steps}) == len(steps)
    return {to_key(step.step_id): step for step in steps}


@pytest.mark.timeout(4 * start_seconds)
def test_sessions_go_on_elsewhere_and_nothing_is_lost_or_learned_twice(tmp_path: Path) -> None:
    """A replica is killed in the middle of an episode: same episode, version and index at the other one, and one stream
    with every acknowledged step once, from which every transition comes once.
    """
    with running_nats(tmp_path / "nats") as broker, two_replicas(tmp_path, broker) as replicas:
        decisions = play(replicas)
        replicas[0].start()  # what it had committed and not shipped is shipped now
        for replica in replicas:
            replica.end()
        origins = {entry.partition for entry in asyncio.run(broker.entries()) if entry.HasField("step")}
        entries = read_stream(broker)

    steps = steps_of(entries)
    assert num_rows * num_steps == len(decisions)
    assert {decision.step_id: decision.action for decision in decisions} == {
        key: step.action for key, step in steps.items()
    }
    # Both decided, and who decided makes no difference to an episode: one version, one index, one key of randomness.
    assert 2 == len(origins)
    assert {(0, "1", 0, False)} == {
        (key.episode, step.version, step.segment, step.repinned) for key, step in steps.items()
    }
    assert 1 == len({step.index_key_id for step in steps.values()})
    taken = Ingest(toys.toy_spec()).push(entries)
    assert sorted(steps) == sorted(transition.key for transition in taken.transitions)
    assert [float(num_steps)] * num_rows == [episode.episode_return for episode in taken.episodes]
