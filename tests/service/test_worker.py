"""A worker's life over a real socket: promotions, the fallback, readiness, limits, metrics, the end."""

import asyncio
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import toys
from hyperact.service.commands import health
from hyperact.service.settings import HealthSettings
from hyperact.v1.decision_pb2 import ActBatchRequest, Outcome, ReportRequest
from hyperact.v1.deployment_pb2 import GetStatusRequest, GetStatusResponse, VersionState
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule
from toy_worker import RunningWorker, make_request, play, refusal, registry_with_version, running

CODE = grpc.StatusCode
STATUS = health_pb2.HealthCheckResponse


def always(action: int) -> dict[str, Any]:
    """Return what makes a toy version of two actions that always takes one."""
    coefficients = np.zeros((2, 5), np.float32)
    coefficients[action, 0] = 1.0
    return {"coefficients": coefficients}


async def is_ready(service: RunningWorker, name: str = "") -> bool:
    """Ask for the service's health."""
    response = await service.health.Check(health_pb2.HealthCheckRequest(service=name))
    return bool(response.status == STATUS.SERVING)


async def status(service: RunningWorker) -> GetStatusResponse:
    """Ask for the service's own words on its state."""
    return await service.deployment.GetStatus(GetStatusRequest())


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    """Run a worker whose version 1 always takes action 0, with a version 2, not promoted, that always takes 1."""
    uri = registry_with_version(tmp_path, **always(0))
    toys.toy_version(tmp_path / "toys" / "v2", **always(1))
    toys.register(uri, tmp_path / "toys" / "v2")
    async with running(tmp_path) as worker:
        yield worker


def promote(tmp_path: Path, version: str) -> None:
    """Move the alias by MLflow alone."""
    toys.promote(f"sqlite:///{tmp_path / 'mlflow.db'}", version)


class TestPromotion:
    async def test_an_episode_keeps_its_version_and_the_next_takes_the_new_one(
        self, service: RunningWorker, tmp_path: Path
    ) -> None:
        """A promotion surprises nobody in the middle of an episode."""
        before = await play(service, "agent", [2])
        promote(tmp_path, "2")
        await service.reload()

        # The outcome of play's last step would end its episode; here it goes on first.
        middle = await service.decision.Act(make_request(number=2, token=before[-1].token, outcome=Outcome(reward=1)))
        end = Outcome(reward=1, terminated=True)
        after = await service.decision.Act(make_request(number=3, token=middle.token, outcome=end))

        versions = [(a.version, a.deployment, a.action) for a in (*before, middle, after)]
        assert [("1", 1, 0)] * 3 + [("2", 2, 1)] == versions
        assert not any(step.repinned for step in await service.steps())

    async def test_a_reported_end_lets_go_of_the_version(self, service: RunningWorker, tmp_path: Path) -> None:
        """An episode that is over holds nothing."""
        first = await service.decision.Act(make_request())
        promote(tmp_path, "2")
        await service.reload()
        pinned = {v.version: v.num_pinned_episodes for v in (await status(service)).models[0].versions}
        await service.decision.Report(
            ReportRequest(session="agent", token=first.token, outcome=Outcome(terminated=True))
        )
        let_go = {v.version: v.num_pinned_episodes for v in (await status(service)).models[0].versions}

        assert {"1": 1, "2": 0} == pinned
        assert 0 == let_go["1"]

    async def test_no_request_fails_while_versions_change(self, service: RunningWorker, tmp_path: Path) -> None:
        """Calls in flight during promotions are answered, each by one version for its whole episode."""
        playing = [asyncio.create_task(play(service, f"agent-{n}", [5] * 12)) for n in range(8)]
        for version in ("2", "1", "2"):
            promote(tmp_path, version)
            await service.reload()
            await asyncio.sleep(0.02)
        answers = await asyncio.gather(*playing)
        last = await service.decision.Act(make_request("new"))

        for session in answers:
            for start in range(0, 60, 5):
                assert 1 == len({answer.version for answer in session[start : start + 5]})
        assert ("2", 4) == (last.version, last.deployment)

    async def test_a_token_brings_its_version_to_a_replica_that_never_saw_it(
        self, service: RunningWorker, tmp_path: Path
    ) -> None:
        """A replica that started after the promotion goes on with the episode's old version."""
        first = await service.decision.Act(make_request())
        promote(tmp_path, "2")
        await service.reload()
        service.stop.set()
        await asyncio.sleep(0.3)
        async with running(tmp_path) as replica:
            second = await replica.decision.Act(make_request(number=1, token=first.token))
            new = await replica.decision.Act(make_request("new"))

            assert ("1", 1, 0) == (second.version, second.deployment, second.action)
            assert ("2", 2) == (new.version, new.deployment)
            assert not (await replica.steps())[1].repinned

    async def test_after_the_drain_deadline_an_episode_moves_on_and_says_so(self, tmp_path: Path) -> None:
        """A version cannot be held for ever; the step where the episode changed is marked."""
        uri = registry_with_version(tmp_path, **always(0))
        toys.toy_version(tmp_path / "toys" / "v2", **always(1))
        toys.register(uri, tmp_path / "toys" / "v2")
        async with running(tmp_path, drain_deadline_seconds=0.0) as service:
            first = await service.decision.Act(make_request())
            promote(tmp_path, "2")
            await service.reload()

            second = await service.decision.Act(make_request(number=1, token=first.token))
            third = await service.decision.Act(make_request(number=2, token=second.token))

            assert ["1", "2", "2"] == [first.version, second.version, third.version]
            assert [False, True, False] == [step.repinned for step in await service.steps()]

    async def test_a_continuing_agent_changes_at_a_segment_start(self, tmp_path: Path) -> None:
        """Where there are no episodes, the version changes with the index and only then."""
        kind: dict[str, Any] = {
            "agent_kind": AgentKind.AGENT_KIND_CONTINUING,
            "index_schedule": IndexSchedule.INDEX_SCHEDULE_GEOMETRIC,
            "discount": 0.8,
        }
        uri = registry_with_version(tmp_path, **kind)
        toys.toy_version(tmp_path / "toys" / "v2", **kind, seed=1)
        toys.register(uri, tmp_path / "toys" / "v2")
        async with running(tmp_path) as service:
            first = await service.decision.Act(make_request())
            promote(tmp_path, "2")
            await service.reload()
            token = first.token
            for number in range(1, 60):
                token = (await service.decision.Act(make_request(number=number, token=token))).token
            steps = await service.steps()

        changes = [step for before, step in pairwise(steps) if before.version != step.version]
        assert [("2", 2)] == [(step.version, step.deployment) for step in changes]
        assert changes[0].segment == changes[0].step_id.number > 0
        assert not changes[0].repinned

    async def test_a_refused_version_leaves_the_last_good_one_serving(
        self, service: RunningWorker, tmp_path: Path
    ) -> None:
        """A corrupt artefact stops nothing, and the reason can be read."""
        directory = tmp_path / "toys" / "corrupt"
        toys.toy_version(directory)
        with (directory / "model.onnx").open("ab") as file:
            file.write(b"forged")
        version = toys.register(f"sqlite:///{tmp_path / 'mlflow.db'}", directory, alias="champion")
        await service.reload()

        answer = await service.decision.Act(make_request())
        found = await status(service)

        refused = [v for v in found.models[0].versions if v.state == VersionState.VERSION_STATE_REFUSED]
        assert "1" == answer.version
        assert [version] == [v.version for v in refused]
        assert "digest" in refused[0].problem
        assert await is_ready(service)


class TestFallback:
    async def test_without_a_version_it_acts_uniformly_and_says_so(self, tmp_path: Path) -> None:
        """An agent can start before anything was learned; the log has the exact propensities."""
        async with running(tmp_path, fallback_num_actions=4) as service:
            batch = [make_request(f"agent-{n}") for n in range(200)]
            results = (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results
            masked = await service.decision.Act(make_request("masked", action_mask=b"\x00\x01\x00\x01"))

        answers = [result.response for result in results]
        counts = np.bincount([answer.action for answer in answers], minlength=4)
        assert {(True, 0.25, 0.0, "", 0)} == {
            (a.fallback, a.propensity, a.margin, a.version, a.deployment) for a in answers
        }
        # 200 draws at 1/4: five standard deviations of a binomial count.
        assert np.abs(counts - 50).max() < 5 * (200 * 0.25 * 0.75) ** 0.5
        assert masked.action in (1, 3)
        assert 0.5 == masked.propensity

    async def test_an_episode_that_began_with_it_ends_with_it(self, tmp_path: Path) -> None:
        """The first version takes over at an episode's beginning, as every version does."""
        uri = toys.make_registry(tmp_path)
        async with running(tmp_path, fallback_num_actions=2) as service:
            first = await service.decision.Act(make_request())
            toys.toy_version(tmp_path / "v", **always(1))
            toys.register(uri, tmp_path / "v", alias="champion")
            await service.reload()

            second = await service.decision.Act(make_request(number=1, token=first.token))
            end = Outcome(terminated=True)
            third = await service.decision.Act(make_request(number=2, token=second.token, outcome=end))

            assert [True, True, False] == [first.fallback, second.fallback, third.fallback]
            assert ("1", 1) == (third.version, third.deployment)

    @pytest.mark.parametrize(
        ("settings", "mask"),
        [
            ({}, b""),
            ({"require_version": True}, b"\x01\x01"),
            ({"require_version": True, "fallback_num_actions": 2}, b""),
        ],
    )
    async def test_when_it_is_off_or_knows_no_actions_nothing_can_be_decided(
        self, tmp_path: Path, settings: dict[str, Any], mask: bytes
    ) -> None:
        """Without a version and without a fallback the answer is a clear no."""
        async with running(tmp_path, **settings) as service:
            found = await refusal(service.decision.Act(make_request(action_mask=mask)))

            assert (CODE.FAILED_PRECONDITION, "NO_VERSION") == (found.code, found.reason)
            assert [] == await service.steps()

    async def test_a_mask_tells_how_many_actions_there_are(self, tmp_path: Path) -> None:
        """An agent that sends masks can start on an empty registry that nobody told anything."""
        async with running(tmp_path) as service:
            answer = await service.decision.Act(make_request(action_mask=b"\x01\x00\x01\x01"))
            other = await service.decision.Act(make_request("other", action_mask=b"\x00\x01"))
            found = await refusal(service.decision.Act(make_request("none", action_mask=b"\x00\x00")))

            assert answer.action in (0, 2, 3)
            assert answer.fallback
            assert answer.propensity == pytest.approx(1 / 3)
            assert (1, 1.0) == (other.action, other.propensity)
            assert (CODE.INVALID_ARGUMENT, "action_mask") == (found.code, found.field)
            assert not await is_ready(service)

    async def test_bad_observations_are_refused_without_a_spec_too(self, tmp_path: Path) -> None:
        """What is not a tensor, or not finite, does not get into the log."""
        async with running(tmp_path, fallback_num_actions=2) as service:
            bad = make_request()
            bad.observation.data = np.full(3, np.inf, np.float32).tobytes()
            found = await refusal(service.decision.Act(bad))

            assert (CODE.INVALID_ARGUMENT, "observation.data") == (found.code, found.field)


class TestReadiness:
    async def test_a_loaded_version_makes_it_ready(self, service: RunningWorker) -> None:
        """For the server as a whole and for each service by name; other names are unknown."""
        assert await is_ready(service)
        assert await is_ready(service, "hyperact.v1.DecisionService")
        assert CODE.NOT_FOUND == (await refusal(service.health.Check(health_pb2.HealthCheckRequest(service="x")))).code

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"fallback_num_actions": 2}, True),
            ({"fallback_num_actions": 0}, False),
            ({"fallback_num_actions": 2, "require_version": True}, False),
        ],
    )
    async def test_an_empty_registry_is_enough_if_the_fallback_may_stand_in(
        self, tmp_path: Path, settings: dict[str, Any], expected: bool
    ) -> None:
        """A load balancer sends requests to whom can answer them, and to nobody else."""
        async with running(tmp_path, **settings) as service:
            found = await status(service)

            assert expected is await is_ready(service)
            assert expected is found.is_ready
            assert expected is (found.problem == "")

    async def test_a_registry_that_is_away_is_not_an_empty_one(self, tmp_path: Path) -> None:
        """Who cannot know whether there is a version does not claim that there is none."""
        (tmp_path / "file").touch()
        uri = f"sqlite:///{tmp_path}/file/mlflow.db"
        async with running(tmp_path, fallback_num_actions=2, tracking_uri=uri) as service:
            assert not await is_ready(service)
            assert "registry" in (await status(service)).problem

    async def test_a_log_that_cannot_be_written_makes_it_unready(self, tmp_path: Path) -> None:
        """A full disk: no step is acknowledged, and the load balancer looks elsewhere."""
        registry_with_version(tmp_path)
        async with running(tmp_path, log_min_free_bytes=1 << 60) as service:
            found = await refusal(service.decision.Act(make_request()))

            assert (CODE.RESOURCE_EXHAUSTED, "LOG_DISK_FULL") == (found.code, found.reason)
            assert found.retry_seconds
            assert not await is_ready(service)

    @pytest.mark.parametrize("trouble", ["full", "read_only"])
    def test_a_disk_that_refuses_is_told_and_survived(self, tmp_path: Path, trouble: str) -> None:
        """Unready as long as it lasts, with the reason; then ready by itself, and nothing acknowledged is lost."""
        command = ["unshare", "--mount", "--map-root-user"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount file systems in a namespace of its own")
        script = Path(__file__).parents[1] / "toy_service_trouble.py"

        finished = subprocess.run(
            [*command, sys.executable, str(script), trouble, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

        assert 0 == finished.returncode, finished.stderr
        assert "survived" in finished.stdout

    async def test_watchers_are_told_of_changes(self, tmp_path: Path) -> None:
        """A client-side balancer need not ask again and again."""
        uri = toys.make_registry(tmp_path)
        async with running(tmp_path) as service:
            watch = service.health.Watch(health_pb2.HealthCheckRequest())
            first = await watch.read()
            toys.toy_version(tmp_path / "v")
            toys.register(uri, tmp_path / "v", alias="champion")
            await service.reload()
            second = await watch.read()

            assert [STATUS.NOT_SERVING, STATUS.SERVING] == [first.status, second.status]

    async def test_the_health_command_tells_by_its_exit_code(
        self, service: RunningWorker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The image's health check is one command and one line."""
        up = await asyncio.to_thread(health, HealthSettings.model_validate({"address": service.address}))
        down = await asyncio.to_thread(
            health, HealthSettings.model_validate({"address": "127.0.0.1:1", "timeout_seconds": 2})
        )

        lines = capsys.readouterr().out.splitlines()
        assert (0, 1) == (up, down)
        assert [f"{service.address} is ready", True] == [lines[0], "does not answer" in lines[1]]


class TestLimits:
    async def test_a_full_queue_refuses_with_a_delay(self, tmp_path: Path) -> None:
        """Overload is told at once, with a time to come back, and what was taken in is answered."""
        registry_with_version(tmp_path)
        async with running(tmp_path, max_queued=4) as service:
            batch = [make_request(f"agent-{n}") for n in range(10)]
            results = (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results

            errors = [result.error for result in results if result.HasField("error")]
            assert 6 == len(errors)
            assert {(CODE.RESOURCE_EXHAUSTED.value[0], "QUEUE_FULL")} == {(e.code, e.reason) for e in errors}
            assert all(error.retry_delay.ToNanoseconds() > 0 for error in errors)
            assert 4 == len(await service.steps())
            assert await service.decision.Act(make_request("agent-9"))

    async def test_threads_may_run_the_model(self, tmp_path: Path) -> None:
        """A heavy model leaves the event loop free; the answers are the same."""
        registry_with_version(tmp_path)
        batch = [make_request(f"agent-{n}", run="r") for n in range(64)]
        actions = []
        for threads in (0, 2):
            async with running(
                tmp_path / str(threads),
                inference_threads=threads,
                max_batch=64,
                tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
                index_key="ab" * 32,
            ) as service:
                results = (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results
                actions.append([result.response.action for result in results])

        assert actions[0] == actions[1]
        assert {0, 1} == set(actions[0])

    async def test_several_models_are_served_side_by_side(self, tmp_path: Path) -> None:
        """One session's name in two models is two sessions."""
        uri = registry_with_version(tmp_path, model="left", **always(0))
        toys.toy_version(tmp_path / "r", model="right", **always(1))
        toys.register(uri, tmp_path / "r", "right", alias="champion")
        async with running(tmp_path, models=["left", "right"]) as service:
            default = await service.decision.Act(make_request())
            right = await service.decision.Act(make_request(model="right"))
            mixed = ActBatchRequest(requests=[make_request("b", model=model) for model in ("left", "right")])
            results = (await service.decision.ActBatch(mixed)).results

            assert [("left", 0), ("right", 1)] == [(a.step_id.model, a.action) for a in (default, right)]
            assert [0, 1] == [result.response.action for result in results]

    def test_listening_beyond_loopback_must_be_said(self) -> None:
        """Nobody exposes an unencrypted port by accident."""
        from hyperact.service.settings import ServeSettings

        with pytest.raises(ValueError, match="allow_remote"):
            ServeSettings.model_validate({"address": "0.0.0.0:50051"})
        for given in (
            {"address": "0.0.0.0:1", "allow_remote": True},
            {"address": "[::1]:1"},
            {"address": "localhost:1"},
        ):
            ServeSettings.model_validate(given)


class TestMetrics:
    async def test_what_happens_is_counted(self, tmp_path: Path) -> None:
        """A dashboard sees decisions by version and code, latencies, sessions and the log."""
        registry_with_version(tmp_path)
        async with running(tmp_path, metrics_address="127.0.0.1:0") as service:
            await play(service, "agent", [3])
            await refusal(service.decision.Act(make_request("")))
            await refusal(service.decision.Act(make_request(model="nobody")))
            url = f"http://127.0.0.1:{service.worker.metrics_port}/metrics"
            text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())

        found = dict(re.findall(r"^(hyperact_\S+) (\S+)$", text, re.MULTILINE))
        expected = {
            'hyperact_decisions_total{code="OK",model="default",version="1"}': 3,
            'hyperact_decisions_total{code="INVALID_ARGUMENT",model="default",version=""}': 1,
            'hyperact_decisions_total{code="NOT_FOUND",model="",version=""}': 1,
            'hyperact_decision_seconds_count{model="default",stage="log",version="1"}': 3,
            'hyperact_batch_rows_sum{model="default",version="1"}': 3,
            'hyperact_swap_seconds_count{model="default",phase="warm_up"}': 1,
            "hyperact_sessions": 1,
            "hyperact_log_steps": 3,
            "hyperact_ready": 1,
            'hyperact_version_swaps_total{model="default"}': 1,
        }
        assert expected == {name: float(found[name]) for name in expected}


class TestReflection:
    async def test_services_can_be_listed(self, service: RunningWorker) -> None:
        """Grpcurl works without the .proto files."""
        stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))

        names = {found.name for found in (await call.read()).list_services_response.service}

        assert {"hyperact.v1.DecisionService", "hyperact.v1.LogService", "hyperact.v1.DeploymentService"} < names
        assert "grpc.health.v1.Health" in names
