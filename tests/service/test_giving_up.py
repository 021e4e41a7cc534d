"""Callers that give up: who cancels, or whose deadline passes, before a step is decided costs nobody anything."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from hyperact.v1.decision_pb2 import ActBatchRequest, ActStreamRequest, Position
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.log_pb2 import ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub
from toy_hold_up import gathering, held_up, num_running, until
from toy_serve import serve
from toy_worker import RunningWorker, make_request, registry_with_version, running


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    registry_with_version(tmp_path)
    async with running(tmp_path, inference_threads=1) as worker:
        yield worker


def give_up(call: Any) -> None:
    call.cancel()


def wait_on(call: Any) -> None:
    """Do nothing: its deadline passes."""


@pytest.mark.parametrize(
    ("way", "seconds", "end"),
    [
        ("Act", None, give_up),
        ("Act", 0.3, wait_on),
        ("ActBatch", None, give_up),
        ("ActBatch", 0.3, wait_on),
        ("ActStream", None, give_up),
    ],
)
async def test_what_nobody_waits_for_leaves_its_batch(
    service: RunningWorker, way: str, seconds: float | None, end: Callable[[Any], None]
) -> None:
    """It is neither decided nor logged; its batch-mates are answered, and its session can go on."""
    async with held_up(service) as release:
        mates = [asyncio.ensure_future(service.decision.Act(make_request(f"mate-{n}"))) for n in range(5)]
        quitters = [make_request(f"quitter-{n}", run="r", position=Position()) for n in range(4)]
        calls = call_by(service, way, quitters, seconds)
        await until(lambda: len(gathering(service)) == 9)
        for call in calls:
            end(call)
        await until(lambda: sum(row.is_wanted for row in gathering(service)) == 5)
        release.set()
        answers = await asyncio.gather(*mates)

    sessions = {step.step_id.session for step in await service.steps()}
    again = await service.decision.Act(quitters[0])

    assert {f"mate-{n}" for n in range(5)} == {answer.step_id.session for answer in answers}
    assert {f"mate-{n}" for n in range(5)} | {f"first-{n}" for n in range(num_running)} == sessions
    assert (0, 0) == (again.step_id.episode, again.step_id.number)
    assert 0 == service.worker._data_plane.num_in_work


def call_by(service: RunningWorker, way: str, requests: list[Any], seconds: float | None) -> list[Any]:
    """Return calls under way that carry the requests."""
    if way == "Act":
        calls: list[Any] = [service.decision.Act(request, timeout=seconds) for request in requests]
    elif way == "ActBatch":
        calls = [service.decision.ActBatch(ActBatchRequest(requests=requests), timeout=seconds)]
    else:
        calls = [service.decision.ActStream(iter([ActStreamRequest(requests=requests)]), timeout=seconds)]
    return calls


async def test_a_retry_of_what_was_given_up_keeps_it_in_its_batch(service: RunningWorker) -> None:
    """Somebody waits again: the step is decided once, for whoever came second."""
    request = make_request("quitter", run="r", position=Position())
    async with held_up(service) as release:
        call = service.decision.Act(request)
        await until(lambda: len(gathering(service)) == 1)
        call.cancel()
        await until(lambda: not gathering(service)[0].is_wanted)
        retry = asyncio.ensure_future(service.decision.Act(request))
        await until(lambda: gathering(service)[0].is_wanted)
        release.set()
        answer = await retry

    assert (0, 0) == (answer.step_id.episode, answer.step_id.number)
    assert num_running + 1 == len(await service.steps())


def test_deadlines_that_passed_before_the_service_came_to_them_are_not_computed(tmp_path: Path) -> None:
    """A process that was stalled does not work off what its callers have long given up on, but for a few.

    gRPC counts a deadline from when it reads the call, so a call looks alive until its end is read too.
    """
    registry_with_version(tmp_path)
    with serve(tmp_path) as served:
        address = served.wait_for("serving")["address"]
        with grpc.insecure_channel(address) as channel:
            stub = DecisionServiceStub(channel)
            stub.Act(make_request("first"), timeout=20)
            served.process.send_signal(signal.SIGSTOP)
            flights = [stub.Act.future(make_request(f"late-{n}"), timeout=0.5) for n in range(100)]
            codes = {flight.code() for flight in flights}
            served.process.send_signal(signal.SIGCONT)
            stub.Act(make_request("last"), timeout=20)
            entries = [entry for page in LogServiceStub(channel).Read(ReadRequest()) for entry in page.entries]

    assert {grpc.StatusCode.DEADLINE_EXCEEDED} == codes
    sessions = [entry.step.step_id.session for entry in entries]
    assert {"first", "last"} <= set(sessions)
    assert len(sessions) < 2 + len(flights) / 2
