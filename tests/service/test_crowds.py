"""Clients that vanish, sit idle by the thousand, or do not read: nobody else is to notice."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import toys
from hyperact.v1.decision_pb2 import ActBatchRequest, ActStreamRequest, Outcome
from hyperact.v1.deployment_pb2 import GetStatusRequest
from toy_worker import RunningWorker, make_request, play, registry_with_version, running

num_idle = 10_000
vanishing_client = Path(__file__).parents[1] / "toy_vanishing_client.py"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RunningWorker]:
    registry_with_version(tmp_path)
    async with running(tmp_path, max_wait_ms=0.0) as worker:
        yield worker


async def pinned(service: RunningWorker) -> dict[str, int]:
    """Return how many episodes are pinned to each loaded version."""
    (status,) = (await service.deployment.GetStatus(GetStatusRequest())).models
    return {version.version: version.num_pinned_episodes for version in status.versions}


def num_streams() -> int:
    return sum("_answer_all" in str(task.get_coro()) for task in asyncio.all_tasks())


async def test_a_client_that_is_killed_in_the_middle_of_a_stream_leaves_nothing_behind(service: RunningWorker) -> None:
    """Its stream ends here too, nothing of it stays in work, and its steps are in the log once each."""
    command = [sys.executable, str(vanishing_client), service.address]
    client = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert client.stdout is not None
    for _ in range(20):
        assert b"answered\n" == await client.stdout.readline()
    client.kill()
    await client.wait()

    async with asyncio.timeout(60):
        while num_streams() or service.worker._data_plane.num_in_work:  # noqa: ASYNC110 it is what the service sees
            await asyncio.sleep(0.02)
    answers = await play(service, "mate", [5])
    ids = [step.step_id.SerializeToString(deterministic=True) for step in await service.steps()]

    assert 5 == len(answers)
    assert 20 * 8 + 5 <= len(ids)
    assert len(ids) == len(set(ids))


@pytest.mark.timeout(300)
async def test_ten_thousand_idle_sessions_hold_their_version_and_nobody_up(
    service: RunningWorker, tmp_path: Path
) -> None:
    """They wait in the middle of their episodes: the old version stays for them, a new one serves, others play on."""
    tokens = {}
    for first in range(0, num_idle, 250):
        batch = [make_request(f"idle-{number}") for number in range(first, first + 250)]
        for result in (await service.decision.ActBatch(ActBatchRequest(requests=batch))).results:
            tokens[result.response.step_id.session] = result.response.token
    toys.toy_version(tmp_path / "toys" / "v2", seed=2)
    toys.register(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "toys" / "v2", alias="champion")
    await service.reload()

    played = await play(service, "busy", [5, 5])
    woken = await service.decision.Act(make_request("idle-77", 1, token=tokens["idle-77"], outcome=Outcome(reward=1.0)))

    assert {"2"} == {answer.version for answer in played}
    assert ("1", 1) == (woken.version, woken.step_id.number)
    assert num_idle + 1 == service.worker._data_plane.num_sessions
    assert {"1": num_idle, "2": 1} == await pinned(service)

    for _ in range(num_idle // 1000 + 1):  # it forgets a piece at a time
        service.worker._data_plane._sessions.expire(time.monotonic() + 3601)

    assert 0 == service.worker._data_plane.num_sessions
    assert 0 == (await pinned(service)).get("1", 0)


@pytest.mark.timeout(300)
async def test_a_slow_reader_is_not_read_from_either(service: RunningWorker) -> None:
    """Who sends and does not read is stopped by the transport; others are answered, and it finds all its answers."""
    num_batches, num_rows = 4000, 64
    call = service.decision.ActStream()
    num_sent = 0

    async def send() -> None:
        nonlocal num_sent
        for number in range(num_batches):
            requests = [make_request(f"slow-{row}", number, want_posterior=True) for row in range(num_rows)]
            await call.write(ActStreamRequest(batch_id=number, requests=requests))
            num_sent += 1

    sending = asyncio.create_task(send())
    last_sent = -1
    async with asyncio.timeout(200):
        while num_sent != last_sent or not num_sent:
            last_sent = num_sent
            await asyncio.sleep(1.0)
    answers = await play(service, "mate", [20])

    assert num_sent < num_batches
    assert 20 == len(answers)
    assert service.worker._data_plane.num_in_work <= 16 * num_rows
    call.cancel()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
