"""Shipping the log to a stream: real logs, real servers, and what is taken away from under them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hyperact.service import jet_stream, shipping
from hyperact.service.app import Worker
from hyperact.service.jet_stream import JetStream
from hyperact.service.log_reader import LogReader
from hyperact.service.registered_readers import RegisteredReaders
from hyperact.service.retention import RetentionLimits
from hyperact.service.shipping import Shipper
from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.decision_pb2 import Report, Step
from hyperact.v1.deployment_pb2 import GetStatusRequest
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.streams import StreamAccess, default_stream, message_id, parse_stream_address, stream_partition
from toy_nats import NatsCluster, running_nats
from toy_steps import toy_report, toy_step
from toy_worker import make_request, running

patience_seconds = 60.0
nobody = StreamAccess()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsCluster]:
    with running_nats(tmp_path / "nats") as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "retry_seconds", 0.1)
    monkeypatch.setattr(jet_stream, "answer_seconds", 2.0)


class Replica:
    """One replica's log and what ships it, as `hyperact serve` puts them together."""

    def __init__(self, directory: Path, url: str, access: StreamAccess, retention: RetentionLimits, size: int) -> None:
        self.directory = directory
        self.log = StepLog.open(
            directory, 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=16384, retention=retention
        )
        self._reader = LogReader(directory, self.log)
        self.shipper = Shipper(self._reader, JetStream(parse_stream_address(url), access, size))

    async def append(self, *records: Step | Report) -> None:
        """Commit records together."""
        await self.log.append(records)

    async def ship_all(self) -> None:
        """Return when the stream has everything."""
        await until(self._is_shipped)

    async def close(self) -> None:
        """End as a service does."""
        await self.shipper.close()
        self._reader.close()
        await self.log.close()

    async def _is_shipped(self) -> bool:
        return self.shipper.is_up() and await self.shipper._is_all_shipped()


@asynccontextmanager
async def replica(
    directory: Path,
    url: str,
    *,
    access: StreamAccess = nobody,
    retention: RetentionLimits = RetentionLimits(),  # noqa: B008 - frozen
    size: int = 1,
    is_shipping: bool = True,
) -> AsyncIterator[Replica]:
    made = Replica(directory, url, access, retention, size)
    if is_shipping:
        made.shipper.start()
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, which may be asynchronous."""
    async with asyncio.timeout(patience_seconds):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.02)


def ids(entries: Sequence[LogEntry]) -> list[str]:
    return [message_id(entry) for entry in entries]


def names(*numbers: int) -> list[str]:
    return [f"default/s/r/0/{number}" for number in numbers]


class TestOneServer:
    async def test_committed_records_are_on_the_stream_under_their_ids(
        self, tmp_path: Path, broker: NatsCluster
    ) -> None:
        """Steps and reports, by subject, message id, and their place in the replica's own log."""
        step = toy_step(0)

        async with replica(tmp_path / "log", broker.url) as one:
            await one.append(step, toy_step(1, evaluation=True, model="a.b *"), toy_report(step))
            await one.ship_all()
            entries = await broker.entries()
            client = await broker.connect()
            raw = [await client.jetstream().get_msg(default_stream, sequence) for sequence in (1, 2, 3)]
            await client.close()

        assert {(one.log.partition, 1), (one.log.partition, 2), (one.log.partition, 3)} == {
            (entry.partition, entry.offset) for entry in entries
        }
        assert {
            ("default/s/r/0/0", "hyperact.default.step"),
            ("a.b *%2Fs".replace("%2F", "/") + "/r/0/1", "hyperact.a%2Eb%20%2A.evaluation"),
            ("default/s/r/0/0/first", "hyperact.default.report"),
        } == {((message.headers or {})["Nats-Msg-Id"], message.subject) for message in raw}
        assert step == next(entry.step for entry in entries if entry.offset == 1)

    async def test_a_restart_goes_on_where_shipping_stopped(self, tmp_path: Path, broker: NatsCluster) -> None:
        """What was shipped and noted is not sent again, what came meanwhile is sent."""
        async with replica(tmp_path / "log", broker.url) as one:
            await one.append(*map(toy_step, range(5)))
        async with replica(tmp_path / "log", broker.url, is_shipping=False) as one:
            await one.append(*map(toy_step, range(5, 8)))

        async with replica(tmp_path / "log", broker.url) as one:
            await one.ship_all()

        assert 3 == one.shipper.num_shipped
        assert names(*range(8)) == ids(await broker.entries())

    async def test_what_was_shipped_and_not_noted_is_collapsed(self, tmp_path: Path, broker: NatsCluster) -> None:
        """A death between the two sends again, and the stream knows the ids."""
        async with replica(tmp_path / "log", broker.url) as one:
            await one.append(*map(toy_step, range(5)))
            await one.ship_all()
        partition = stream_partition(default_stream, (await broker.stream_info()).created)  # type: ignore[arg-type]
        RegisteredReaders(tmp_path / "log").register(f"shipping to {partition}", {one.log.partition: 3}, 0.0)

        async with replica(tmp_path / "log", broker.url) as one:
            await one.ship_all()

        assert 3 == one.shipper.num_shipped
        assert names(*range(5)) == ids(await broker.entries())

    async def test_partitions_of_workers_that_are_gone_are_shipped_too(
        self, tmp_path: Path, broker: NatsCluster
    ) -> None:
        """Who takes over a directory takes over all that is in it."""
        other = StepLog.open(tmp_path / "log", 7, Durability.PROCESS, min_free_bytes=0, max_queued_records=10)
        await other.append([toy_step(0)])
        await other.close()

        async with replica(tmp_path / "log", broker.url) as one:
            await one.append(toy_step(1))
            await one.ship_all()

        assert sorted(names(0, 1)) == sorted(ids(await broker.entries()))

    async def test_a_stream_that_was_made_anew_gets_everything(self, tmp_path: Path, broker: NatsCluster) -> None:
        """A broker that lost its disk is filled again from the logs, and only its own position is kept."""
        async with replica(tmp_path / "log", broker.url) as one:
            await one.append(*map(toy_step, range(3)))
            await one.ship_all()
            client = await broker.connect()
            await client.jetstream().delete_stream(default_stream)
            await client.close()
            await one.append(toy_step(3))
            await until(lambda: one.shipper.num_shipped >= 7)
            await one.ship_all()

        assert names(*range(4)) == ids(await broker.entries())
        assert 1 == len(RegisteredReaders(tmp_path / "log").list())

    async def test_two_replicas_that_decided_a_step_alike_ship_it_once(
        self, tmp_path: Path, broker: NatsCluster
    ) -> None:
        """A client that asked two replicas got one answer: one record."""
        for name in ("one", "two"):
            async with replica(tmp_path / name, broker.url) as each:
                await each.append(toy_step(0))
                await each.ship_all()

        assert names(0) == ids(await broker.entries())

    async def test_a_step_decided_differently_is_there_twice(self, tmp_path: Path, broker: NatsCluster) -> None:
        """One replica died before it answered: its decision must not hide the one that an agent followed."""
        for name, action in (("one", 0), ("two", 1)):
            async with replica(tmp_path / name, broker.url) as each:
                await each.append(toy_step(0, action=action))
                await each.ship_all()

        assert [0, 1] == [entry.step.action for entry in await broker.entries()]


class TestAway:
    async def test_steps_wait_in_the_log_for_a_broker_that_is_away(self, tmp_path: Path) -> None:
        """Appending goes on, the lag is told, and all of it is shipped when the broker comes."""
        (tmp_path / "nats").mkdir()
        broker = NatsCluster(tmp_path / "nats", 1)
        try:
            async with replica(tmp_path / "log", broker.url) as one:
                await one.append(*map(toy_step, range(3)))
                await until(lambda: one.shipper.lag_seconds() > 0)
                assert not one.shipper.is_up()
                assert "" == one.log.problem()

                broker.start()
                await one.ship_all()
                assert 0 == one.shipper.lag_seconds()

                broker.kill()
                await one.append(*map(toy_step, range(3, 6)))
                await until(lambda: not one.shipper.is_up())
                broker.start()
                await one.ship_all()
            assert names(*range(6)) == ids(await broker.entries())
        finally:
            broker.kill()

    async def test_retention_keeps_what_was_not_shipped(self, tmp_path: Path) -> None:
        """However old it is: from the first moment on, before anybody knows the stream."""
        (tmp_path / "nats").mkdir()
        broker = NatsCluster(tmp_path / "nats", 1)
        limits = RetentionLimits(seconds=1.0, period_seconds=0.05)
        try:
            async with replica(tmp_path / "log", broker.url, retention=limits, is_shipping=False) as one:
                one.shipper.start()
                await until(lambda: RegisteredReaders(tmp_path / "log").list())
                await one.append(*map(toy_step, range(4)))
                await until(lambda: one.shipper.lag_seconds() > 0.3)
                assert 0 == one.log.num_removed

                broker.start()
                await until(lambda: one.log.num_removed == 4)
            assert names(*range(4)) == ids(await broker.entries())
        finally:
            broker.kill()

    async def test_a_stranger_ships_nothing_and_its_password_is_not_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Credentials are given to the servers and to nobody else."""
        flags = ["--user", "hyperact", "--pass", "right secret"]
        with running_nats(tmp_path / "nats", arguments=flags) as broker:
            stranger = StreamAccess(user="hyperact", password="wrong secret")
            async with replica(tmp_path / "log", broker.url, access=stranger) as one:
                await one.append(toy_step(0))
                await until(lambda: one.shipper.lag_seconds() > 0.2)
                assert 0 == one.shipper.num_shipped
            friend = StreamAccess(user="hyperact", password="right secret")
            async with replica(tmp_path / "log", broker.url, access=friend) as one:
                await one.ship_all()

        captured = capsys.readouterr()
        assert "secret" not in caplog.text + captured.out + captured.err + repr(friend)


class TestWorker:
    async def test_a_broker_that_is_away_harms_nobody(self, tmp_path: Path) -> None:
        """The service is ready and decides; its metrics tell that nothing is shipped."""
        (tmp_path / "nats").mkdir()
        broker = NatsCluster(tmp_path / "nats", 1)
        try:
            async with running(tmp_path / "data", log=broker.url, fallback_num_actions=2) as worker:
                await worker.decision.Act(make_request())
                await until(lambda: metric(worker.worker, "shipping_lag_seconds") > 0)
                status = await worker.deployment.GetStatus(GetStatusRequest())
                assert status.is_ready
                assert 0 == metric(worker.worker, "shipping_up")

                broker.start()
                await until(lambda: metric(worker.worker, "shipped_records") == 1)
                assert 1 == metric(worker.worker, "shipping_up")
                await worker.decision.Act(make_request("other"))
            # What was decided last is shipped before the service ends.
            assert ["agent", "other"] == [entry.step.step_id.session for entry in await broker.entries()]
        finally:
            broker.kill()

    async def test_an_address_with_a_password_in_it_is_refused(self, tmp_path: Path) -> None:
        """It would be shown wherever settings are, so it is not shown here."""
        with pytest.raises(ValueError, match="expected no user and password") as caught:
            async with running(tmp_path, log="nats://me:secret@127.0.0.1:1"):
                pass

        assert "secret" not in str(caught.value)


def metric(worker: Worker, name: str) -> float:
    return worker.metrics.registry.get_sample_value(f"hyperact_{name}") or 0.0


class TestThreeServers:
    """Writes go on while servers die; the stream keeps each message on all three."""

    num_records = 3000

    async def test_nothing_is_lost_while_servers_are_killed(self, tmp_path: Path) -> None:
        """A follower, then the stream's leader, then all of them for a while, each time in the middle of writing."""
        with running_nats(tmp_path / "nats", 3) as cluster:
            async with replica(tmp_path / "log", cluster.url, size=3) as one:
                await one.append(toy_step(0))
                await one.ship_all()
                known = RegisteredReaders(tmp_path / "log").list()
                writing = asyncio.create_task(self._write(one))
                for kill in (self._kill_a_follower, self._kill_the_leader, self._kill_all):
                    before = one.shipper.num_shipped
                    await kill(cluster)
                    await until(lambda before=before: one.shipper.num_shipped > before)  # type: ignore[misc]
                await writing
                await one.ship_all()
                entries = await cluster.entries()
                config = (await cluster.stream_info()).config

        assert 3 == config.num_replicas
        # The stream is the same one to whomever is asked.
        assert [reader.name for reader in known] == [
            reader.name for reader in RegisteredReaders(tmp_path / "log").list()
        ]
        assert sorted(names(*range(self.num_records))) == sorted(ids(entries))

    async def _write(self, one: Replica) -> None:
        for number in range(1, self.num_records):
            await one.append(toy_step(number))
            await asyncio.sleep(0.002)

    async def _kill_a_follower(self, cluster: NatsCluster) -> None:
        leader = await self._leader(cluster)
        follower = next(server for name, server in cluster.servers.items() if name != leader)
        follower.kill()
        await asyncio.sleep(1)
        follower.start()

    async def _kill_the_leader(self, cluster: NatsCluster) -> None:
        leader = cluster.servers[await self._leader(cluster)]
        leader.kill()
        await asyncio.sleep(1)
        leader.start()

    async def _kill_all(self, cluster: NatsCluster) -> None:
        cluster.kill()
        await asyncio.sleep(2)
        cluster.start()

    async def _leader(self, cluster: NatsCluster) -> str:
        found = (await cluster.stream_info()).cluster
        assert found is not None
        assert found.leader is not None
        return found.leader
