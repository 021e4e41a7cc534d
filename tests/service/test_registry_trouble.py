"""A registry that is down or slow: a real MLflow server, stopped, hung, or behind a wire that is slowed."""

import asyncio
import shutil
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import toys
from hyperact.v1.deployment_pb2 import GetStatusRequest, ModelStatus, VersionState
from toy_registry import RegistryServer, Wire, registry_server, slowed
from toy_worker import RunningWorker, play, running

pytestmark = pytest.mark.timeout(300)
SERVING, LOADING = VersionState.VERSION_STATE_SERVING, VersionState.VERSION_STATE_LOADING


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One server for the tests that leave it as it is; each has a model of its own."""
    with registry_server(tmp_path_factory.mktemp("registry")) as server:
        yield server


class Model:
    """A registered model on a server, whose artefacts come through the server too.

    It is written in the server's database: the server itself would not take versions whose files it does not know.
    """

    def __init__(self, server: RegistryServer, made: Path) -> None:
        self.name = f"model-{uuid.uuid4().hex[:8]}"
        self._server = server
        self._made = made
        self._client = MlflowClient(server.database_uri, server.database_uri)
        self._client.create_registered_model(self.name)

    def register(self, source: str = "", **version: Any) -> str:
        """Register a toy version; `source`: where its files are said to be, instead of the server's own store."""
        name = uuid.uuid4().hex
        toys.toy_version(self._made / name, model=self.name, **version)
        shutil.copytree(self._made / name, self._server.artifacts / name)
        own = f"{self._server.uri}/api/2.0/mlflow-artifacts/artifacts"
        return str(self._client.create_model_version(self.name, f"{source or own}/{name}").version)

    def promote(self, version: str) -> None:
        """Move the alias."""
        self._client.set_registered_model_alias(self.name, "champion", version)


@asynccontextmanager
async def following(data_dir: Path, model: Model, uri: str) -> AsyncIterator[RunningWorker]:
    """Run a worker that follows a model; only the registry at the URI tells it anything."""
    async with running(data_dir, models=[model.name], tracking_uri=uri, poll_seconds=0.2) as service:
        yield service


async def status_of(service: RunningWorker) -> ModelStatus:
    (status,) = (await service.deployment.GetStatus(GetStatusRequest())).models
    return status


async def until_state(service: RunningWorker, version: str, state: "VersionState.ValueType") -> ModelStatus:
    """Return the status once a version is in a state."""
    async with asyncio.timeout(120):
        while True:
            status = await status_of(service)
            if (version, state) in [(one.version, one.state) for one in status.versions]:
                return status
            await asyncio.sleep(0.02)


class TestDown:
    async def test_decisions_go_on_while_the_server_is_gone_and_follow_it_when_it_is_back(self, tmp_path: Path) -> None:
        """Gone later and at a start: what served goes on, the status says what is wrong, and a promotion that was
        made when the server was back is followed.
        """
        with registry_server(tmp_path / "registry") as server:
            model = Model(server, tmp_path / "made")
            model.promote(model.register(seed=1))
            async with following(tmp_path / "data", model, server.uri) as service:
                await until_state(service, "1", SERVING)
                server.end()
                async with asyncio.timeout(120):
                    while not (await status_of(service)).registry_problem:  # noqa: ASYNC110 polled over gRPC
                        await asyncio.sleep(0.05)
                without = await play(service, "while-gone", [5])

        async with following(tmp_path / "data", model, server.uri) as service:
            restarted = await play(service, "restarted", [5])
            with registry_server(tmp_path / "registry", server.port):
                second = await asyncio.to_thread(model.register, seed=2)
                await asyncio.to_thread(model.promote, second)
                await until_state(service, second, SERVING)
                after = await play(service, "back", [5])

        assert [{"1"}, {"1"}, {second}] == [{one.version for one in part} for part in (without, restarted, after)]


class TestSlow:
    async def test_a_server_that_hangs_holds_no_decision_up(self, tmp_path: Path) -> None:
        """Its processes are stopped while they are asked: steps are decided, and what it says later is heard."""
        with registry_server(tmp_path / "registry") as server:
            model = Model(server, tmp_path / "made")
            model.promote(model.register(seed=1))
            second = model.register(seed=2)
            async with following(tmp_path / "data", model, server.uri) as service:
                await until_state(service, "1", SERVING)
                server.signal(signal.SIGSTOP)
                await asyncio.sleep(1)
                meanwhile = await play(service, "meanwhile", [20])
                server.signal(signal.SIGCONT)
                await asyncio.to_thread(model.promote, second)
                await until_state(service, second, SERVING)

        assert {"1"} == {answer.version for answer in meanwhile}

    async def test_a_server_that_hangs_at_the_start_holds_the_start_up_only_for_a_while(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a version in the cache it serves that one; nobody waits for the server beyond the call's deadline."""
        with registry_server(tmp_path / "registry") as server:
            model = Model(server, tmp_path / "made")
            model.promote(model.register())
            async with following(tmp_path / "data", model, server.uri) as service:
                await until_state(service, "1", SERVING)
            server.signal(signal.SIGSTOP)
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            async with following(tmp_path / "data", model, server.uri) as service:
                answers = await play(service, "agent", [5])
                problem = (await status_of(service)).registry_problem
            server.signal(signal.SIGCONT)

        assert {"1"} == {answer.version for answer in answers}
        assert server.uri in problem

    async def test_a_slow_download_holds_up_neither_decisions_nor_the_next_promotion(
        self, tmp_path: Path, shared_server: RegistryServer
    ) -> None:
        """While a version trickles in, the old one decides; when the alias moves on, the next one serves at once."""
        model = Model(shared_server, tmp_path / "made")
        model.promote(model.register(seed=1))
        with slowed(shared_server.port) as wire:
            slow = await asyncio.to_thread(model.register, source_of(wire), seed=2, hidden_sizes=(64,))
            async with following(tmp_path / "data", model, shared_server.uri) as service:
                await until_state(service, "1", SERVING)
                wire.delay_seconds = 60.0
                await asyncio.to_thread(model.promote, slow)
                await until_state(service, slow, LOADING)
                meanwhile = await play(service, "meanwhile", [10])
                next_one = await asyncio.to_thread(model.register, seed=3)
                await asyncio.to_thread(model.promote, next_one)
                status = await until_state(service, next_one, SERVING)
                after = await play(service, "after", [3])

        assert {"1"} == {answer.version for answer in meanwhile}
        assert {next_one} == {answer.version for answer in after}
        assert slow not in [one.version for one in status.versions]

    async def test_many_downloads_that_hang_do_not_keep_it_from_following_the_alias(
        self, tmp_path: Path, shared_server: RegistryServer
    ) -> None:
        """More of them than may hang at a time: the registry is still asked, and a version that can be had serves."""
        model = Model(shared_server, tmp_path / "made")
        model.promote(model.register(seed=1))
        with slowed(shared_server.port) as wire:
            wire.delay_seconds = 60.0
            async with following(tmp_path / "data", model, shared_server.uri) as service:
                await until_state(service, "1", SERVING)
                for number in range(6):
                    slow = await asyncio.to_thread(model.register, source_of(wire), seed=number)
                    await asyncio.to_thread(model.promote, slow)
                    await until_state(service, slow, LOADING)
                good = await asyncio.to_thread(model.register, seed=99)
                await asyncio.to_thread(model.promote, good)
                await until_state(service, good, SERVING)


def source_of(wire: Wire) -> str:
    return f"{wire.uri}/api/2.0/mlflow-artifacts/artifacts"
