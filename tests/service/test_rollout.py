"""Canaries, shadows and the kill switch: a real worker, a real registry, real versions, the commands themselves."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from pydantic import BaseModel

import toys
from hyperact.service.audit import Grade
from hyperact.service.keys import load_index_key
from hyperact.service.operation_settings import (
    CanarySettings,
    KillSettings,
    PromoteSettings,
    RollbackSettings,
    ShadowSettings,
)
from hyperact.service.shadow_report import read_scores
from hyperact.service.steering import canary, kill, promote, rollback, shadow
from hyperact.v1.decision_pb2 import ActResponse, GetSpecRequest, Outcome
from hyperact.v1.deployment_pb2 import GetStatusRequest, ModelStatus, VersionState, VersionStatus
from hyperact.v1.deployments import CHALLENGER, CHAMPION, SHADOW, read_ledger
from hyperact.v1.indices import derive_canary
from hyperact.v1.model_pb2 import AgentKind
from toy_audits import audited
from toy_worker import RunningWorker, make_request, play, registry_with_version, running

sessions = [f"agent-{number}" for number in range(40)]


def always(action: int) -> dict[str, Any]:
    """Return what makes a toy version of two actions that nearly always takes one."""
    coefficients = np.random.default_rng(0).normal(scale=0.1, size=(2, 5)).astype(np.float32)
    coefficients[:, 0] = 0.0
    coefficients[action, 0] = 1.0
    return {"coefficients": coefficients}


def make_versions(data_dir: Path, **spec: Any) -> str:
    """Register version 1, which takes action 0 and serves, and versions 2 and 3, which take action 1."""
    uri = registry_with_version(data_dir, **always(0), **spec)
    for number in (2, 3):
        toys.toy_version(data_dir / "toys" / f"v{number}", **always(1), **spec)
        toys.register(uri, data_dir / "toys" / f"v{number}")
    return uri


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    make_versions(tmp_path)
    async with running(tmp_path, drain_deadline_seconds=60.0) as service:
        yield service


async def command(
    function: Callable[[Any], int], settings: type[BaseModel], service: RunningWorker, **values: Any
) -> int:
    """Run a command against a worker, beside its event loop."""
    given = {"data_dir": service.data_dir, "address": service.address, "actor": "ann", **values}
    return await asyncio.to_thread(function, settings.model_validate(given))


async def status(service: RunningWorker) -> ModelStatus:
    return (await service.deployment.GetStatus(GetStatusRequest())).models[0]


async def version_status(service: RunningWorker, version: str) -> VersionStatus:
    return next(found for found in (await status(service)).versions if found.version == version)


async def first_steps(service: RunningWorker, prefix: str = "") -> dict[str, str]:
    """Return the version that decides a first step of each session."""
    answers = await asyncio.gather(*(service.decision.Act(make_request(prefix + name)) for name in sessions))
    return {name: answer.version for name, answer in zip(sessions, answers, strict=True)}


def in_share(data_dir: Path, share: float, version: str = "2") -> set[str]:
    """Return the sessions that fall to a challenger, by the contract's derivation."""
    key = load_index_key("", "", data_dir)
    return {name for name in sessions if derive_canary(key, "default", name, version) < share}


class TestCanary:
    async def test_a_share_of_sessions_begins_with_the_challenger(self, service: RunningWorker) -> None:
        """Exactly those that the keyed hash says, and their steps name version and deployment."""
        assert 0 == await command(canary, CanarySettings, service, version="2", share=0.3)

        versions = await first_steps(service)

        expected = in_share(service.data_dir, 0.3)
        assert expected == {name for name, version in versions.items() if version == "2"}
        assert 0 < len(expected) < len(sessions)
        steps = await service.steps()
        assert {("1", 1), ("2", 2)} == {(step.version, step.deployment) for step in steps}

    async def test_a_session_stays_where_it_is(self, service: RunningWorker) -> None:
        """Episode after episode, without anything being stored, and on a replica that never saw it."""
        await command(canary, CanarySettings, service, version="2", share=0.5)
        name = min(in_share(service.data_dir, 0.5))
        other = min(set(sessions) - in_share(service.data_dir, 0.5))

        answers = [await play(service, session, [2, 2, 2, 2]) for session in (name, other)]

        assert [{"2"}, {"1"}] == [{answer.version for answer in some} for some in answers]

    async def test_a_share_that_grows_takes_in_and_lets_none_go(self, service: RunningWorker) -> None:
        """Those who had the challenger keep it."""
        await command(canary, CanarySettings, service, version="2", share=0.2)
        few = {name for name, version in (await first_steps(service, "")).items() if version == "2"}
        await command(canary, CanarySettings, service, version="2", share=0.6)
        many = in_share(service.data_dir, 0.6)

        assert few < many
        assert 0.6 == pytest.approx((await version_status(service, "2")).share)

    async def test_running_episodes_keep_their_version(self, service: RunningWorker) -> None:
        """When the canary begins, and when it ends: an episode ends with what it began with."""
        name = min(in_share(service.data_dir, 0.5))
        before = await play(service, name, [2])
        running_episode = await service.decision.Act(
            make_request(name, 2, token=before[-1].token, outcome=Outcome(reward=1.0, terminated=True))
        )
        await command(canary, CanarySettings, service, version="2", share=0.5)
        same = await service.decision.Act(make_request(name, 3, token=running_episode.token))
        next_one = await service.decision.Act(
            make_request(name, 4, token=same.token, outcome=Outcome(reward=1.0, terminated=True))
        )
        await command(canary, CanarySettings, service, stop=True)
        still = await service.decision.Act(make_request(name, 5, token=next_one.token))
        after = await service.decision.Act(
            make_request(name, 6, token=still.token, outcome=Outcome(reward=1.0, terminated=True))
        )

        assert ["1", "1", "2", "2", "1"] == [
            answer.version for answer in (running_episode, same, next_one, still, after)
        ]
        assert not any(step.repinned for step in await service.steps())

    async def test_it_is_in_the_ledger_and_in_the_status(self, service: RunningWorker) -> None:
        """Who, which share, and when it ended; numbers run over all roles, the champion's chain stays its own."""
        await command(canary, CanarySettings, service, version="2", share=0.25, reason="looks good")
        found = await version_status(service, "2")
        await command(canary, CanarySettings, service, stop=True)
        await command(promote, PromoteSettings, service, version="3")

        ledger = ledger_of(service)
        assert (CHALLENGER, VersionState.VERSION_STATE_SERVING) == (found.role, found.state)
        assert [
            (1, CHAMPION, "", "1"),
            (2, CHALLENGER, "", "2"),
            (3, CHALLENGER, "2", ""),
            (4, CHAMPION, "1", "3"),
        ] == [(entry.number, entry.role, entry.from_version, entry.to_version) for entry in ledger]
        assert (0.25, "ann", "looks good") == (ledger[1].share, ledger[1].actor, ledger[1].reason)

    async def test_a_challenger_that_wins_is_promoted_without_a_stop(self, service: RunningWorker) -> None:
        """Its episodes go on; new ones of all sessions begin with it."""
        await command(canary, CanarySettings, service, version="2", share=0.3)
        await first_steps(service)

        assert 0 == await command(promote, PromoteSettings, service, version="2")

        assert {"2"} == set((await first_steps(service, "new-")).values())
        assert CHAMPION == (await version_status(service, "2")).role

    async def test_an_alias_without_a_share_changes_nothing(self, service: RunningWorker, tmp_path: Path) -> None:
        """Whoever moves it by hand is told how to go on."""
        client(service).set_registered_model_alias("default", "challenger", "2")
        await service.reload()

        assert {"1"} == set((await first_steps(service)).values())
        assert "without a share: hyperact canary 2 --share" in (await status(service)).registry_problem

    async def test_a_challenger_of_another_spec_is_refused(self, service: RunningWorker, tmp_path: Path) -> None:
        """The champion goes on, and the command says why."""
        toys.toy_version(tmp_path / "toys" / "wide", num_actions=3)
        version = toys.register(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "toys" / "wide")

        assert 1 == await command(canary, CanarySettings, service, version=version)
        assert 1 == await command(canary, CanarySettings, service, version=version, force=True, reason="to see")

        assert {"1"} == set((await first_steps(service)).values())

    async def test_the_audit_computes_canary_steps_again(self, service: RunningWorker) -> None:
        """Steps log what they always log."""
        await command(canary, CanarySettings, service, version="2", share=0.5)
        await asyncio.gather(*(play(service, name, [3, 3]) for name in sessions[:10]))

        graded = await asyncio.to_thread(audited, service.data_dir)

        assert 60 == len(graded)
        assert {Grade.EXACT} == {one.finding.grade for one in graded}

    async def test_every_step_of_a_one_shot_agent_is_in_the_share_or_none(self, tmp_path: Path) -> None:
        """Sticky by session there too."""
        make_versions(tmp_path, agent_kind=AgentKind.AGENT_KIND_ONE_SHOT)
        async with running(tmp_path) as service:
            await command(canary, CanarySettings, service, version="2", share=0.5)
            name = min(in_share(tmp_path, 0.5))

            answers = [await service.decision.Act(make_request(name, number)) for number in range(5)]

        assert ["2"] * 5 == [answer.version for answer in answers]


class TestKill:
    async def test_running_episodes_move_at_once_to_random_actions(self, service: RunningWorker) -> None:
        """Their next steps say so: fallback, re-pinned, with the exact propensity."""
        begun = await asyncio.gather(*(play(service, name, [4]) for name in sessions[:20]))

        assert 0 == await command(kill, KillSettings, service, reason="agents hurt themselves")

        after = await go_on(service, begun)
        assert {("", True, 0.5)} == {(answer.version, answer.fallback, answer.propensity) for answer in after}
        assert {0, 1} == {answer.action for answer in after}
        assert all(step.repinned for step in (await service.steps())[-20:])

    async def test_and_to_a_version(self, service: RunningWorker) -> None:
        """A baseline that is known to be safe, under its new deployment."""
        await command(promote, PromoteSettings, service, version="2")
        begun = await asyncio.gather(*(play(service, name, [4]) for name in sessions[:5]))

        assert 0 == await command(kill, KillSettings, service, to="1", reason="worse")

        after = await go_on(service, begun)
        number = ledger_of(service)[-1].number
        assert {("1", number)} == {(answer.version, answer.deployment) for answer in after}
        assert all(step.repinned for step in (await service.steps())[-5:])

    async def test_canary_and_shadow_end_with_it(self, service: RunningWorker) -> None:
        """Nothing but the baseline decides, and no new canary begins while it stands."""
        await command(canary, CanarySettings, service, version="2", share=1.0)
        await command(shadow, ShadowSettings, service, version="3")

        await command(kill, KillSettings, service, to="1", reason="stop everything")

        assert {"1"} == set((await first_steps(service)).values())
        found = await status(service)
        assert [CHAMPION] == [version.role for version in found.versions if version.role]
        assert 1 == await command(canary, CanarySettings, service, version="2")
        await command(promote, PromoteSettings, service, version="1", reason="all is well")
        assert {"1"} == set((await first_steps(service, "later-")).values())
        assert [CHAMPION] == [version.role for version in (await status(service)).versions if version.role]

    async def test_it_stands_until_somebody_promotes(
        self, service: RunningWorker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Status and ledger say who and why; a rollback does not lift it; a promotion must say why."""
        await command(kill, KillSettings, service, reason="smoke")

        assert "smoke" == (await status(service)).kill.reason
        assert 1 == await command(rollback, RollbackSettings, service)
        assert 1 == await command(promote, PromoteSettings, service, version="1")
        assert "the kill switch stands" in capsys.readouterr().err
        assert 0 == await command(promote, PromoteSettings, service, version="1", reason="it was the sensor")

        assert {"1"} == set((await first_steps(service)).values())
        assert not (await status(service)).HasField("kill")

    async def test_what_was_killed_does_not_come_back_while_another_is_loaded(self, service: RunningWorker) -> None:
        """Promoting a version that is refused leaves the kill switch in force."""
        toys.toy_version(service.data_dir / "toys" / "bad", model="another")
        version = toys.register(f"sqlite:///{service.data_dir / 'mlflow.db'}", service.data_dir / "toys" / "bad")
        await command(kill, KillSettings, service, reason="smoke")

        await command(promote, PromoteSettings, service, version=version, force=True, reason="mistaken")

        assert {""} == set((await first_steps(service)).values())

    async def test_a_service_that_starts_meanwhile_heeds_it(self, tmp_path: Path) -> None:
        """It knows the spec from the version that was killed, is ready, and acts at random."""
        make_versions(tmp_path)
        async with running(tmp_path) as service:
            await command(kill, KillSettings, service, reason="smoke")
        for cached in (tmp_path / "versions").rglob("serving.json"):
            cached.unlink()

        async with running(tmp_path) as service:
            answer = await service.decision.Act(make_request("late"))
            spec = await service.decision.GetSpec(GetSpecRequest())
            ready = await service.deployment.GetStatus(GetStatusRequest())

        assert answer.fallback
        assert ("", 2, True) == (spec.version, spec.fallback_num_actions, ready.is_ready)

    async def test_a_token_of_what_was_killed_is_moved_on_another_replica(self, tmp_path: Path) -> None:
        """Also where that version was never loaded."""
        make_versions(tmp_path)
        async with running(tmp_path) as service:
            begun = await play(service, "mover", [3])
            await command(kill, KillSettings, service, to="2", reason="smoke")
        async with running(tmp_path) as service:
            (after,) = await go_on(service, [begun])

        assert "2" == after.version

    async def test_one_shot_agents_act_at_random_one_step_at_a_time(self, tmp_path: Path) -> None:
        """Their rhythm stays: every step is an episode of its own."""
        make_versions(tmp_path, agent_kind=AgentKind.AGENT_KIND_ONE_SHOT)
        async with running(tmp_path) as service:
            await command(kill, KillSettings, service, reason="smoke")

            answers = [await service.decision.Act(make_request("visitor", number)) for number in range(3)]

        assert [(0, 0), (1, 0), (2, 0)] == [(one.step_id.episode, one.step_id.number) for one in answers]

    async def test_the_audit_computes_its_steps_again(self, service: RunningWorker) -> None:
        """Random actions are derived, too."""
        begun = await asyncio.gather(*(play(service, name, [4]) for name in sessions[:5]))
        await command(kill, KillSettings, service, reason="smoke")
        await go_on(service, begun)

        graded = await asyncio.to_thread(audited, service.data_dir)

        assert {Grade.EXACT} == {one.finding.grade for one in graded}


class TestStart:
    async def test_a_version_of_another_spec_is_refused_after_a_restart_too(self, tmp_path: Path) -> None:
        """What served last says of what spec it must be, and goes on serving."""
        uri = make_versions(tmp_path)
        async with running(tmp_path):
            pass
        toys.toy_version(tmp_path / "toys" / "wide", num_actions=3)
        version = toys.register(uri, tmp_path / "toys" / "wide", alias="champion")

        async with running(tmp_path) as service:
            versions = await first_steps(service)
            refused = await version_status(service, version)

        assert {"1"} == set(versions.values())
        assert "WRONG_SPEC" in refused.problem

    async def test_another_registry_of_that_name_begins_anew(self, tmp_path: Path) -> None:
        """What served last belongs to the registry that it came from."""
        make_versions(tmp_path)
        async with running(tmp_path):
            pass
        other = registry_with_version(tmp_path / "other", "wide", num_actions=3)

        async with running(tmp_path, tracking_uri=other) as service:
            spec = await service.decision.GetSpec(GetSpecRequest())

        assert 3 == spec.spec.action.discrete.num_actions


class TestShadow:
    async def test_it_scores_what_others_decide_and_decides_nothing(self, service: RunningWorker) -> None:
        """A record of its own for each served step; the log of what happened has not a trace of it."""
        assert 0 == await command(shadow, ShadowSettings, service, version="2")

        answers = await asyncio.gather(*(play(service, name, [3]) for name in sessions[:10]))

        found = await scored(service, 30)
        assert {"1"} == {answer.version for some in answers for answer in some}
        assert {"1"} == {step.version for step in await service.steps()}
        assert (SHADOW, VersionState.VERSION_STATE_SHADOWING) == (found.role, found.state)
        assert 0 == found.num_agreed  # one always takes action 0, the other 1
        (row,) = await wait_for_scores(service, 30)
        assert ("2", 30, 30, 0) == (row.version, row.num_steps, row.num_found, row.num_agreed)

    async def test_a_shadow_like_the_champion_agrees(self, tmp_path: Path) -> None:
        """The same graph under the same index chooses the same actions."""
        uri = make_versions(tmp_path)
        version = toys.register(uri, tmp_path / "toys" / "v1")
        async with running(tmp_path) as service:
            await command(shadow, ShadowSettings, service, version=version)
            await asyncio.gather(*(play(service, name, [3, 2]) for name in sessions[:10]))

            found = await scored(service, 50)

        assert 50 == found.num_agreed

    async def test_a_shadow_that_answers_nonsense_harms_nobody(self, tmp_path: Path) -> None:
        """Its failures are counted; every request is answered as without it."""
        uri = make_versions(tmp_path)
        toys.toy_version(tmp_path / "toys" / "odd", hidden_sizes=(4,), seed=3)
        version = toys.register(uri, tmp_path / "toys" / "odd")
        async with running(tmp_path) as service:
            await command(shadow, ShadowSettings, service, version=version)
            spoil_shadow(service, lambda rows: np.full((len(rows), 2, 5), np.nan, np.float32))

            answers = await play(service, "agent", [5])
            found = await until(service, version, lambda status: status.num_errors == 5)

        assert 5 == len(answers)
        assert 0 == found.num_steps

    async def test_a_shadow_that_hangs_harms_nobody(
        self, service: RunningWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it has no time for is dropped and counted, and the worker stops as it should."""
        monkeypatch.setattr("hyperact.service.shadow.max_queued_rows", 4)
        await command(shadow, ShadowSettings, service, version="2")
        spoil_shadow(service, hang)

        answers = await asyncio.gather(*(play(service, name, [5]) for name in sessions[:10]))

        assert 50 == sum(map(len, answers))
        found = await until(service, "2", lambda status: status.num_dropped > 0)
        assert 0 == found.num_steps

    async def test_it_ends_when_it_is_told_to(self, service: RunningWorker) -> None:
        """And the ledger says so."""
        await command(shadow, ShadowSettings, service, version="2")

        assert 0 == await command(shadow, ShadowSettings, service, stop=True, reason="seen enough")

        assert SHADOW not in [version.role for version in (await status(service)).versions]
        assert ("2", "", "seen enough") == tuple(
            getattr(ledger_of(service)[-1], name) for name in ("from_version", "to_version", "reason")
        )


def spoil_shadow(service: RunningWorker, coefficients: Callable[[Any], Any]) -> None:
    """Have the shadow's graph answer otherwise from now on: its checks at the load are passed already."""
    shadowing = service.worker._versions["default"].shadow
    assert shadowing is not None
    vars(shadowing.hypermodel)["coefficients"] = coefficients


def hang(_rows: Any) -> Any:
    """Never answer."""
    threading.Event().wait()


def client(service: RunningWorker) -> MlflowClient:
    uri = f"sqlite:///{service.data_dir / 'mlflow.db'}"
    return MlflowClient(uri, uri)


def ledger_of(service: RunningWorker) -> list[Any]:
    return read_ledger(client(service).get_registered_model("default").tags)


async def go_on(service: RunningWorker, begun: list[list[ActResponse]]) -> list[ActResponse]:
    """Take one more step of each running episode, with its token."""
    return await asyncio.gather(
        *(
            service.decision.Act(
                make_request(answers[-1].step_id.session, 99, token=answers[-1].token, outcome=Outcome(reward=1.0))
            )
            for answers in begun
        )
    )


async def until(service: RunningWorker, version: str, is_so: Callable[[VersionStatus], bool]) -> VersionStatus:
    """Return a version's status once something is so; the test's own timeout bounds it."""
    while True:
        found = await version_status(service, version)
        if is_so(found):
            return found
        await asyncio.sleep(0.02)


async def scored(service: RunningWorker, number: int) -> VersionStatus:
    """Return the shadow's status once it scored so many steps."""
    while True:
        for found in (await status(service)).versions:
            if found.role == SHADOW and found.num_steps >= number:
                return found
        await asyncio.sleep(0.02)


async def wait_for_scores(service: RunningWorker, number: int) -> list[Any]:
    """Return what the shadow's log says once it holds so many records."""
    while True:
        rows = await read_scores(service.data_dir, "default")
        if sum(row.num_steps for row in rows) >= number:
            return rows
        await asyncio.sleep(0.05)
