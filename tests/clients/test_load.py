"""Load on a real service, and what is counted of it."""

import asyncio
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import toy_serve
import toys
from hyperact.clients.load import patterns
from hyperact.clients.load.agents import LoadAgent, episode_length, random_observation
from hyperact.clients.load.command import BenchServeSettings, serve
from hyperact.clients.load.measurement import Case, Target, Way, measure
from hyperact.v1.decision_pb2 import ActResponse
from hyperact.v1.tensors import to_array
from toy_worker import registry_with_version


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service that takes batches of at most 4."""
    data_dir = tmp_path_factory.mktemp("load")
    registry_with_version(data_dir)
    with toy_serve.serve(data_dir, "--max-batch", "4", "--durability", "process") as served:
        yield str(served.wait_for("serving")["address"])


class TestLoadAgent:
    def test_an_observation_keeps_to_the_bounds(self) -> None:
        """Whatever the model takes, the load can send."""
        for dtype, low, high in ((np.uint8, 3, 5), (np.float32, -2, 2), (np.bool_, 0, 1), (np.int64, -1e300, 1e300)):
            spec = toys.toy_spec(observation_shape=(50,), observation_dtype=dtype)
            spec.observation.minimum, spec.observation.maximum = low, high

            array = to_array(random_observation(spec, seed=1))

            assert (np.dtype(dtype), (50,)) == (array.dtype, array.shape)
            assert low <= array.min() <= array.max() <= high

    def test_the_answer_goes_into_the_next_request(self) -> None:
        """It carries its token and an outcome, and ends its episodes."""
        agent = LoadAgent("a", "", toys.toy_spec(), seed=0)
        ends = []

        for number in range(2 * episode_length):
            agent.take(ActResponse(token=b"%d" % number))
            ends.append(agent.request().outcome.terminated)

        assert b"%d" % (2 * episode_length - 1) == agent.request().token
        assert [False] * (episode_length - 1) + [True] == ends[:episode_length]
        assert 2 == sum(ends)


class TestMeasure:
    @pytest.mark.parametrize(
        "case", [Case(Way.ACT, 1, 3), Case(Way.STREAM, 1, 2), Case(Way.STREAM, 3, 2), Case(Way.BATCH, 4, 2)], ids=str
    )
    def test_every_way_of_sending_is_answered(self, address: str, case: Case) -> None:
        """Decisions are counted by rows, and nothing fails."""
        found = measure(Target(address), case, seconds=0.3, num_processes=1)

        assert not found.num_errors, found.message
        assert found.decisions_per_second > 0
        assert 0 < found.p50_ms <= found.p99_ms

    def test_a_steady_rate_is_offered(self, address: str) -> None:
        """An open load sends about as many as it was told: within six standard deviations of a Poisson count."""
        found = measure(Target(address), Case(Way.ACT, 1, 4, rate=100.0), seconds=1.0, num_processes=1)

        assert abs(found.decisions_per_second - 100) < 60

    def test_several_processes_share_the_load(self, address: str) -> None:
        """What each did adds up."""
        found = measure(Target(address), Case(Way.ACT, 1, 2), seconds=0.3, num_processes=2)

        assert found.decisions_per_second > 0
        assert not found.num_errors

    def test_what_is_refused_is_counted(self, address: str) -> None:
        """Failed messages are told by status code, and by what they said."""
        found = measure(Target(address), Case(Way.BATCH, 5, 1), seconds=0.2, num_processes=1)

        assert {"INVALID_ARGUMENT"} == set(found.num_errors)
        assert "requests" in found.message
        assert 0 == found.decisions_per_second


class TestOpenLoad:
    async def test_a_stall_is_charged_to_everybody_who_would_have_come(self) -> None:
        """Latency counts from when a call was due: one call that takes long makes those behind it late."""
        sent: list[float] = []

        async def send(_: object) -> None:
            sent.append(time.perf_counter())
            if len(sent) == 1:
                await asyncio.sleep(0.3)

        agent = LoadAgent("a", "", toys.toy_spec(), seed=0)
        tally = await patterns.opened([[agent]], lambda: send, seconds=0.2, rate=50.0, seed=0)

        # All were due within 0.2 s, and none could be sent before the first was over, after 0.3 s.
        assert len(tally.latencies) > 1
        assert min(tally.latencies) > 0.1

    async def test_an_error_does_not_end_the_load(self) -> None:
        """The rest goes on, and the error is counted."""

        async def send(_: object) -> None:
            raise patterns.RowError(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "busy")

        agent = LoadAgent("a", "", toys.toy_spec(), seed=0)
        tally = await patterns.closed([[agent]], lambda: send, seconds=0.05)

        assert tally.errors["RESOURCE_EXHAUSTED"] > 1
        assert "busy" == tally.message


class TestCommand:
    def test_it_writes_a_table_and_a_plot(
        self, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every repeat is kept, and a person sees the medians."""
        settings = BenchServeSettings.model_validate(
            {
                "address": address,
                "in_flight": [1, 2],
                "rows": 2,
                "seconds": 0.1,
                "repeats": 2,
                "results": tmp_path / "rows.csv",
                "plot": tmp_path / "load.png",
            }
        )

        assert 0 == serve(settings)

        with (tmp_path / "rows.csv").open() as file:
            rows = list(csv.DictReader(file))
        # Act, streams of one row and of two, and batches: at two loads, and each once at a steady rate; all twice.
        assert (4 * 2 + 4) * 2 == len(rows)
        assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
        assert "ActStream(2), 2 in flight" in capsys.readouterr().out

    def test_a_batch_above_the_services_limit_is_told_at_once(
        self, address: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing is measured that can only fail."""
        assert 2 == serve(BenchServeSettings.model_validate({"address": address, "rows": 5}))
        assert "at most 4" in capsys.readouterr().err

    def test_nobody_there_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong address is one line."""
        assert 1 == serve(BenchServeSettings.model_validate({"address": "127.0.0.1:1", "timeout_seconds": 0.2}))
        assert "no service answered at 127.0.0.1:1" in capsys.readouterr().err
