"""The commands that ask and steer, against a real registry and real servicers over loopback."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

import grpc
import pytest

import toys
from hyperact.service.deployment_servicer import DeploymentServicer
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.log_reader import LogReader
from hyperact.service.log_servicer import LogServicer
from hyperact.service.metrics import Metrics
from hyperact.service.operation_settings import (
    DeploymentsSettings,
    LogAction,
    LogSettings,
    PromoteSettings,
    RollbackSettings,
    StatusSettings,
)
from hyperact.service.operations import deployments, log, status
from hyperact.service.repository import Repository
from hyperact.service.steering import promote, rollback
from hyperact.service.step_log import Durability, StepLog
from hyperact.service.version_cache import VersionCache
from hyperact.service.versions import Versions
from hyperact.v1 import deployment_pb2_grpc, log_pb2_grpc
from hyperact.v1.deployment_pb2 import ReloadRequest, WatchStatusRequest
from hyperact.v1.log_pb2 import GetRangeRequest, LogPosition, ReadRequest
from toy_steps import toy_report, toy_step

nobody = "127.0.0.1:1"


class Service:
    """The two servicers of this room's half on a loop of their own, as a service has them."""

    def __init__(self, data_dir: Path, registry_uri: str) -> None:
        self.address = ""
        self._data_dir = data_dir
        self._registry_uri = registry_uri
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        directory = self._data_dir / "log"
        step_log = StepLog.open(directory, 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=1000)
        steps = [toy_step(number, model="other" if number < 20 else "default") for number in range(40)]
        await step_log.append([*steps, toy_report(steps[-1])])
        reader = LogReader(directory, step_log)
        versions = Versions(
            Repository(self._registry_uri, VersionCache(self._data_dir / "versions")),
            ["default"],
            load=partial(Hypermodel.load, max_onnx_bytes=1 << 20),
            metrics=Metrics(),
            poll_seconds=3600,
        )
        await versions.start()
        deployment = DeploymentServicer(
            versions,
            step_log,
            find_problem=lambda: "" if versions["default"].serving else "no version",
            count_sessions=lambda: 7,
        )
        server = grpc.aio.server()
        log_pb2_grpc.add_LogServiceServicer_to_server(LogServicer(reader), server)
        deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(deployment, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._is_up.set()
        await self._stop.wait()
        await server.stop(0)
        await versions.stop()
        reader.close()
        await step_log.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with a registry of two versions, none promoted."""
    uri = toys.make_registry(tmp_path)
    for seed in range(2):
        toys.toy_version(tmp_path / f"made{seed}", seed=seed)
        toys.register(uri, tmp_path / f"made{seed}")
    return tmp_path


@pytest.fixture
def service(data_dir: Path) -> Iterator[Service]:
    with Service(data_dir, f"sqlite:///{data_dir / 'mlflow.db'}") as service:
        yield service


class TestPromote:
    def test_the_service_serves_it_when_the_command_returns(
        self, data_dir: Path, service: Service, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Alias, ledger and service in one command, and it says so."""
        code = promote(PromoteSettings(version="1", data_dir=data_dir, address=service.address, actor="ann"))

        out = capsys.readouterr().out
        assert 0 == code
        assert f"{service.address} serves version 1, deployment 1" in out
        assert "ann" in out

    def test_without_a_service_the_alias_is_moved(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The registry decides: nobody has to be there to hear it."""
        code = promote(PromoteSettings(version="2", data_dir=data_dir, address=nobody))

        assert 0 == code
        assert "no service answers there" in capsys.readouterr().out

    def test_a_version_that_the_service_refuses_fails(
        self, data_dir: Path, service: Service, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Whoever promotes learns before why it would not serve; forced, afterwards."""
        toys.toy_version(data_dir / "wrong", model="another")
        version = toys.register(f"sqlite:///{data_dir / 'mlflow.db'}", data_dir / "wrong")

        settings = PromoteSettings(version=version, data_dir=data_dir, address=service.address)

        assert 1 == promote(settings)
        assert "version 3 is held back: WRONG_MODEL" in capsys.readouterr().err
        assert 1 == promote(settings.model_copy(update={"force": True, "reason": "to see"}))
        assert "refused version 3: WRONG_MODEL" in capsys.readouterr().err

    def test_a_version_that_is_not_there_is_one_line(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong number moves nothing and names the right ones."""
        code = promote(PromoteSettings(version="9", data_dir=data_dir, address=nobody))

        assert 1 == code
        assert "model 'default' has no version 9: there are 1, 2\n" == capsys.readouterr().err

    def test_a_registry_that_is_not_there_is_not_made(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong directory is told, not filled with an empty registry."""
        code = promote(PromoteSettings(version="1", data_dir=tmp_path / "wrong"))

        assert 1 == code
        assert "there is no registry at" in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()


class TestRollback:
    @pytest.mark.parametrize(("to", "expected"), [("", "2 → 1"), ("2", "1 → 2")])
    def test_goes_back(self, data_dir: Path, capsys: pytest.CaptureFixture[str], to: str, expected: str) -> None:
        """To the version before the last deployment, or to the one that is named; it is a deployment itself."""
        for version in ("1", "2", "1", "2")[: 2 if not to else 3]:
            promote(PromoteSettings(version=version, data_dir=data_dir, wait_seconds=0))
        capsys.readouterr()

        code = rollback(RollbackSettings(data_dir=data_dir, wait_seconds=0, to=to))

        assert 0 == code
        assert expected in capsys.readouterr().out

    def test_without_a_deployment_there_is_nothing_to_go_back_to(
        self, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The first deployment has none before it."""
        assert 1 == rollback(RollbackSettings(data_dir=data_dir))
        assert "nothing served before" in capsys.readouterr().err


class TestDeployments:
    def test_the_ledger_is_shown(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Number, who, from and to, oldest first."""
        for version in ("1", "2"):
            promote(PromoteSettings(version=version, data_dir=data_dir, wait_seconds=0, actor=f"user{version}"))
        capsys.readouterr()

        assert 0 == deployments(DeploymentsSettings(data_dir=data_dir))

        out = capsys.readouterr().out
        assert out.index("user1") < out.index("- → 1") < out.index("user2") < out.index("1 → 2")


class TestStatus:
    def test_it_tells_what_serves(self, data_dir: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        """Readiness with its reason, the log, the sessions, and the versions of each model."""
        assert 0 == status(StatusSettings(address=service.address))
        before = capsys.readouterr().out
        promote(PromoteSettings(version="1", data_dir=data_dir, address=service.address))
        capsys.readouterr()
        assert 0 == status(StatusSettings(address=service.address))
        after = capsys.readouterr().out

        assert "not ready: no version" in before
        assert "log writable, 40 steps since the start; 7 sessions" in after
        assert "is ready" in after
        assert "serving" in after

    def test_a_service_that_is_not_there_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """No traceback for a service that is down."""
        assert 1 == status(StatusSettings(address=nobody))
        assert f"{nobody}: no service answers there\n" == capsys.readouterr().err

    def test_an_unknown_model_is_named(self, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        """A model that is not served is an error and not an empty table."""
        assert 1 == status(StatusSettings(address=service.address, model="nope"))
        assert "NOT_FOUND: model 'nope' is not served here" in capsys.readouterr().err


class TestLog:
    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            ("", [f"default/s/r/0/{number}" for number in (*range(31, 40), 39)]),
            ("other", [f"other/s/r/0/{number}" for number in range(10, 20)]),
            ("none", []),
        ],
    )
    def test_tail_shows_the_newest(
        self, service: Service, capsys: pytest.CaptureFixture[str], model: str, expected: list[str]
    ) -> None:
        """The last n entries, oldest first, also where other models' entries lie between them and the end."""
        code = log(LogSettings(action=LogAction.TAIL, address=service.address, n=10, model=model))

        lines = capsys.readouterr().out.splitlines()
        assert 0 == code
        assert expected == [line.split("  ")[2] for line in lines]

    def test_range_counts(self, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        """Partitions and counts."""
        assert 0 == log(LogSettings(action=LogAction.RANGE, address=service.address))
        assert "40 steps, 40 of them to learn from; 1 reports; 0 dropped" in capsys.readouterr().out


class TestServicers:
    def test_a_wrong_position_has_its_code_and_field(self, service: Service) -> None:
        """Errors cross the wire as statuses that name the field."""
        with grpc.insecure_channel(service.address) as channel:
            stub = log_pb2_grpc.LogServiceStub(channel)
            (extent,) = stub.GetRange(GetRangeRequest()).ranges
            position = LogPosition(partition=extent.partition, offset=10**6)
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.Read(ReadRequest(positions=[position])))

        assert grpc.StatusCode.OUT_OF_RANGE is caught.value.code()

    def test_watchers_hear_of_changes(self, data_dir: Path, service: Service) -> None:
        """The status comes at once and again when a version comes into service."""
        with grpc.insecure_channel(service.address) as channel:
            stub = deployment_pb2_grpc.DeploymentServiceStub(channel)
            stream = stub.WatchStatus(WatchStatusRequest(), timeout=30)
            first = next(stream).status
            promote(PromoteSettings(version="1", data_dir=data_dir, address=nobody, wait_seconds=0))
            stub.Reload(ReloadRequest(), timeout=30)
            ready = next(message.status for message in stream if message.status.is_ready)
            stream.cancel()

        assert not first.is_ready
        assert 1 == ready.models[0].deployment.number
