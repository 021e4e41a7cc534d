"""DecisionService over a real socket, with a real registry and a real log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import toys
from hyperact.service.servicer import DecisionServicer, max_batches_per_stream
from hyperact.v1 import manifests
from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActRequest,
    ActStreamRequest,
    GetSpecRequest,
    Outcome,
    Position,
    ReportRequest,
    SessionState,
    StepId,
)
from hyperact.v1.indices import GAUSSIAN, derive_index
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule
from hyperact.v1.steps import to_key
from hyperact.v1.tensor_pb2 import DataType, Tensor
from hyperact.v1.tensors import to_array, to_tensor
from toy_hypermodels import coefficients_of
from toy_worker import RunningWorker, make_request, play, refusal, registry_with_version, running

CODE = grpc.StatusCode


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    """Run a worker with one version of two actions."""
    registry_with_version(tmp_path)
    async with running(tmp_path) as worker:
        yield worker


def reopened(tmp_path: Path) -> "str":
    """Return the index key that the service made for itself."""
    return (tmp_path / "keys" / "index.key").read_text()


class TestAct:
    async def test_a_session_and_an_observation_are_enough(self, service: RunningWorker) -> None:
        """A newcomer's first request is answered, and its step is in the log."""
        answer = await service.decision.Act(make_request())

        (step,) = await service.steps()
        assert step.step_id == answer.step_id
        assert ("default", "agent", 0, 0) == (
            answer.step_id.model,
            answer.step_id.session,
            answer.step_id.episode,
            answer.step_id.number,
        )
        assert (answer.action, answer.version, answer.deployment) == (step.action, "1", 1)
        assert 0 < answer.propensity <= 1
        assert not answer.fallback
        np.testing.assert_array_equal(to_array(make_request().observation), to_array(step.observation))

    async def test_the_token_carries_the_session_through_its_episodes(self, service: RunningWorker) -> None:
        """Positions follow from the outcomes: an outcome that ends the episode begins the next one."""
        answers = await play(service, "agent", [3, 1, 2])

        places = [(answer.step_id.episode, answer.step_id.number) for answer in answers]
        steps = await service.steps()
        assert [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)] == places
        assert [0, 1, 2, 3, 4, 5] == [index for index, _ in enumerate(steps)]
        assert [False, True, True, True, True, True] == [step.HasField("previous_outcome") for step in steps]
        assert [(0, 2), (1, 0)] == [
            (step.previous_position.episode, step.previous_position.number)
            for step in steps
            if step.previous_outcome.terminated
        ]

    async def test_without_a_token_the_replica_remembers(self, service: RunningWorker) -> None:
        """The simplest client sends a session, what it sees and what came of the last action."""
        await service.decision.Act(make_request(number=0))
        second = await service.decision.Act(make_request(number=1, outcome=Outcome(reward=0.5)))
        third = await service.decision.Act(make_request(number=2, outcome=Outcome(reward=0.5, truncated=True)))

        assert (0, 1) == (second.step_id.episode, second.step_id.number)
        assert (1, 0) == (third.step_id.episode, third.step_id.number)

    async def test_the_decision_can_be_recomputed(self, service: RunningWorker, tmp_path: Path) -> None:
        """Years later, version, observation and ids give the same action: the index is a function."""
        answers = await play(service, "agent", [3])
        hypermodel = service.worker._versions["default"].serving.hypermodel  # type: ignore[union-attr]
        key = bytes.fromhex(reopened(tmp_path))

        for answer, step in zip(answers, await service.steps(), strict=True):
            index = derive_index(key, to_key(step.step_id), step.segment, 4, GAUSSIAN)
            coefficients = coefficients_of(hypermodel, to_array(step.observation)[None])[0]
            values = coefficients[:, 0] + coefficients[:, 1:] @ index

            assert values.argmax() == answer.action
            assert values.max() - values.min() == pytest.approx(answer.margin, rel=1e-4)

    async def test_the_posterior_comes_on_request(self, service: RunningWorker) -> None:
        """The uncertainty behind an answer can be seen."""
        plain = await service.decision.Act(make_request("plain"))
        asked = await service.decision.Act(make_request("asked", want_posterior=True))

        assert not plain.HasField("posterior")
        assert [2, 2, 2] == [
            len(asked.posterior.means),
            len(asked.posterior.standard_deviations),
            len(asked.posterior.probabilities),
        ]
        assert asked.propensity == pytest.approx(asked.posterior.probabilities[asked.action])

    async def test_a_forbidden_action_is_not_taken(self, service: RunningWorker) -> None:
        """The mask rules and is logged."""
        answers = [
            await service.decision.Act(make_request(f"agent-{n}", n, action_mask=bytes([n % 2, 1 - n % 2])))
            for n in range(6)
        ]

        assert [1, 0, 1, 0, 1, 0] == [answer.action for answer in answers]
        assert {1.0} == {answer.propensity for answer in answers}
        assert {b"\x00\x01", b"\x01\x00"} == {step.action_mask for step in await service.steps()}

    async def test_sessions_of_one_batch_keep_their_own_indices(self, service: RunningWorker) -> None:
        """Concurrent sessions get the answers that they would get alone."""
        requests = [make_request(f"agent-{n}", 1, run="r", position=Position()) for n in range(20)]
        alone = [await service.decision.Act(request) for request in requests]
        others = [make_request(f"agent-{n}", 1, run="s", position=Position()) for n in range(20)]

        together = await asyncio.gather(*(service.decision.Act(request) for request in others))

        by_log = {(step.step_id.session, step.step_id.run): step.action for step in await service.steps()}
        assert [by_log[f"agent-{n}", "r"] for n in range(20)] == [answer.action for answer in alone]
        assert [by_log[f"agent-{n}", "s"] for n in range(20)] == [answer.action for answer in together]
        assert [0] * 20 == [answer.step_id.number for answer in together]

    async def test_evaluation_is_marked_in_the_log(self, service: RunningWorker) -> None:
        """Steps that only measure are never learned from."""
        await service.decision.Act(make_request(evaluation=True))

        assert [True] == [step.evaluation for step in await service.steps()]


class TestRetries:
    async def test_a_retry_gets_the_same_answer_and_one_record(self, service: RunningWorker) -> None:
        """A client that timed out may simply ask again."""
        first = await service.decision.Act(make_request(run="r", position=Position()))
        again = await service.decision.Act(make_request(run="r", position=Position()))
        second = await service.decision.Act(make_request(number=1, token=first.token, outcome=Outcome(reward=1)))
        second_again = await service.decision.Act(make_request(number=1, token=first.token, outcome=Outcome(reward=1)))

        assert first == again
        assert second == second_again
        assert 2 == len(await service.steps())

    async def test_a_retry_over_the_end_of_an_episode_is_one_too(self, service: RunningWorker) -> None:
        """The first step of the next episode can be repeated, by token or by position."""
        first = await service.decision.Act(make_request(run="r", position=Position()))
        end = Outcome(reward=1, terminated=True)
        by_token = make_request(number=1, token=first.token, outcome=end)
        by_position = make_request(number=1, run="r", position=Position(episode=1), outcome=end)

        answers = [await service.decision.Act(request) for request in (by_token, by_token, by_position)]

        assert [(1, 0)] * 3 == [(answer.step_id.episode, answer.step_id.number) for answer in answers]
        assert 2 == len(await service.steps())

    async def test_requests_in_flight_share_the_decision(self, service: RunningWorker) -> None:
        """A hedged request is one step."""
        request = make_request(run="r", position=Position())

        answers = await asyncio.gather(*(service.decision.Act(request) for _ in range(8)))

        assert all(answer == answers[0] for answer in answers)
        assert 1 == len(await service.steps())

    async def test_a_restart_in_between_changes_nothing(self, tmp_path: Path) -> None:
        """The log remembers what the replica forgot."""
        registry_with_version(tmp_path)
        async with running(tmp_path) as before:
            first = await before.decision.Act(make_request(run="r", position=Position()))
            second = await before.decision.Act(make_request(number=1, token=first.token))
        async with running(tmp_path) as after:
            first_again = await after.decision.Act(make_request(run="r", position=Position()))
            second_again = await after.decision.Act(make_request(number=1, token=first.token))
            third = await after.decision.Act(make_request(number=2, token=second_again.token))

            assert (first, second) == (first_again, second_again)
            assert 2 == third.step_id.number
            assert 3 == len(await after.steps())

    async def test_another_observation_for_a_decided_step_is_refused(self, tmp_path: Path) -> None:
        """A step happened once; nobody rewrites what the agent saw, not after a restart either."""
        registry_with_version(tmp_path)
        async with running(tmp_path) as before:
            await before.decision.Act(make_request(run="r", position=Position()))
            other = make_request(number=5, run="r", position=Position())
            found = await refusal(before.decision.Act(other))
        async with running(tmp_path) as after:
            found_after = await refusal(after.decision.Act(other))

            assert 1 == len(await after.steps())
        for one in (found, found_after):
            assert (CODE.FAILED_PRECONDITION, "observation", "OTHER_OBSERVATION") == (one.code, one.field, one.reason)

    async def test_a_caller_that_gives_up_harms_nobody(self, service: RunningWorker) -> None:
        """Its batch-mates are answered, and its own retry finds the step decided."""
        request = make_request("impatient", run="r", position=Position())
        impatient = service.decision.Act(request)
        mates = [service.decision.Act(make_request(f"mate-{n}")) for n in range(5)]
        await asyncio.sleep(0.005)
        impatient.cancel()

        answers = await asyncio.gather(*mates)
        again = await service.decision.Act(request)

        assert 5 == len(answers)
        assert "impatient" == again.step_id.session
        assert 6 == len(await service.steps())


class TestFencing:
    async def test_a_newer_run_takes_over(self, service: RunningWorker) -> None:
        """A restarted agent begins anew, and its old self is told to stop."""
        old = await service.decision.Act(make_request(run="run-1"))
        new = await service.decision.Act(make_request(run="run-2"))

        by_run = await refusal(service.decision.Act(make_request(run="run-1")))
        by_token = await refusal(service.decision.Act(make_request(number=1, token=old.token)))
        by_report = await refusal(
            service.decision.Report(ReportRequest(session="agent", token=old.token, outcome=Outcome(terminated=True)))
        )

        assert ("run-2", 0, 0) == (new.step_id.run, new.step_id.episode, new.step_id.number)
        for found, field in ((by_run, "run"), (by_token, "token"), (by_report, "token")):
            assert (CODE.ABORTED, "FENCED_RUN", field) == (found.code, found.reason, found.field)
        assert 2 == len(await service.steps())

    async def test_a_stale_token_is_refused(self, service: RunningWorker) -> None:
        """Two processes with one token cannot both go on."""
        answers = await play(service, "agent", [8])

        found = await refusal(service.decision.Act(make_request(number=99, token=answers[0].token)))

        assert (CODE.ABORTED, "STALE_TOKEN", "token") == (found.code, found.reason, found.field)
        assert 8 == len(await service.steps())


def tensor(**fields: object) -> Tensor:
    """Return a good observation but for the fields given."""
    good = make_request().observation
    return Tensor(**{"data": good.data, "dtype": good.dtype, "shape": good.shape, **fields})  # type: ignore[arg-type]


BAD_REQUESTS = {
    "shape": (make_request(observation=tensor(shape=[1, 3])), CODE.INVALID_ARGUMENT, "observation.shape"),
    "dtype": (
        make_request(observation=tensor(dtype=DataType.DATA_TYPE_INT32)),
        CODE.INVALID_ARGUMENT,
        "observation.dtype",
    ),
    "no dtype": (make_request(observation=tensor(dtype=0)), CODE.INVALID_ARGUMENT, "observation.dtype"),
    "byte count": (make_request(observation=tensor(data=b"1234567")), CODE.INVALID_ARGUMENT, "observation.data"),
    "no observation": (ActRequest(session="bad"), CODE.INVALID_ARGUMENT, "observation.dtype"),
    "nan": (
        make_request(observation=to_tensor(np.array([0, np.nan, 0], np.float32))),
        CODE.INVALID_ARGUMENT,
        "observation.data",
    ),
    "all forbidden": (make_request(action_mask=b"\x00\x00"), CODE.INVALID_ARGUMENT, "action_mask"),
    "mask length": (make_request(action_mask=b"\x01"), CODE.INVALID_ARGUMENT, "action_mask"),
    "mask values": (make_request(action_mask=b"\x01\x02"), CODE.INVALID_ARGUMENT, "action_mask"),
    "empty session": (make_request(""), CODE.INVALID_ARGUMENT, "session"),
    "10 kB session": (make_request("s" * 10_000), CODE.INVALID_ARGUMENT, "session"),
    "control character": (make_request("a\nb"), CODE.INVALID_ARGUMENT, "session"),
    "unknown model": (make_request(model="nobody"), CODE.NOT_FOUND, "model"),
    "bad run": (make_request(run="no spaces"), CODE.INVALID_ARGUMENT, "run"),
    "reward": (make_request(outcome=Outcome(reward=float("nan"))), CODE.INVALID_ARGUMENT, "outcome.reward"),
    "final observation": (
        make_request(outcome=Outcome(truncated=True, final_observation=tensor(shape=[3, 1]))),
        CODE.INVALID_ARGUMENT,
        "outcome.final_observation.shape",
    ),
    "early final observation": (
        make_request(outcome=Outcome(reward=1, final_observation=tensor())),
        CODE.INVALID_ARGUMENT,
        "outcome.final_observation",
    ),
    "outcome of nothing": (make_request(outcome=Outcome(reward=1)), CODE.FAILED_PRECONDITION, "outcome"),
    "number beyond any": (make_request(position=Position(number=2**64 - 1)), CODE.INVALID_ARGUMENT, "position.number"),
    "episode beyond any": (
        make_request(position=Position(episode=2**64 - 1)),
        CODE.INVALID_ARGUMENT,
        "position.episode",
    ),
    "garbage token": (make_request(token=b"\x00" * 40), CODE.UNAUTHENTICATED, "token"),
    "short token": (make_request(token=b"x"), CODE.UNAUTHENTICATED, "token"),
    "huge token": (make_request(token=b"x" * 100_000), CODE.UNAUTHENTICATED, "token"),
}


class TestBadInput:
    @pytest.mark.parametrize("name", BAD_REQUESTS)
    async def test_it_is_refused_with_its_field_named(self, service: RunningWorker, name: str) -> None:
        """Whoever sends it learns what to mend; the model and the log never see it."""
        request, code, field = BAD_REQUESTS[name]

        found = await refusal(service.decision.Act(request))

        assert (code, field) == (found.code, found.field)
        assert found.message.startswith(field) or name == "unknown model"
        assert [] == await service.steps()
        assert (await service.decision.Act(make_request("good"))).version == "1"

    async def test_batch_mates_are_unharmed(self, service: RunningWorker) -> None:
        """Of a batch of every kind of bad request and two good ones, the good ones are decided."""
        requests = []
        for place, (request, _, _) in enumerate(BAD_REQUESTS.values()):
            copy = ActRequest()
            copy.CopyFrom(request)
            if copy.session in ("agent", "bad"):
                copy.session = f"bad-{place}"
            requests.append(copy)
        batch = [make_request("first"), *requests, make_request("last")]

        response = await service.decision.ActBatch(ActBatchRequest(requests=batch))

        errors = [result.error for result in response.results[1:-1]]
        expected = [(code.value[0], field) for _, code, field in BAD_REQUESTS.values()]
        assert expected == [(error.code, error.field) for error in errors]
        assert all(error.message and error.reason for error in errors)
        assert ["first", "last"] == [response.results[n].response.step_id.session for n in (0, -1)]
        assert {"first", "last"} == {step.step_id.session for step in await service.steps()}

    async def test_an_observation_that_overflows_the_model_fails_alone(self, service: RunningWorker) -> None:
        """Finite going in, infinite coming out: that row has no answer, and its mates have theirs."""
        huge = make_request("huge", observation=to_tensor(np.full(3, 3e38, np.float32)))
        batch = [make_request("first"), huge, make_request("last", 1)]

        results = (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results

        assert ["response", "error", "response"] == [result.WhichOneof("result") for result in results]
        assert "BAD_OUTPUT" == results[1].error.reason
        assert {"first", "last"} == {step.step_id.session for step in await service.steps()}

    async def test_a_token_of_another_service_is_refused(self, service: RunningWorker, tmp_path: Path) -> None:
        """A key that this service does not hold signs nothing here."""
        registry_with_version(tmp_path / "other")
        async with running(tmp_path / "other") as other:
            token = (await other.decision.Act(make_request())).token

        found = await refusal(service.decision.Act(make_request(token=token)))

        assert (CODE.UNAUTHENTICATED, "token", "BAD_TOKEN") == (found.code, found.field, found.reason)

    async def test_a_token_with_a_forged_version_is_refused(self, service: RunningWorker) -> None:
        """Nobody chooses the version that decides by editing what they carry."""
        token = (await service.decision.Act(make_request())).token
        state = SessionState.FromString(token[:-16])
        state.version = "7"

        found = await refusal(service.decision.Act(make_request(token=state.SerializeToString() + token[-16:])))

        assert (CODE.UNAUTHENTICATED, "token") == (found.code, found.field)

    async def test_a_token_of_another_session_is_refused(self, service: RunningWorker) -> None:
        """A token is no ticket for somebody else."""
        token = (await service.decision.Act(make_request("mine"))).token

        found = await refusal(service.decision.Act(make_request("yours", token=token)))

        assert (CODE.INVALID_ARGUMENT, "token", "WRONG_TOKEN") == (found.code, found.field, found.reason)

    async def test_a_session_stands_once_in_a_batch(self, service: RunningWorker) -> None:
        """Two steps of one session cannot be decided at once; the first is."""
        batch = [make_request("twin"), make_request("other"), make_request("twin")]

        results = (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results

        assert ["response", "response", "error"] == [result.WhichOneof("result") for result in results]
        assert ("session", "DUPLICATE_SESSION") == (results[2].error.field, results[2].error.reason)

    @pytest.mark.parametrize("num_requests", [0, 257])
    async def test_a_batch_has_its_bounds(self, service: RunningWorker, num_requests: int) -> None:
        """Empty and oversized batches are refused as a whole."""
        batch = [make_request(f"agent-{n}") for n in range(num_requests)]

        found = await refusal(service.decision.ActBatch(ActBatchRequest(requests=batch)))

        assert (CODE.INVALID_ARGUMENT, "requests") == (found.code, found.field)

    async def test_an_observation_out_of_bounds_is_refused(self, tmp_path: Path) -> None:
        """A spec with bounds holds them."""
        uri = toys.make_registry(tmp_path)
        manifest = toys.toy_version(tmp_path / "v", observation_dtype=np.uint8)
        manifest.spec.observation.maximum = 1
        (tmp_path / "v" / "manifest.json").write_text(manifests.to_json(manifest))
        toys.register(uri, tmp_path / "v", alias="champion")
        async with running(tmp_path) as service:
            observation = to_tensor(np.array([0, 2, 0], np.uint8))

            found = await refusal(service.decision.Act(ActRequest(session="agent", observation=observation)))

        assert (CODE.INVALID_ARGUMENT, "observation.data", "OUT_OF_BOUNDS") == (found.code, found.field, found.reason)


class TestBatchesAndStreams:
    async def test_results_come_in_the_order_of_the_requests(self, service: RunningWorker) -> None:
        """A vector of environments is answered in one message."""
        batch = [make_request(f"agent-{n}", n) for n in range(32)]

        results = (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results

        assert [f"agent-{n}" for n in range(32)] == [result.response.step_id.session for result in results]
        assert 32 == len(await service.steps())

    async def test_a_stream_answers_every_batch(self, service: RunningWorker) -> None:
        """Batches on a stream may overtake; each answer carries its batch's id."""
        batches = [
            ActStreamRequest(batch_id=100 + n, requests=[make_request(f"agent-{n}-{m}") for m in range(3)])
            for n in range(40)
        ]

        answers = {answer.batch_id: answer.results async for answer in service.decision.ActStream(iter(batches))}

        assert {100 + n for n in range(40)} == set(answers)
        for n in range(40):
            sessions = [result.response.step_id.session for result in answers[100 + n]]
            assert [f"agent-{n}-{m}" for m in range(3)] == sessions

    async def test_a_client_that_does_not_read_its_answers_is_not_asked_for_more(self, service: RunningWorker) -> None:
        """Answers that nobody fetches must not pile up in the service."""
        num_taken = 0

        async def batches() -> AsyncIterator[ActStreamRequest]:
            nonlocal num_taken
            for num_taken in range(1, 1001):
                yield ActStreamRequest(requests=[make_request(f"agent-{num_taken}")])

        servicer = DecisionServicer(service.worker._data_plane)
        no_context: Any = None
        async with contextlib.aclosing(servicer.ActStream(batches(), no_context)) as stream:  # type: ignore[type-var]
            await anext(stream)
            await asyncio.sleep(0.5)

        assert num_taken <= max_batches_per_stream + 1

    async def test_a_bad_batch_ends_its_stream_with_the_reason(self, service: RunningWorker) -> None:
        """A stream whose client breaks the rules is told so."""
        stream = service.decision.ActStream(iter([ActStreamRequest(batch_id=1)]))

        found = await refusal(stream.read())

        assert (CODE.INVALID_ARGUMENT, "requests") == (found.code, found.field)


class TestReport:
    async def test_the_end_of_an_episode_moves_the_session(self, service: RunningWorker) -> None:
        """An agent whose episode ended has nothing to ask, and the next episode begins with its next question."""
        first = await service.decision.Act(make_request())
        outcome = Outcome(reward=2, truncated=True, final_observation=make_request(number=9).observation)

        response = await service.decision.Report(ReportRequest(session="agent", token=first.token, outcome=outcome))
        by_token = await service.decision.Act(make_request(number=1, token=response.token))
        report = (await service.reports())[0]

        assert response.step_id == first.step_id == report.step_id
        assert outcome == report.outcome
        assert (1, 0) == (by_token.step_id.episode, by_token.step_id.number)
        assert not (await service.steps())[1].HasField("previous_outcome")

    async def test_it_works_without_a_token(self, service: RunningWorker) -> None:
        """The simplest client ends its episode by the session's name."""
        await service.decision.Act(make_request())
        await service.decision.Report(ReportRequest(session="agent", outcome=Outcome(terminated=True)))

        again = await service.decision.Act(make_request(number=1))

        assert (1, 0) == (again.step_id.episode, again.step_id.number)

    async def test_a_repetition_counts_once(self, service: RunningWorker) -> None:
        """A report that is sent twice is in the log once and answered alike."""
        first = await service.decision.Act(make_request())
        request = ReportRequest(session="agent", token=first.token, outcome=Outcome(reward=1, terminated=True))

        responses = [await service.decision.Report(request) for _ in range(3)]

        assert responses[0].token
        assert responses[0] == responses[1] == responses[2]
        assert 1 == len(await service.reports())

    async def test_rewards_of_one_step_are_told_apart_by_their_ids(self, service: RunningWorker) -> None:
        """Equal rewards that came twice count twice if the client says so."""
        first = await service.decision.Act(make_request())
        for report_id in ("click-1", "click-2", "click-2"):
            await service.decision.Report(
                ReportRequest(session="agent", step_id=first.step_id, outcome=Outcome(reward=1), report_id=report_id)
            )

        assert ["click-1", "click-2"] == [report.report_id for report in await service.reports()]

    async def test_a_late_reward_does_not_move_the_session(self, service: RunningWorker) -> None:
        """The reward of an earlier step is recorded for it, and the session goes on where it was."""
        answers = await play(service, "agent", [3])
        request = ReportRequest(session="agent", step_id=answers[0].step_id, outcome=Outcome(reward=5))

        response = await service.decision.Report(request)
        after = await service.decision.Act(make_request(number=3, token=answers[-1].token))

        assert b"" == response.token
        assert answers[0].step_id == response.step_id
        assert 3 == after.step_id.number

    async def test_the_outcome_may_be_sent_again_with_the_next_request(self, service: RunningWorker) -> None:
        """A client that never got the report's answer goes on with its old token."""
        first = await service.decision.Act(make_request())
        end = Outcome(reward=1, terminated=True)
        await service.decision.Report(ReportRequest(session="agent", token=first.token, outcome=end))

        second = await service.decision.Act(make_request(number=1, token=first.token, outcome=end))

        assert (1, 0) == (second.step_id.episode, second.step_id.number)

    @pytest.mark.parametrize(
        ("fields", "code", "field"),
        [
            ({"outcome": Outcome()}, CODE.INVALID_ARGUMENT, "outcome"),
            ({"outcome": Outcome(reward=float("inf"))}, CODE.INVALID_ARGUMENT, "outcome.reward"),
            ({"session": ""}, CODE.INVALID_ARGUMENT, "session"),
            ({"session": "unknown"}, CODE.FAILED_PRECONDITION, "step_id"),
            ({"model": "nobody"}, CODE.NOT_FOUND, "model"),
            ({"token": b"forged" * 5}, CODE.UNAUTHENTICATED, "token"),
            ({"report_id": "r" * 65}, CODE.INVALID_ARGUMENT, "report_id"),
            (
                {"step_id": StepId(model="default", session="other", run="r")},
                CODE.INVALID_ARGUMENT,
                "step_id.session",
            ),
            ({"step_id": StepId(model="default", session="agent", run="!")}, CODE.INVALID_ARGUMENT, "step_id.run"),
        ],
    )
    async def test_bad_reports_are_refused(
        self, service: RunningWorker, fields: dict[str, object], code: CODE, field: str
    ) -> None:
        """Nothing malformed reaches the log."""
        await service.decision.Act(make_request())

        found = await refusal(
            service.decision.Report(
                ReportRequest(**{"session": "agent", "outcome": Outcome(reward=1), **fields})  # type: ignore[arg-type]
            )
        )

        assert (code, field) == (found.code, found.field)
        assert [] == await service.reports()


class TestGetSpec:
    async def test_it_tells_what_the_model_expects(self, service: RunningWorker) -> None:
        """A client can check itself before it plays."""
        response = await service.decision.GetSpec(GetSpecRequest())

        assert ("default", "1", 1, 256) == (
            response.model,
            response.version,
            response.deployment,
            response.max_batch,
        )
        assert toys.toy_spec() == response.spec

    async def test_an_unknown_model_is_not_found(self, service: RunningWorker) -> None:
        """A typo is told."""
        found = await refusal(service.decision.GetSpec(GetSpecRequest(model="nobody")))

        assert CODE.NOT_FOUND == found.code


class TestKinds:
    async def test_one_shot_steps_are_episodes_of_their_own(self, tmp_path: Path) -> None:
        """A bandit's every question is new: a new index each, and rewards come whenever they come."""
        registry_with_version(tmp_path, agent_kind=AgentKind.AGENT_KIND_ONE_SHOT)
        async with running(tmp_path) as service:
            answers = [await service.decision.Act(make_request(number=n)) for n in range(3)]
            late = ReportRequest(session="agent", step_id=answers[0].step_id, outcome=Outcome(reward=1))
            response = await service.decision.Report(late)

            assert [(0, 0), (1, 0), (2, 0)] == [(a.step_id.episode, a.step_id.number) for a in answers]
            assert b"" == response.token

    async def test_one_shot_requests_need_not_wait_for_each_other(self, tmp_path: Path) -> None:
        """A web server asks for many visitors at once under one session."""
        registry_with_version(tmp_path, agent_kind=AgentKind.AGENT_KIND_ONE_SHOT)
        async with running(tmp_path) as service:
            answers = await asyncio.gather(*(service.decision.Act(make_request(number=n)) for n in range(10)))

            assert set(range(10)) == {answer.step_id.episode for answer in answers}

    async def test_continuing_agents_change_their_index_by_segments(self, tmp_path: Path) -> None:
        """Segments begin where the hash says, and the log says where each index was drawn."""
        registry_with_version(
            tmp_path,
            agent_kind=AgentKind.AGENT_KIND_CONTINUING,
            index_schedule=IndexSchedule.INDEX_SCHEDULE_GEOMETRIC,
            discount=0.7,
        )
        async with running(tmp_path) as service:
            await play(service, "agent", [30])
            segments = [step.segment for step in await service.steps()]

        assert 0 == segments[0]
        assert all(
            segment in (number, before)
            for number, (before, segment) in enumerate(zip([0, *segments], segments, strict=False))
        )
        assert 2 < len(set(segments)) < 30

    async def test_a_lost_segment_is_derived_anew(self, tmp_path: Path) -> None:
        """A client without its token, on a replica that forgot it, acts by the index that it had."""
        registry_with_version(
            tmp_path,
            agent_kind=AgentKind.AGENT_KIND_CONTINUING,
            index_schedule=IndexSchedule.INDEX_SCHEDULE_GEOMETRIC,
            discount=0.9,
        )
        async with running(tmp_path) as before:
            run = (await play(before, "agent", [15]))[0].step_id.run
            segment = (await before.steps())[-1].segment
        async with running(tmp_path) as after:
            request = make_request(number=15, run=run, position=Position(number=15))
            await after.decision.Act(request)
            step = (await after.steps())[-1]

        assert 15 == step.step_id.number
        assert step.segment in (segment, 15)
        # Where a segment begins the version may change: nothing is re-pinned there.
        assert step.repinned == (step.segment != 15)
