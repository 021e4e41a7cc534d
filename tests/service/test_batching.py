"""Batches: when they close."""

import asyncio

import pytest

from hyperact.service.batching import Batcher, Crowd


def make(max_rows: int = 4, wait_seconds: float = 5.0, max_running: int = 99) -> tuple[Batcher[int], list[list[int]]]:
    """Return a batcher and the batches that it closed so far."""
    batches: list[list[int]] = []
    return Batcher(batches.append, max_rows=max_rows, wait_seconds=wait_seconds, max_running=max_running), batches


async def turn(num_turns: int = 10) -> None:
    """Let the event loop turn."""
    for _ in range(num_turns):
        await asyncio.sleep(0)


async def test_rows_of_one_turn_share_a_batch() -> None:
    """What arrives together is decided together, as soon as nothing else is waiting."""
    batcher, batches = make()

    for row in range(3):
        batcher.add(row)
    assert [] == batches
    await turn()

    assert [[0, 1, 2]] == batches
    assert not batcher.is_idle
    batcher.finished(3)
    assert batcher.is_idle


async def test_a_full_batch_closes_at_once() -> None:
    """No row waits for mates that would not fit."""
    batcher, batches = make(max_rows=4)

    for row in range(9):
        batcher.add(row)

    assert [[0, 1, 2, 3], [4, 5, 6, 7]] == batches
    await turn()
    assert [8] == batches[2]


async def test_a_batch_stays_open_while_rows_keep_coming() -> None:
    """Two idle turns close it; a steady trickle does not."""
    batcher, batches = make(max_rows=100)

    for row in range(20):
        batcher.add(row)
        await turn(1)
    assert [] == batches
    await turn()

    assert [list(range(20))] == batches


async def test_the_deadline_closes_it_under_a_trickle() -> None:
    """Latency is bounded whatever else comes."""
    batcher, batches = make(max_rows=10_000, wait_seconds=0.0)

    for row in range(20):
        batcher.add(row)
        await turn(1)

    assert len(batches) > 1


async def test_under_load_a_batch_waits_for_all_who_were_there() -> None:
    """Those who are answered come again: with those who gathered meanwhile they share the next batch."""
    batcher, batches = make(max_rows=100, wait_seconds=5.0, max_running=1)
    batcher.add(0)
    await turn()
    for row in (1, 2, 3):
        batcher.add(row)

    batcher.finished(1)
    await turn()
    assert [[0]] == batches
    batcher.add(10)
    await turn()

    assert [[0], [1, 2, 3, 10]] == batches


async def test_who_does_not_come_is_waited_for_until_the_deadline() -> None:
    """A crowd that left costs those who stayed one short wait, once."""
    batcher, batches = make(max_rows=100, wait_seconds=0.05, max_running=1)
    for row in range(4):
        batcher.add(row)
    await turn()
    batcher.finished(4)

    batcher.add(4)
    await turn()
    assert 1 == len(batches)
    await asyncio.sleep(0.1)
    assert [4] == batches[1]
    batcher.finished(1)
    batcher.add(5)
    await turn()

    assert [5] == batches[2]


async def test_two_take_turns() -> None:
    """While one is being logged the other is on its way: waiting for each other would serve neither."""
    batcher, batches = make(max_rows=100, max_running=1)
    batcher.add(0)
    await turn()
    batcher.add(1)

    batcher.finished(1)
    await turn()

    assert [[0], [1]] == batches


def test_a_crowd_is_expected_for_a_moment() -> None:
    """A burst that is over is not waited for."""
    crowd = Crowd(keep_seconds=1.0)
    assert 1 == crowd.expected(0.0)

    crowd.count(num_answered=5, num_gathered=3, now=10.0)

    assert 8 == crowd.expected(10.5)
    assert 1 == crowd.expected(11.5)


@pytest.mark.parametrize("max_running", [1, 3])
async def test_the_next_batch_gathers_while_as_many_run_as_may(max_running: int) -> None:
    """Under load rows wait together and go together, in batches that are no larger than allowed."""
    batcher, batches = make(max_rows=4, wait_seconds=0.05, max_running=max_running)
    for row in range(max_running):
        batcher.add(row)
        await turn()

    for row in range(100, 106):
        batcher.add(row)
    await turn()
    assert max_running == len(batches)
    assert 6 == batcher.num_waiting
    batcher.finished(1)

    assert [100, 101, 102, 103] == batches[-1]
    batcher.finished(4)
    await asyncio.sleep(0.1)
    assert [104, 105] == batches[-1]
