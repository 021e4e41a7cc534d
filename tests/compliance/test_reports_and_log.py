"""What any server of the contract does with reports, and what its log and health say. Written against an address."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from caller import Caller, deadline_seconds, new_session, refused
from hyperact.v1.decision_pb2 import Outcome, ReportRequest, ReportResponse, StepId
from hyperact.v1.log_pb2 import GetRangeRequest, LogEntry, LogPosition, ReadRequest

CODE = grpc.StatusCode


def report(caller: Caller, session: str, **fields: object) -> ReportResponse:
    """Send a report."""
    request = ReportRequest(**{"session": session, "model": caller.model, **fields})  # type: ignore[arg-type]
    answer: ReportResponse = caller.decision.Report(request, timeout=deadline_seconds)
    return answer


def ends(caller: Caller) -> list[LogPosition]:
    """Return where the log ends now."""
    ranges = caller.log.GetRange(GetRangeRequest(model=caller.model), timeout=deadline_seconds).ranges
    return [LogPosition(partition=one.partition, offset=one.end_offset) for one in ranges]


def entries_of(caller: Caller, session: str, since: list[LogPosition]) -> list[LogEntry]:
    """Return what the log holds of a session, from some positions on."""
    responses = caller.log.Read(ReadRequest(model=caller.model, positions=since), timeout=deadline_seconds)
    entries = [entry for response in responses for entry in response.entries]
    return [
        entry
        for entry in entries
        if session == (entry.step.step_id.session if entry.HasField("step") else entry.report.step_id.session)
    ]


class TestReport:
    def test_a_report_belongs_to_the_last_step(self, caller: Caller) -> None:
        """Without a step id it is the session's last one, whose name comes back."""
        session = new_session()
        answer = caller.act(caller.request(session))

        told = report(caller, session, token=answer.token, outcome=Outcome(reward=2.0))

        assert answer.step_id == told.step_id

    def test_the_end_of_an_episode_moves_the_session_on(self, caller: Caller) -> None:
        """The token of the answer begins the next episode, and an outcome of the same step is refused then."""
        session = new_session()
        answer = caller.act(caller.request(session))

        told = report(caller, session, token=answer.token, outcome=Outcome(reward=1.0, terminated=True))
        after = caller.act(caller.request(session, 1, token=told.token))

        assert (1, 0) == (after.step_id.episode, after.step_id.number)

    def test_a_repeated_report_counts_once(self, caller: Caller) -> None:
        """The log holds it once."""
        since, session = ends(caller), new_session()
        answer = caller.act(caller.request(session))

        for _ in range(3):
            report(caller, session, step_id=answer.step_id, outcome=Outcome(reward=1.0), report_id="a")

        assert 1 == sum(entry.HasField("report") for entry in entries_of(caller, session, since))

    def test_a_report_that_says_nothing_is_refused(self, caller: Caller) -> None:
        """An outcome has a reward or an end."""
        session = new_session()
        token = caller.act(caller.request(session)).token

        found = refused(lambda: report(caller, session, token=token, outcome=Outcome()))

        assert (CODE.INVALID_ARGUMENT, "outcome") == (found.code, found.field)

    def test_a_report_of_an_unknown_session_is_refused(self, caller: Caller) -> None:
        """Nothing is known that it could belong to."""
        found = refused(lambda: report(caller, new_session(), outcome=Outcome(reward=1.0)))

        assert (CODE.FAILED_PRECONDITION, "UNKNOWN_SESSION") == (found.code, found.reason)

    def test_a_step_of_another_session_is_refused(self, caller: Caller) -> None:
        """A report names a step of its own session."""
        step = StepId(model=caller.model, session="somebody else", run="000000000001")

        found = refused(lambda: report(caller, new_session(), step_id=step, outcome=Outcome(reward=1.0)))

        assert (CODE.INVALID_ARGUMENT, "step_id.session") == (found.code, found.field)


class TestLog:
    def test_an_answered_step_is_in_the_log_once(self, caller: Caller) -> None:
        """With what was seen, decided and known, and however often it was asked for."""
        since, session = ends(caller), new_session()
        request = caller.request(session, run="000000000001", evaluation=True)
        request.position.SetInParent()

        answer, _ = (caller.act(request) for _ in range(2))

        (entry,) = entries_of(caller, session, since)
        step = entry.step
        assert (answer.step_id, answer.action, answer.version) == (step.step_id, step.action, step.version)
        assert (answer.propensity, answer.margin) == (step.propensity, step.margin)
        assert (request.observation, True) == (step.observation, step.evaluation)

    def test_an_outcome_is_logged_with_the_next_step(self, caller: Caller) -> None:
        """It says which step it belongs to."""
        since, session = ends(caller), new_session()

        caller.play(session, 2, terminated=True)

        _, second = (entry.step for entry in entries_of(caller, session, since))
        assert (1.0, True) == (second.previous_outcome.reward, second.previous_outcome.terminated)
        assert (0, 0) == (second.previous_position.episode, second.previous_position.number)

    def test_reading_goes_on_where_it_ended(self, caller: Caller) -> None:
        """`next_positions` is where the next reading begins: nothing twice, nothing missing."""
        since, session = ends(caller), new_session()
        caller.play(session, 3)
        first = list(caller.log.Read(ReadRequest(model=caller.model, positions=since), timeout=deadline_seconds))
        then = first[-1].next_positions

        caller.act(caller.request(session, 100))

        assert 1 == len(entries_of(caller, session, list(then)))

    def test_an_unknown_partition_is_not_found(self, caller: Caller) -> None:
        """A reader of another log is told so."""
        position = LogPosition(partition="0" * 32, offset=1)

        found = refused(lambda: list(caller.log.Read(ReadRequest(positions=[position]))))

        assert CODE.NOT_FOUND == found.code


class TestHealth:
    def test_the_services_are_serving(self, caller: Caller) -> None:
        """As a whole and by name."""
        health = health_pb2_grpc.HealthStub(caller.channel)
        names = ["", *(f"hyperact.v1.{name}Service" for name in ("Decision", "Log", "Deployment"))]

        statuses = {health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}

        assert {health_pb2.HealthCheckResponse.SERVING} == statuses

    def test_an_unknown_service_is_not_found(self, caller: Caller) -> None:
        """A misspelt name is not healthy."""
        health = health_pb2_grpc.HealthStub(caller.channel)

        found = refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="no such service")))

        assert CODE.NOT_FOUND == found.code

    def test_reflection_names_the_services(self, caller: Caller) -> None:
        """A generic tool finds what can be called."""
        stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")

        (response,) = stub.ServerReflectionInfo(iter([request]))

        names = {service.name for service in response.list_services_response.service}
        assert {"hyperact.v1.DecisionService", "hyperact.v1.LogService", "grpc.health.v1.Health"} <= names
