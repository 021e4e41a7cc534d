"""Who gets in and who does not, over a real socket with TLS."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hyperact.inference import open_inference_pb2, open_inference_pb2_grpc
from hyperact.service import app
from hyperact.service.access import Access, access_of_method, check_complete
from hyperact.service.credentials import hash_token
from hyperact.service.settings import ServeSettings
from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActStreamRequest,
    GetSpecRequest,
    Outcome,
    ReportRequest,
)
from hyperact.v1.deployment_pb2 import GetStatusRequest, ReloadRequest, WatchStatusRequest
from hyperact.v1.log_pb2 import AcknowledgeRequest, ForgetRequest, GetRangeRequest, ReadRequest
from toy_certificates import Authority, Certificate
from toy_worker import (
    RunningWorker,
    make_request,
    observation_size,
    play,
    read_refusal,
    refusal,
    registry_with_version,
    running,
    speaking_as,
)

CODE = grpc.StatusCode
ROLES = ("act", "read-log", "operate")
# What gRPC's asyncio client makes, now and then, of a refusal that comes while it still sends.
CLIENT_FAULT = "Internal error from Core"
TOKENS = {role: f"{role}-token-0123456789" for role in ROLES}


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Return who signs everything here."""
    return Authority()


def declare(path: Path, *others: str, without: str = "") -> Path:
    """Write a credentials file with a caller for each role, named like it, and more lines."""
    tables = [
        f'[callers.{role}]\nroles = ["{role}"]\ntokens = ["{hash_token(TOKENS[role])}"]\n'
        for role in ROLES
        if role != without
    ]
    path.write_text("\n".join([*tables, *others]))
    path.chmod(0o600)
    return path


def secured(data_dir: Path, authority: Authority, **settings: Any) -> dict[str, Any]:
    """Return settings of a service with a certificate and a credentials file."""
    certificate, key = authority.issue_for_server().write(data_dir / "tls", "server")
    return {
        "tls_certificate_file": certificate,
        "tls_key_file": key,
        "credentials_file": declare(data_dir / "credentials.toml"),
        **settings,
    }


@pytest.fixture
async def service(tmp_path: Path, authority: Authority) -> AsyncIterator[RunningWorker]:
    """Run a worker that knows a caller of each role, and nobody else."""
    registry_with_version(tmp_path)
    async with running(tmp_path, authority.credentials(), **secured(tmp_path, authority)) as worker:
        yield worker


def as_role(service: RunningWorker, authority: Authority, role: str) -> AbstractAsyncContextManager[RunningWorker]:
    """Speak to a service with the token of a role."""
    return speaking_as(service, authority.credentials(token=TOKENS[role]))


async def first(stream: Any) -> Any:
    """Return a stream's first answer and let go of it."""
    try:
        return await anext(aiter(stream))
    finally:
        stream.cancel()


def calls(service: RunningWorker) -> dict[str, Any]:
    """Return a good call of every method, by its path."""
    reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    inference = open_inference_pb2_grpc.GRPCInferenceServiceStub(service.channel)
    return {
        "/hyperact.v1.DecisionService/Act": lambda: service.decision.Act(make_request()),
        "/hyperact.v1.DecisionService/ActBatch": lambda: service.decision.ActBatch(
            ActBatchRequest(requests=[make_request("batch")])
        ),
        "/hyperact.v1.DecisionService/ActStream": lambda: first(
            service.decision.ActStream(iter([ActStreamRequest(requests=[make_request("stream")])]))
        ),
        "/hyperact.v1.DecisionService/Report": lambda: service.decision.Report(
            ReportRequest(session="agent", outcome=Outcome(reward=1))
        ),
        "/hyperact.v1.DecisionService/GetSpec": lambda: service.decision.GetSpec(GetSpecRequest()),
        "/hyperact.v1.LogService/Read": lambda: first(service.log.Read(ReadRequest(follow=True))),
        "/hyperact.v1.LogService/GetRange": lambda: service.log.GetRange(GetRangeRequest()),
        "/hyperact.v1.LogService/Acknowledge": lambda: service.log.Acknowledge(AcknowledgeRequest(reader="r")),
        "/hyperact.v1.LogService/Forget": lambda: service.log.Forget(ForgetRequest(reader="r")),
        "/hyperact.v1.DeploymentService/GetStatus": lambda: service.deployment.GetStatus(GetStatusRequest()),
        "/hyperact.v1.DeploymentService/WatchStatus": lambda: first(
            service.deployment.WatchStatus(WatchStatusRequest())
        ),
        "/hyperact.v1.DeploymentService/Reload": lambda: service.deployment.Reload(ReloadRequest()),
        **{
            f"/inference.GRPCInferenceService/{name}": partial(getattr(inference, name), request)
            for name, request in {
                "ServerLive": open_inference_pb2.ServerLiveRequest(),
                "ServerReady": open_inference_pb2.ServerReadyRequest(),
                "ServerMetadata": open_inference_pb2.ServerMetadataRequest(),
                "ModelReady": open_inference_pb2.ModelReadyRequest(name="default"),
                "ModelMetadata": open_inference_pb2.ModelMetadataRequest(name="default"),
                "ModelInfer": infer_request(),
            }.items()
        },
        "/grpc.health.v1.Health/Check": lambda: service.health.Check(health_pb2.HealthCheckRequest()),
        "/grpc.health.v1.Health/List": lambda: service.health.List(health_pb2.HealthListRequest()),
        "/grpc.health.v1.Health/Watch": lambda: first(service.health.Watch(health_pb2.HealthCheckRequest())),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": lambda: first(
            reflection.ServerReflectionInfo(iter([asked]))
        ),
    }


def infer_request() -> open_inference_pb2.ModelInferRequest:
    """Return a good question of the Open Inference Protocol."""
    shape = [1, observation_size]
    named = open_inference_pb2.ModelInferRequest.InferInputTensor(name="observations", datatype="FP32", shape=shape)
    return open_inference_pb2.ModelInferRequest(
        model_name="default", inputs=[named], raw_input_contents=[bytes(4 * observation_size)]
    )


async def outcome(call: Any) -> tuple[grpc.StatusCode, str]:
    """Make a call and return its status and the reason in its details."""
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            if error.details() == CLIENT_FAULT:
                continue
            found = read_refusal(error)
            return found.code, found.reason
        return CODE.OK, ""


async def eventually(call: Any, code: grpc.StatusCode) -> None:
    """Repeat a call until it ends with a status; the test's own timeout bounds it."""
    while (await outcome(call))[0] is not code:  # noqa: ASYNC110 - what it waits for is another process's to tell
        await asyncio.sleep(0.02)


class TestRoles:
    async def test_the_table_names_every_method(self, service: RunningWorker) -> None:
        """A method that is added without saying who may call it is not served."""
        assert set(access_of_method) == set(calls(service))
        with pytest.raises(RuntimeError, match=re.escape("/x.Y/New")):
            check_complete(["/x.Y/New"])

    @pytest.mark.parametrize("role", ROLES)
    async def test_a_role_opens_its_methods_and_no_others(
        self, service: RunningWorker, authority: Authority, role: str
    ) -> None:
        """Agents cannot read the log, readers cannot steer, and whoever steers does not act."""
        async with as_role(service, authority, "act") as actor, as_role(service, authority, role) as caller:
            await play(actor, "agent", [2])
            found = {path: await outcome(call) for path, call in calls(caller).items()}

        for path, answer in found.items():
            is_open = access_of_method[path] in (Access.ANYONE, Access.KNOWN, Access(role))
            assert (CODE.OK, "") if is_open else (CODE.PERMISSION_DENIED, "MISSING_ROLE") == answer, path

    async def test_a_stranger_learns_only_whether_the_service_is_ready(self, service: RunningWorker) -> None:
        """Without a token every method but health refuses."""
        found = {path: await outcome(call) for path, call in calls(service).items()}

        for path, answer in found.items():
            is_open = access_of_method[path] is Access.ANYONE
            assert answer == ((CODE.OK, "") if is_open else (CODE.UNAUTHENTICATED, "UNKNOWN_CALLER")), path

    @pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic YTpi", "", "Bearer " + "x" * 4000])
    async def test_a_wrong_token_is_refused(self, service: RunningWorker, header: str) -> None:
        """Nothing but a token that is known opens."""
        found = await refusal(service.decision.Act(make_request(), metadata=(("authorization", header),)))

        assert (CODE.UNAUTHENTICATED, "UNKNOWN_CALLER") == (found.code, found.reason)

    async def test_a_strangers_message_is_not_even_read(self, tmp_path: Path, authority: Authority) -> None:
        """What is too large to be read is refused for who sent it, for nobody looked."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority, max_message_bytes=1024)
        async with running(tmp_path, authority.credentials(), **settings) as service:
            large = make_request("s" * 100_000)
            stranger = await refusal(service.decision.Act(large))
            async with as_role(service, authority, "act") as actor:
                known = await refusal(actor.decision.Act(large))

        assert CODE.UNAUTHENTICATED == stranger.code
        assert CODE.RESOURCE_EXHAUSTED == known.code

    async def test_refusals_are_counted(self, service: RunningWorker, authority: Authority) -> None:
        """An operator sees that somebody tries."""
        await refusal(service.decision.Act(make_request()))
        async with as_role(service, authority, "act") as actor:
            await refusal(actor.deployment.Reload(ReloadRequest()))

        samples = {
            sample.labels["reason"]: sample.value
            for family in service.worker.metrics.registry.collect()
            for sample in family.samples
            if sample.name == "hyperact_refused_calls_total"
        }
        assert {"UNKNOWN_CALLER": 1.0, "MISSING_ROLE": 1.0} == samples


class TestOwnSessions:
    async def test_a_caller_acts_only_for_its_own_sessions(self, tmp_path: Path, authority: Authority) -> None:
        """One tenant cannot fence another's agents by their names."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority)
        declare(
            settings["credentials_file"],
            f'[callers.robots]\nroles = ["act"]\ntokens = ["{hash_token("robots")}"]\nsessions = ["robot-", "arm-"]',
        )
        async with (
            running(tmp_path, authority.credentials(), **settings) as service,
            speaking_as(service, authority.credentials(token="robots")) as robots,
        ):
            own = await robots.decision.Act(make_request("arm-1"))
            act = await refusal(robots.decision.Act(make_request("agent")))
            report = await refusal(
                robots.decision.Report(ReportRequest(session="agent", step_id=own.step_id, outcome=Outcome(reward=1)))
            )
            batch = await robots.decision.ActBatch(
                ActBatchRequest(requests=[make_request("agent"), make_request("robot-1")])
            )

        assert (CODE.PERMISSION_DENIED, "NOT_YOUR_SESSION", "session") == (act.code, act.reason, act.field)
        assert report.code in (CODE.PERMISSION_DENIED, CODE.INVALID_ARGUMENT)
        assert ["NOT_YOUR_SESSION", ""] == [result.error.reason for result in batch.results]


class TestCertificates:
    async def test_a_certificate_is_a_callers_name(self, tmp_path: Path, authority: Authority) -> None:
        """With mTLS no token is needed; names come from the alternative names, else from the common name."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority, tls_client_ca_file=tmp_path / "ca.pem")
        (tmp_path / "ca.pem").write_bytes(authority.certificate)
        declare(
            settings["credentials_file"], '[callers.robots]\nroles = ["act"]\ncertificates = ["robot", "spiffe://r"]'
        )
        uri = authority.issue("anything", "spiffe://r", "robot.example.com")
        common = authority.issue("robot")
        hidden = authority.issue("robot", "other.example.com")

        async with running(tmp_path, authority.credentials(uri), **settings) as by_uri:
            assert (CODE.OK, "") == await outcome(calls(by_uri)["/hyperact.v1.DecisionService/Act"])
            assert (CODE.PERMISSION_DENIED, "MISSING_ROLE") == await outcome(
                calls(by_uri)["/hyperact.v1.LogService/Read"]
            )
            for certificate, expected in ((common, CODE.OK), (hidden, CODE.UNAUTHENTICATED)):
                async with speaking_as(by_uri, authority.credentials(certificate)) as caller:
                    code, _ = await outcome(calls(caller)["/hyperact.v1.DecisionService/ActBatch"])
                    assert expected is code
            # A token goes before the certificate, also a wrong one.
            async with speaking_as(by_uri, authority.credentials(uri, TOKENS["read-log"])) as reader:
                assert (CODE.OK, "") == await outcome(calls(reader)["/hyperact.v1.LogService/GetRange"])
            async with speaking_as(by_uri, authority.credentials(uri, "wrong")) as wrong:
                assert (CODE.UNAUTHENTICATED, "UNKNOWN_CALLER") == await outcome(
                    calls(wrong)["/hyperact.v1.DecisionService/Act"]
                )

    async def test_nobody_connects_without_a_certificate_of_the_authority(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        """Strangers do not come as far as a method, nor do friends of another authority."""
        registry_with_version(tmp_path)
        (tmp_path / "ca.pem").write_bytes(authority.certificate)
        settings = secured(tmp_path, authority, tls_client_ca_file=tmp_path / "ca.pem")
        friend = authority.issue("friend")
        async with running(tmp_path, authority.credentials(friend), **settings) as service:
            assert (CODE.OK, "") == await outcome(calls(service)["/grpc.health.v1.Health/Check"])
            for stranger in (None, Authority("another").issue("friend")):
                async with speaking_as(service, authority.credentials(stranger)) as caller:
                    call = caller.health.Check(health_pb2.HealthCheckRequest(), timeout=60)
                    assert CODE.UNAVAILABLE is (await refusal(call)).code


class TestChanges:
    async def test_a_renewed_certificate_serves_new_connections(self, tmp_path: Path, authority: Authority) -> None:
        """Nobody restarts a service because a certificate runs out; half-done replacements change nothing."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority)
        newer = Authority("newer")
        renewed = newer.issue_for_server()
        async with running(tmp_path, authority.credentials(), **settings) as service:
            await outcome(calls(service)["/grpc.health.v1.Health/Check"])
            before = await can_connect(service, authority), await can_connect(service, newer)
            settings["tls_certificate_file"].write_bytes(renewed.certificate)
            halfway = await can_connect(service, authority), await can_connect(service, newer)
            settings["tls_key_file"].write_bytes(renewed.key)
            after = await can_connect(service, authority), await can_connect(service, newer)
            kept = await outcome(calls(service)["/grpc.health.v1.Health/Check"])

        assert ((True, False), (True, False), (False, True)) == (before, halfway, after)
        assert (CODE.OK, "") == kept  # the connection from before goes on

    async def test_a_revoked_caller_is_out_at_once(
        self, service: RunningWorker, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Its next call is refused and its open stream ended; the others' go on."""
        monkeypatch.setattr(app, "housekeeping_period_seconds", 0.02)
        async with as_role(service, authority, "act") as actor, as_role(service, authority, "operate") as operator:
            stream = actor.decision.ActStream()
            await stream.write(ActStreamRequest(batch_id=1, requests=[make_request()]))
            answered: Any = await stream.read()
            watch = operator.deployment.WatchStatus(WatchStatusRequest())
            await watch.read()
            declare(tmp_path / "credentials.toml", without="act")
            await eventually(calls(actor)["/hyperact.v1.DecisionService/GetSpec"], CODE.UNAUTHENTICATED)
            await stream.write(ActStreamRequest(batch_id=2, requests=[make_request("other")]))
            ended = await refusal(stream.read())
            still = await outcome(calls(operator)["/hyperact.v1.DeploymentService/Reload"])
            watch.cancel()

        assert 1 == answered.batch_id
        assert CODE.UNAUTHENTICATED == ended.code
        assert (CODE.OK, "") == still

    async def test_a_broken_credentials_file_changes_nothing(
        self, service: RunningWorker, authority: Authority, tmp_path: Path
    ) -> None:
        """A slip of the pen locks nobody out."""
        (tmp_path / "credentials.toml").write_text("[callers.")
        assert service.worker._guard is not None
        service.worker._guard.refresh()

        async with as_role(service, authority, "act") as actor:
            assert (CODE.OK, "") == await outcome(calls(actor)["/hyperact.v1.DecisionService/Act"])


async def can_connect(service: RunningWorker, authority: Authority, client: Certificate | None = None) -> bool:
    """Tell whether a new connection of somebody who trusts an authority is made."""
    async with speaking_as(service, authority.credentials(client)) as caller:
        try:
            await caller.health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        except grpc.aio.AioRpcError:
            return False
    return True


class TestExcess:
    async def test_a_callers_requests_are_limited_and_nobody_elses(self, tmp_path: Path, authority: Authority) -> None:
        """One who floods gets RESOURCE_EXHAUSTED with a delay; a neighbour is answered meanwhile."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority, max_caller_requests=4, batch_wait_ms=50.0)
        declare(
            settings["credentials_file"],
            f'[callers.other]\nroles = ["act"]\ntokens = ["{hash_token("other")}"]',
        )
        async with (
            running(tmp_path, authority.credentials(), **settings) as service,
            as_role(service, authority, "act") as flooding,
            speaking_as(service, authority.credentials(token="other")) as neighbour,
        ):
            batch = ActBatchRequest(requests=[make_request(f"flood-{n}") for n in range(12)])
            flood = asyncio.ensure_future(flooding.decision.ActBatch(batch))
            answers = await asyncio.gather(*(neighbour.decision.Act(make_request(f"n-{n}")) for n in range(3)))
            results = (await flood).results
            again = await flooding.decision.ActBatch(ActBatchRequest(requests=[make_request("flood-11")]))

        assert 3 == len(answers)
        assert 4 == sum(result.HasField("response") for result in results)
        refused = [result.error for result in results if result.HasField("error")]
        assert {(CODE.RESOURCE_EXHAUSTED.value[0], "CALLER_REQUESTS")} == {(e.code, e.reason) for e in refused}
        assert all(error.retry_delay.ToMilliseconds() > 0 for error in refused)
        assert again.results[0].HasField("response")

    async def test_a_callers_sessions_are_limited_and_nobody_elses_forgotten(
        self, tmp_path: Path, authority: Authority
    ) -> None:
        """Names drawn at random do not drive out other people's agents; a known session goes on."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority, max_caller_sessions=2)
        async with (
            running(tmp_path, authority.credentials(), **settings) as service,
            as_role(service, authority, "act") as actor,
        ):
            known = [await actor.decision.Act(make_request(f"agent-{n}")) for n in range(2)]
            found = await refusal(actor.decision.Act(make_request("agent-2")))
            again = await actor.decision.Act(make_request("agent-0", number=1, token=known[0].token))

        assert (CODE.RESOURCE_EXHAUSTED, "CALLER_SESSIONS") == (found.code, found.reason)
        assert found.retry_seconds
        assert 1 == again.step_id.number

    async def test_a_callers_streams_are_limited(self, tmp_path: Path, authority: Authority) -> None:
        """A stream that ends makes room for another."""
        registry_with_version(tmp_path)
        settings = secured(tmp_path, authority, max_caller_streams=1)
        async with (
            running(tmp_path, authority.credentials(), **settings) as service,
            as_role(service, authority, "operate") as caller,
        ):
            open_one = caller.deployment.WatchStatus(WatchStatusRequest())
            await open_one.read()
            found = await refusal(caller.deployment.WatchStatus(WatchStatusRequest()).read())
            open_one.cancel()
            await eventually(calls(caller)["/hyperact.v1.DeploymentService/WatchStatus"], CODE.OK)

        assert (CODE.RESOURCE_EXHAUSTED, "CALLER_STREAMS") == (found.code, found.reason)
        assert found.retry_seconds

    async def test_one_reader_leaves_room_for_others(self, service: RunningWorker, authority: Authority) -> None:
        """Whoever follows the log many times over does not keep the trainer from reading it."""
        async with as_role(service, authority, "read-log") as reader:
            streams = [reader.log.Read(ReadRequest(follow=True)) for _ in range(16)]
            for stream in streams:
                await stream.read()
            found = await refusal(reader.log.Read(ReadRequest()).read())
            for stream in streams:
                stream.cancel()

        assert (CODE.RESOURCE_EXHAUSTED, "CALLER_STREAMS") == (found.code, found.reason)

    async def test_without_names_a_host_is_a_caller(self, tmp_path: Path) -> None:
        """Limits can be had without credentials."""
        registry_with_version(tmp_path)
        async with running(tmp_path, max_caller_sessions=1) as service:
            await service.decision.Act(make_request("one"))
            found = await refusal(service.decision.Act(make_request("two")))

        assert (CODE.RESOURCE_EXHAUSTED, "CALLER_SESSIONS") == (found.code, found.reason)


class TestMalformedMessages:
    @pytest.mark.parametrize("path", [path for path in access_of_method if not path.startswith("/grpc.")])
    async def test_bytes_that_are_no_message_are_the_callers_fault(self, tmp_path: Path, path: str) -> None:
        """Not the service's: INVALID_ARGUMENT, for every method, and the service goes on."""
        async with running(tmp_path, fallback_num_actions=2) as service:
            method: Any = service.channel.stream_stream(path)
            found = await outcome(lambda: method(iter([b"\xff\xff\xff"])).read())
            answer = await service.decision.Act(make_request())

        assert (CODE.INVALID_ARGUMENT, "MALFORMED") == found
        assert answer.fallback


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "problem"),
        [
            ({"address": "0.0.0.0:1"}, "reachable from elsewhere"),
            ({"address": "[::]:1"}, "reachable from elsewhere"),
            ({"address": "0.0.0.0:1", "tls_certificate_file": "a", "tls_key_file": "b"}, "credentials_file"),
            ({"address": "0.0.0.0:1", "credentials_file": "a"}, "needs TLS"),
            ({"metrics_address": "0.0.0.0:1"}, "metrics_address"),
            ({"tls_key_file": "b"}, "give both"),
            ({"tls_client_ca_file": "c"}, "needs tls_certificate_file"),
            ({"tls_client_ca_file": "c", "tls_certificate_file": "a", "tls_key_file": "b"}, "needs credentials_file"),
        ],
    )
    def test_an_open_door_must_be_said(self, settings: dict[str, Any], problem: str) -> None:
        """Nobody listens to the world by a slip."""
        with pytest.raises(ValueError, match=problem):
            ServeSettings.model_validate(settings)

    def test_a_door_with_lock_and_list_may_face_the_world(self) -> None:
        """TLS and credentials together need no permission; the metrics still do."""
        locked = {"tls_certificate_file": "a", "tls_key_file": "b", "credentials_file": "c"}

        assert ServeSettings.model_validate({"address": "0.0.0.0:1", **locked})
        assert ServeSettings.model_validate({"metrics_address": "0.0.0.0:2", "allow_remote": True})

    def test_one_caller_gets_half_unless_told(self) -> None:
        """Where callers have names, none can take everything."""
        named = ServeSettings.model_validate({"credentials_file": "c", "max_queued": 100, "max_sessions": 10})
        nameless = ServeSettings.model_validate({})

        assert (50, 5) == (named.most_caller_requests, named.most_caller_sessions)
        assert (0, 0) == (nameless.most_caller_requests, nameless.most_caller_sessions)

    @pytest.mark.parametrize("missing", ["certificate", "key"])
    async def test_files_that_do_not_fit_stop_the_start(
        self, tmp_path: Path, authority: Authority, missing: str
    ) -> None:
        """A service that cannot be reached safely is not started."""
        settings = secured(tmp_path, authority)
        settings[f"tls_{missing}_file"].write_text("nothing")

        with pytest.raises(ValueError, match="not a certificate and its unencrypted key"):
            async with running(tmp_path, authority.credentials(), **settings):
                pass
