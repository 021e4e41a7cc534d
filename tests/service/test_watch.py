"""`hyperact watch` against a real worker, its log and a real registry."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from pydantic import ValidationError

import toys
from hyperact.service.operation_settings import CanarySettings, KillSettings, PromoteSettings
from hyperact.service.steering import canary, kill, promote
from hyperact.service.watch import watch
from hyperact.service.watch_settings import WatchSettings
from hyperact.v1.decision_pb2 import Outcome, ReportRequest
from hyperact.v1.deployment_pb2 import Deployment
from hyperact.v1.deployments import CHALLENGER, CHAMPION, read_ledger
from toy_worker import RunningWorker, make_request, refusal, registry_with_version, running

conditions: dict[str, Any] = {"max_loss": 0.2, "min_episodes": 10, "confidence": 0.95}


def always(action: int) -> dict[str, Any]:
    """Return what makes a toy version of two actions that nearly always takes one."""
    coefficients = np.random.default_rng(0).normal(scale=0.1, size=(2, 5)).astype(np.float32)
    coefficients[:, 0] = 0.0
    coefficients[action, 0] = 1.0
    return {"coefficients": coefficients}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    """Run a worker: version 1 takes action 0 and serves, version 2 takes action 1, which is worth nothing."""
    uri = registry_with_version(tmp_path, **always(0))
    toys.toy_version(tmp_path / "toys" / "v2", **always(1))
    toys.register(uri, tmp_path / "toys" / "v2")
    async with running(tmp_path) as service:
        yield service


async def command(function: Any, settings: Any, service: RunningWorker, **values: Any) -> int:
    given = {"data_dir": service.data_dir, "address": service.address, **values}
    return int(await asyncio.to_thread(function, settings.model_validate(given)))


async def look(service: RunningWorker, **values: Any) -> int:
    return await command(watch, WatchSettings, service, once=True, **(conditions | values))


async def play(service: RunningWorker, prefix: str, number: int) -> None:
    """Play one-step episodes of new sessions: action 0 returns 1, action 1 nothing."""

    async def one(session: str) -> None:
        answer = await service.decision.Act(make_request(session))
        outcome = Outcome(reward=float(answer.action == 0), terminated=True)
        await service.decision.Report(ReportRequest(session=session, outcome=outcome, token=answer.token))

    await asyncio.gather(*(one(f"{prefix}-{place}") for place in range(number)))


def ledger_of(service: RunningWorker) -> list[Deployment]:
    uri = f"sqlite:///{service.data_dir / 'mlflow.db'}"
    return read_ledger(MlflowClient(uri, uri).get_registered_model("default").tags)


class TestWatch:
    async def test_a_canary_that_returns_less_is_stopped(
        self, service: RunningWorker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Held against the champion in the same time; the ledger says by whom and why."""
        await command(canary, CanarySettings, service, version="2", share=0.5)
        await play(service, "a", 60)

        assert 0 == await look(service)

        entry = ledger_of(service)[-1]
        assert (CHALLENGER, "2", "", "hyperact watch") == (
            entry.role,
            entry.from_version,
            entry.to_version,
            entry.actor,
        )
        assert "is below 1 of" in entry.reason
        assert "the canary of version 2 is stopped" in capsys.readouterr().out

    async def test_a_champion_that_returns_less_is_rolled_back(self, service: RunningWorker) -> None:
        """Held against the champion before it; what was put back is not taken back again."""
        await play(service, "before", 20)
        await command(promote, PromoteSettings, service, version="2")
        await play(service, "after", 20)

        await look(service)
        await look(service, min_return=10.0)

        entry = ledger_of(service)[-1]
        assert (3, CHAMPION, "2", "1") == (entry.number, entry.role, entry.from_version, entry.to_version)
        assert "mean return 0 of 20 episodes is below 1 of 20" in entry.reason

    async def test_a_deployment_that_does_no_harm_stays(self, service: RunningWorker) -> None:
        """And one with too few episodes."""
        uri = f"sqlite:///{service.data_dir / 'mlflow.db'}"
        version = toys.register(uri, service.data_dir / "toys" / "v1")
        await play(service, "before", 20)
        await command(promote, PromoteSettings, service, version=version)
        await play(service, "after", 20)
        await look(service)
        await command(promote, PromoteSettings, service, version="2")
        await play(service, "few", 9)

        await look(service)

        assert "2" == ledger_of(service)[-1].to_version

    async def test_a_version_that_fails_is_rolled_back(self, service: RunningWorker) -> None:
        """Failures are not in the log, which holds decisions: the service counts them."""
        await play(service, "before", 5)
        await command(promote, PromoteSettings, service, version="2")
        serving = service.worker._versions["default"].serving
        assert serving is not None
        vars(serving.hypermodel)["coefficients"] = lambda rows: np.full((len(rows), 2, 5), np.nan, np.float32)
        for number in range(8):
            assert "BAD_OUTPUT" == (await refusal(service.decision.Act(make_request(f"fails-{number}")))).reason

        await look(service, max_error_rate=0.1, min_steps=5)

        entry = ledger_of(service)[-1]
        assert ("2", "1") == (entry.from_version, entry.to_version)
        assert "8 of 8 steps failed" in entry.reason

    async def test_the_kill_switch_is_left_alone(self, service: RunningWorker) -> None:
        """Whatever returns say: a person threw it."""
        await play(service, "before", 20)
        await command(kill, KillSettings, service, to="2", reason="drill")
        await play(service, "after", 20)

        await look(service)

        assert ledger_of(service)[-1].is_immediate

    async def test_a_service_that_is_away_is_one_line(
        self, service: RunningWorker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With --once it is a failure; else it is looked at again."""
        assert 1 == await look(service, address="127.0.0.1:1")

        assert 1 == len(capsys.readouterr().err.splitlines())

    def test_a_condition_must_be_declared(self) -> None:
        """Watching for nothing is a mistake."""
        with pytest.raises(ValidationError, match="at least one condition"):
            WatchSettings()
