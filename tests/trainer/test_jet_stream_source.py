"""Reading a stream as a log: real servers, and what happens to them while they are read."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.js import JetStreamContext

from hyperact.trainer import jet_stream_source, jobs
from hyperact.trainer.checkpoints import Checkpoints, RoundRecord
from hyperact.trainer.jet_stream_source import JetStreamSource
from hyperact.trainer.log_source import LogLostError, LogUnavailableError
from hyperact.trainer.settings import RetrainSettings
from hyperact.trainer.tracking import Tracking
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.streams import StreamAccess, default_stream, parse_stream_address
from toy_log_service import DeepSeaPlayer, ToyLog, served
from toy_nats import NatsCluster, running_nats
from toy_steps import toy_step
from toys import make_registry


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsCluster]:
    with running_nats(tmp_path / "nats") as cluster:
        yield cluster


@pytest.fixture
def source(broker: NatsCluster) -> Iterator[JetStreamSource]:
    with open_source(broker) as source:
        yield source


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jet_stream_source, "answer_seconds", 2.0)


def open_source(broker: NatsCluster, model: str = "default") -> JetStreamSource:
    return JetStreamSource(parse_stream_address(broker.url), StreamAccess(), model)


def never(error: LogUnavailableError) -> None:
    raise error


def steps(*numbers: int, **fields: Any) -> list[LogEntry]:
    return [LogEntry(partition="0" * 32, offset=number + 1, step=toy_step(number, **fields)) for number in numbers]


def with_context(broker: NatsCluster, act: Callable[[JetStreamContext], Any]) -> None:
    """Do something to the broker by the client library."""

    async def run() -> None:
        client = await broker.connect()
        await act(client.jetstream())
        await client.close()

    asyncio.run(run())


def read(source: JetStreamSource, begin: int, end: int) -> list[tuple[int, int]]:
    """Return the offset and the step's number of each entry of a stretch."""
    extent = source.extent()
    (partition,) = extent.ends
    stretch = source.read({partition: begin}, {partition: end}, extent, never)
    entries = [entry for some in stretch for entry in some]
    assert {partition} >= {entry.partition for entry in entries}
    return [(entry.offset, entry.step.step_id.number) for entry in entries]


class TestExtent:
    def test_a_stream_that_is_not_there_yet_is_waited_for(self, source: JetStreamSource) -> None:
        """Nobody has shipped anything: it may come."""
        with pytest.raises(LogUnavailableError, match="stream not found"):
            source.extent()

    def test_servers_that_are_away_are_waited_for(self, tmp_path: Path) -> None:
        """They may come back."""
        with open_source(NatsCluster(tmp_path, 1)) as source, pytest.raises(LogUnavailableError):
            source.extent()

    def test_training_steps_of_the_model_are_counted(self, broker: NatsCluster, source: JetStreamSource) -> None:
        """Not evaluation steps, not other models', and only those after the place that was read before."""
        broker.publish([*steps(0, 1), *steps(2, evaluation=True), *steps(3, model="other"), *steps(4, 5)])

        extent = source.extent()
        (partition,) = extent.ends
        later = source.extent({partition: 3}, 2)

        assert {partition: 7} == extent.ends
        assert {partition: 1} == extent.begins
        assert 4 == extent.num_training_steps == later.num_training_steps


class TestRead:
    @pytest.mark.parametrize(("begin", "end", "expected"), [(0, 7, [0, 1, 2, 4, 5]), (2, 4, [1, 2]), (4, 5, [])])
    def test_a_stretch_begins_and_ends_where_it_says(
        self, broker: NatsCluster, source: JetStreamSource, begin: int, end: int, expected: list[int]
    ) -> None:
        """Offsets are the stream's; what another model logged is passed over, wherever it stands."""
        broker.publish([*steps(0, 1, 2), *steps(3, model="other"), *steps(4, 5)])

        assert [(number + 1, number) for number in expected] == read(source, begin, end)

    def test_a_stretch_that_ends_with_another_model_is_over(self, broker: NatsCluster, source: JetStreamSource) -> None:
        """A reader does not wait for what will not come."""
        broker.publish([*steps(0), *steps(*range(1, 5), model="other")])

        assert [(1, 0)] == read(source, 0, 6)

    def test_strangers_messages_are_passed_over(self, broker: NatsCluster, source: JetStreamSource) -> None:
        """What is no log entry costs an offset and nothing else."""
        broker.publish(steps(0))
        with_context(broker, lambda context: context.publish("hyperact.default.step", b"\xff not ours"))
        broker.publish(steps(1))

        assert [(1, 0), (3, 1)] == read(source, 0, 4)

    def test_a_stream_made_anew_is_another_log(self, broker: NatsCluster, source: JetStreamSource) -> None:
        """Its sequence numbers begin again and mean other steps."""
        broker.publish(steps(0, 1))
        extent = source.extent()
        with_context(broker, lambda context: context.delete_stream(default_stream))
        broker.publish(steps(0, 1))

        with pytest.raises(LogLostError, match="made anew"):
            list(source.read({}, extent.ends, extent, never))

    def test_what_the_streams_limits_took_is_missed(self, broker: NatsCluster, source: JetStreamSource) -> None:
        """A reader that was too slow is told, instead of learning from the rest."""
        broker.publish(steps(*range(6)))
        with_context(broker, lambda context: context.purge_stream(default_stream, seq=4))

        with pytest.raises(LogLostError, match="begins at 4"):
            read(source, 2, 7)
        assert [(4, 3), (5, 4), (6, 5)] == read(source, 0, 7)

    def test_reading_goes_on_where_a_server_died(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each of three dies while it may be the one that is read from: every entry comes once, in order."""
        monkeypatch.setattr(jet_stream_source, "messages_at_once", 16)
        with running_nats(tmp_path / "nats", 3) as cluster, open_source(cluster) as source:
            cluster.publish(steps(*range(400)))
            extent = source.extent()
            servers = iter(cluster.servers.values())
            numbers: list[int] = []
            for entries in source.read({}, extent.ends, extent, lambda _: time.sleep(0.1)):
                numbers += [entry.step.step_id.number for entry in entries]
                server = next(servers, None) if len(numbers) % 80 == 0 else None
                if server is not None:
                    server.kill()
                    server.start()

        assert [*range(400)] == numbers
        assert next(servers, None) is None


class TestRetrain:
    @pytest.fixture
    def data_dir(self, tmp_path: Path) -> Path:
        """Return a directory with an empty registry."""
        make_registry(tmp_path)
        return tmp_path

    def test_steps_that_came_twice_are_learned_from_once(self, broker: NatsCluster, data_dir: Path) -> None:
        """Beyond the stream's window a record that was shipped again stands there twice."""
        entries = play(10)
        broker.publish(entries)
        broker.publish(entries, suffix=" again")

        retrain(broker, data_dir)

        assert [40] == [record.num_transitions for record in rounds(data_dir)]

    def test_a_version_names_the_stretch_of_the_stream(self, broker: NatsCluster, data_dir: Path) -> None:
        """By the stream's id and sequence numbers: what a reader of the stream calls its partition and offsets."""
        broker.publish(play(10))
        with open_source(broker) as source:
            ((partition, end),) = source.extent().ends.items()

        retrain(broker, data_dir)

        serving = Tracking("", data_dir, "default", "champion").serving()
        assert serving is not None
        (learned,) = serving.manifest.dataset
        assert (partition, 1, end) == (learned.partition, learned.begin_offset, learned.end_offset)

    def test_a_trainer_that_begins_again_learns_nothing_twice(
        self, broker: NatsCluster, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each round is the steps that came since, and the rounds before read as they did then."""
        for first_episode in (0, 10, 20):
            broker.publish(play(10, first_episode))
            retrain(broker, data_dir)

        assert [40, 40, 40] == [record.num_transitions for record in rounds(data_dir)]
        told = capsys.readouterr().out
        assert "reading the log again" in told
        assert "the log changed" not in told

    def test_a_checkpoint_of_a_services_log_does_not_go_with_a_stream(
        self, broker: NatsCluster, data_dir: Path
    ) -> None:
        """The same steps under other offsets would be learned from twice."""
        log = ToyLog()
        DeepSeaPlayer(log, size=4).play(10)
        broker.publish(next(iter(log.partitions.values())))
        with served(log) as address:
            retrain(broker, data_dir, log="", address=address)

        with pytest.raises(jobs.JobError, match="another log"):
            retrain(broker, data_dir)


def retrain(broker: NatsCluster, data_dir: Path, **changes: Any) -> None:
    """Learn from the stream until there is one more version."""
    given: dict[str, Any] = {"data_dir": data_dir, "log": broker.url, "env": "hyperact/DeepSea-v0"}
    given |= {"env_kwargs": {"size": 4}, "learner": {"network": {"hidden_sizes": [8]}}, "batch_size": 16}
    given |= {"min_new_steps": 40, "max_versions": 1, "poll_seconds": 0.05}
    jobs.retrain(RetrainSettings.model_validate(given | changes), threading.Event())


def rounds(data_dir: Path) -> list[RoundRecord]:
    """Return the rounds that a trainer's checkpoint covers."""
    found = Checkpoints(data_dir, "default").load()
    assert found is not None
    return found[0].rounds


def play(num_episodes: int, first_episode: int = 0) -> list[LogEntry]:
    """Return the entries of some episodes of DeepSea-4."""
    log = ToyLog()
    DeepSeaPlayer(log, size=4, episode=first_episode).play(num_episodes)
    (entries,) = log.partitions.values()
    return entries
