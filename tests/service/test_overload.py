"""More requests than can be answered: the rest is refused at once, and it is over when it is over."""

import asyncio
import threading
from pathlib import Path

import grpc
import pytest

from hyperact.service.errors import ExhaustedError
from hyperact.service.work import Work
from toy_hold_up import gathering, held_up, num_running, until
from toy_worker import make_request, read_refusal, refusal, registry_with_version, running

max_queued = 12


async def test_beyond_the_maximum_calls_are_refused_at_once_and_the_rest_is_answered(tmp_path: Path) -> None:
    """Who is refused is told when to come back, and finds room as soon as there is some."""
    registry_with_version(tmp_path)
    async with running(tmp_path, inference_threads=1, max_queued=max_queued) as service:
        async with held_up(service) as release:
            calls = [asyncio.ensure_future(service.decision.Act(make_request(f"agent-{n}"))) for n in range(40)]
            await until(lambda: sum(call.done() for call in calls) == 40 - (max_queued - num_running))
            refused = [read_refusal(call.exception()) for call in calls if call.done()]
            assert max_queued - num_running == len(gathering(service))
            release.set()
            results = await asyncio.gather(*calls, return_exceptions=True)
        again = await asyncio.gather(*(service.decision.Act(make_request(f"agent-{n}")) for n in range(max_queued)))

        assert {(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")} == {(one.code, one.reason) for one in refused}
        assert all(one.retry_seconds for one in refused)
        assert max_queued - num_running == sum(not isinstance(result, BaseException) for result in results)
        assert max_queued == len(again)
        assert 0 == service.worker._data_plane.num_in_work


async def test_requests_that_wait_too_long_for_their_batch_end_the_intake_until_it_is_over(tmp_path: Path) -> None:
    """One late batch is enough to notice, and to forget it that what waited is answered."""
    registry_with_version(tmp_path)
    async with running(tmp_path, inference_threads=1, max_wait_ms=50.0) as service:
        held_again = threading.Event()
        async with held_up(service) as release:
            threads = service.worker._data_plane._pipeline._threads
            assert threads is not None
            threads.submit(held_again.wait)
            calls = [asyncio.ensure_future(service.decision.Act(make_request(f"agent-{n}"))) for n in range(10)]
            await until(lambda: len(gathering(service)) == 10)
            await asyncio.sleep(0.1)
            release.set()
            await until(lambda: service.worker._data_plane._work._resume_at is not None)
            refused = await refusal(service.decision.Act(make_request("too-many")))
            held_again.set()
            await asyncio.gather(*calls)
        await service.decision.Act(make_request("later"))

        assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_SLOW", True) == (
            refused.code,
            refused.reason,
            bool(refused.retry_seconds),
        )
        assert 10 + num_running + 1 == len(await service.steps())


class TestWork:
    @staticmethod
    def with_waiting(num: int) -> Work:
        """Return a queue in which so many wait, the first of them for too long."""
        work = Work(100, wait_limit_seconds=0.05)
        for _ in range(num):
            work.begin()
        work.note_wait(0.06)
        return work

    async def test_it_takes_nothing_in_until_half_is_answered(self) -> None:
        """What waits gets shorter by half before more is taken in."""
        work = self.with_waiting(10)

        with pytest.raises(ExhaustedError, match="wait longer") as found:
            work.check()
        for _ in range(5):
            work.end()
        work.check()

        assert ("QUEUE_SLOW", True) == (found.value.reason, bool(found.value.retry_delay_seconds))

    async def test_while_batches_are_late_it_takes_in_less_and_less(self) -> None:
        """Half was not enough: the next late batch halves again."""
        work = self.with_waiting(10)
        for _ in range(5):
            work.end()
        work.note_wait(0.06)

        with pytest.raises(ExhaustedError):
            work.check()

    async def test_a_batch_in_time_ends_it(self) -> None:
        """All is taken in again, up to the number that may be in work."""
        work = self.with_waiting(10)
        work.note_wait(0.05)

        work.check()

    async def test_an_empty_queue_takes_in_whatever_was_before(self) -> None:
        """A late batch never leaves the service closed, nor half closed."""
        work = self.with_waiting(10)
        for _ in range(10):
            work.end()
        for _ in range(10):
            work.begin()

        work.check()
