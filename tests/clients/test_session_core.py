"""Retries of sessions: what is sent again, when, and what is told to the caller. The test plays the world."""

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from hyperact.clients.effects import Call, Effects, Sleep, run, run_async
from hyperact.clients.errors import (
    BatchError,
    BusyError,
    ClientError,
    FencedError,
    RequestError,
    UnavailableError,
    make_error,
)
from hyperact.clients.retries import Retries
from hyperact.clients.session_core import SessionCore, VectorCore
from hyperact.clients.session_memory import SessionMemory, make_outcome
from hyperact.clients.sessions import make_memories, new_run
from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActBatchResponse,
    ActError,
    ActRequest,
    ActResponse,
    ActResult,
    ReportResponse,
)
from hyperact.v1.steps import StepKey

observation = np.zeros(2, np.float32)
unavailable = make_error(grpc.StatusCode.UNAVAILABLE, "away")
busy = make_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", reason="EXHAUSTED", retry_delay_seconds=0.7)
refused = make_error(grpc.StatusCode.INVALID_ARGUMENT, "expected a finite number", "outcome.reward", "NOT_FINITE")
fenced = make_error(grpc.StatusCode.ABORTED, "newer run", "run", "FENCED_RUN")


class World:
    """A clock that moves by sleeping and calling, and a service that answers by a script."""

    def __init__(self, script: Callable[[Call], Any], call_seconds: float = 0.0) -> None:
        self.now = 100.0
        self.calls: list[Call] = []
        self.sleeps: list[float] = []
        self._script = script
        self._call_seconds = call_seconds

    def clock(self) -> float:
        """Return the time in seconds."""
        return self.now

    def play(self, effects: Effects[Any]) -> Any:
        """Run effects to their end."""
        try:
            effect = next(effects)
            while True:
                effect = self._answer(effects, effect)
        except StopIteration as stop:
            return stop.value

    def _answer(self, effects: Effects[Any], effect: Call | Sleep) -> Call | Sleep:
        if isinstance(effect, Sleep):
            self.sleeps.append(effect.seconds)
            self.now += effect.seconds
            return effects.send(None)
        self.calls.append(effect)
        self.now += self._call_seconds
        answer = self._script(effect)
        return effects.throw(answer) if isinstance(answer, Exception) else effects.send(answer)


def in_turn(*answers: Any) -> Callable[[Call], Any]:
    """Return a service that gives these answers one after the other."""
    remaining = iter(answers)
    return lambda call: next(remaining)


def answer(request: ActRequest, action: int = 0) -> ActResponse:
    """Return a service's answer to a request."""
    step = StepKey("m", request.session, request.run, 0, 0)
    return ActResponse(action=action, token=b"t" + request.session.encode(), step_id=step.to_message())


def answer_first(call: Call) -> Any:
    """Answer any single request."""
    return answer(call.request)


reply = answer(ActRequest(session="a", run="r"))


def make_core(world: World, **keywords: float) -> SessionCore:
    """Return a session in a world."""
    return SessionCore(SessionMemory("a", "r"), Retries(random=Random(0), **keywords), world.clock)


class TestSession:
    def test_what_is_temporary_is_asked_again_unchanged(self) -> None:
        """The service knows the step by its name, so nothing is decided twice."""
        script = in_turn(unavailable, busy, answer(ActRequest(session="a", run="r"), 1))
        world = World(script)

        decision = world.play(make_core(world).act(observation))

        assert decision.action == 1
        assert [world.calls[0].request] * 3 == [call.request for call in world.calls]

    def test_a_busy_service_says_how_long_to_wait(self) -> None:
        """Its delay counts, not ours."""
        world = World(in_turn(busy, answer(ActRequest(session="a", run="r"))))

        world.play(make_core(world).act(observation))

        assert [0.7] == world.sleeps

    def test_pauses_grow_and_stay_bounded(self) -> None:
        """A service that restarts is not drowned."""
        failures = [unavailable] * 12
        world = World(in_turn(*failures, answer(ActRequest(session="a", run="r"))))

        world.play(make_core(world, deadline_seconds=60, initial_seconds=0.1, longest_seconds=2.0).act(observation))

        assert all(0.05 * 2**n <= pause <= 0.1 * 2**n for n, pause in enumerate(world.sleeps[:4]))
        assert all(1.0 <= pause <= 2.0 for pause in world.sleeps[5:])

    def test_after_the_deadline_the_last_error_is_told(self) -> None:
        """No call and no pause goes beyond it."""
        world = World(lambda call: unavailable, call_seconds=0.4)

        with pytest.raises(UnavailableError):
            world.play(make_core(world, deadline_seconds=3).act(observation))

        assert world.now <= 103.4
        assert all(call.timeout_seconds <= 3 for call in world.calls)
        assert world.calls[-1].timeout_seconds < world.calls[0].timeout_seconds

    @pytest.mark.parametrize(
        "code",
        [
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.ABORTED,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        ],
    )
    def test_what_trying_again_cannot_help_is_told_at_once(self, code: grpc.StatusCode) -> None:
        """Whoever is at fault hears of it."""
        world = World(lambda call: make_error(code, "no", "observation.shape", "WRONG_SHAPE"))

        with pytest.raises(ClientError) as raised:
            world.play(make_core(world).act(observation))

        assert (1, []) == (len(world.calls), world.sleeps)
        assert (code, "observation.shape", "WRONG_SHAPE") == (
            raised.value.code,
            raised.value.field,
            raised.value.reason,
        )

    def test_after_a_failure_the_same_step_is_asked_for(self) -> None:
        """A caller who catches the error and goes on loses nothing."""
        world = World(in_turn(fenced, answer(ActRequest(session="a", run="r"))))
        core = make_core(world)

        with pytest.raises(FencedError):
            world.play(core.act(observation))
        world.play(core.act(observation))

        assert world.calls[0].request == world.calls[1].request

    def test_a_refused_outcome_makes_room_for_another(self) -> None:
        """A reward of NaN is the caller's to mend; the session goes on with what is observed in its place."""
        world = World(in_turn(reply, refused, reply))
        core = make_core(world)
        world.play(core.act(observation))
        core.memory.observe(make_outcome(np.nan, terminated=False, truncated=False))
        with pytest.raises(RequestError):
            world.play(core.act(observation))

        core.memory.observe(make_outcome(2.0, terminated=False, truncated=False))
        world.play(core.act(observation))

        assert 2.0 == world.calls[-1].request.outcome.reward

    def test_an_outcome_that_was_not_at_fault_stays(self) -> None:
        """A wrong observation loses nothing of what was observed before."""
        world = World(in_turn(reply, make_error(grpc.StatusCode.INVALID_ARGUMENT, "bad", "observation.shape"), reply))
        core = make_core(world)
        world.play(core.act(observation))
        core.memory.observe(make_outcome(2.0, terminated=False, truncated=False))
        with pytest.raises(RequestError):
            world.play(core.act(observation))

        world.play(core.act(observation))

        assert 2.0 == world.calls[-1].request.outcome.reward

    def test_closing_without_an_outcome_asks_nothing(self) -> None:
        """Leaving a context costs no call when nothing waits."""
        world = World(answer_first)
        core = make_core(world)
        world.play(core.act(observation))

        world.play(core.close_episode())

        assert ["Act"] == [call.method for call in world.calls]


class TestVectorSession:
    @staticmethod
    def make(world: World, num_rows: int, max_batch: int = 64) -> VectorCore:
        """Return rows named a, b, c, ... in a world."""
        memories = make_memories("abcdefgh"[:num_rows], "r", "", evaluation=False)
        return VectorCore(memories, Retries(random=Random(0)), world.clock, max_batch)

    @staticmethod
    def serve(failing: dict[str, list[ClientError]]) -> Callable[[Call], Any]:
        """Return a service that fails some sessions so many times."""

        def script(call: Call) -> Any:
            assert isinstance(call.request, ActBatchRequest)
            results = []
            for request in call.request.requests:
                errors = failing.get(request.session, [])
                if errors:
                    error = errors.pop(0)
                    failure = ActError(code=error.code.value[0], message=str(error), field=error.field)
                    if error.retry_delay_seconds:
                        failure.retry_delay.CopyFrom(Duration(nanos=int(error.retry_delay_seconds * 1e9)))
                    results.append(ActResult(error=failure))
                else:
                    results.append(ActResult(response=answer(request, ord(request.session) - ord("a"))))
            return ActBatchResponse(results=results)

        return script

    def test_each_row_gets_its_own_answer(self) -> None:
        """Rows never mix."""
        world = World(self.serve({}))

        decisions = world.play(self.make(world, 4).act(np.zeros((4, 2), np.float32)))

        assert [0, 1, 2, 3] == [decision.action for decision in decisions]
        assert len(world.calls) == 1

    def test_only_the_rows_that_failed_are_asked_again(self) -> None:
        """The others were answered and wait for nobody."""
        world = World(self.serve({"b": [busy, unavailable], "d": [unavailable]}))

        decisions = world.play(self.make(world, 4).act([observation] * 4))

        sessions = [[request.session for request in call.request.requests] for call in world.calls]
        assert [["a", "b", "c", "d"], ["b", "d"], ["b"]] == sessions
        assert [0, 1, 2, 3] == [decision.action for decision in decisions]
        assert world.sleeps[0] >= 0.7

    def test_rows_that_fail_for_good_are_named_and_the_others_kept(self) -> None:
        """One bad agent does not stop the rest."""
        world = World(self.serve({"c": [fenced]}))
        core = self.make(world, 3)

        with pytest.raises(BatchError, match="1 of 3 rows failed; row 2: ABORTED") as raised:
            world.play(core.act([observation] * 3))

        assert isinstance(raised.value.errors[2], FencedError)
        assert [False, False, True] == [decision is None for decision in raised.value.decisions]
        assert b"tb" == core.memories[1].next_request(observation).token

    def test_a_batch_that_failed_as_a_whole_is_sent_again(self) -> None:
        """As a single request is."""
        serve = self.serve({})
        answers = iter([unavailable, busy])
        world = World(lambda call: next(answers, None) or serve(call))

        decisions = world.play(self.make(world, 2).act([observation] * 2))

        assert [0, 1] == [decision.action for decision in decisions]
        assert world.calls[0].request == world.calls[2].request

    def test_more_rows_than_a_message_takes_go_in_several(self) -> None:
        """The caller need not know the service's limit to the row."""
        world = World(self.serve({}))

        decisions = world.play(self.make(world, 7, max_batch=3).act([observation] * 7))

        assert [3, 3, 1] == [len(call.request.requests) for call in world.calls]
        assert list(range(7)) == [decision.action for decision in decisions]

    def test_rows_may_sit_out(self) -> None:
        """An environment that resets has nothing to decide."""
        world = World(self.serve({}))

        decisions = world.play(self.make(world, 4).act({3: observation, 1: observation}))

        assert [None, 1, None, 3] == [decision and decision.action for decision in decisions]

    def test_every_waiting_outcome_is_reported_at_the_end(self) -> None:
        """Nothing that was learned is lost with the process."""
        serve = self.serve({})
        world = World(lambda call: serve(call) if call.method == "ActBatch" else ReportResponse(token=b"t"))
        core = self.make(world, 3)
        world.play(core.act([observation] * 3))
        core.observe(0, make_outcome(1.0, True, False))
        core.observe(2, make_outcome(2.0, False, True, observation))

        world.play(core.close_episodes())

        reports = [call.request for call in world.calls if call.method == "Report"]
        assert [("a", 1.0), ("c", 2.0)] == [(report.session, report.outcome.reward) for report in reports]

    def test_a_rows_refused_outcome_makes_room_for_another(self) -> None:
        """As for a session alone."""
        failing: dict[str, list[ClientError]] = {}
        world = World(self.serve(failing))
        core = self.make(world, 2)
        world.play(core.act([observation] * 2))
        core.observe(1, make_outcome(np.nan, terminated=False, truncated=False))
        failing["b"] = [refused]
        with pytest.raises(BatchError):
            world.play(core.act([observation] * 2))

        core.observe(1, make_outcome(2.0, terminated=False, truncated=False))
        world.play(core.act({1: observation}))

        assert 2.0 == world.calls[-1].request.requests[0].outcome.reward

    @pytest.mark.parametrize("number", [1, 3])
    def test_there_is_one_observation_and_one_mask_for_each_row(self, number: int) -> None:
        """A row that should sit out is left out by its number, not by its place at the end."""
        core = self.make(World(self.serve({})), 2)

        with pytest.raises(ValueError, match=f"observations: expected one per row, 2, got {number}"):
            next(core.act([observation] * number))
        with pytest.raises(ValueError, match="action_masks: expected one per row"):
            next(core.act([observation] * 2, [[True, True]] * number))

    def test_two_rows_cannot_have_one_name(self) -> None:
        """They would fence each other."""
        with pytest.raises(ValueError, match="name of its own"):
            make_memories(["a", "a"], "r", "", evaluation=False)


class TestWorlds:
    async def test_sync_and_asyncio_run_the_same_core(self) -> None:
        """One answer, one thrown error, one pause, in both."""

        def effects() -> Effects[list[Any]]:
            seen: list[Any] = []
            seen.append((yield Call("Act", 1, 1.0)))
            try:
                yield Call("Act", 2, 1.0)
            except BusyError as error:
                seen.append(error)
            seen.append((yield Sleep(0.0)))
            return seen

        def call(effect: Call) -> Any:
            if effect.request == 2:
                raise busy
            return "answer"

        async def call_async(effect: Call) -> Any:
            return call(effect)

        assert ["answer", busy, None] == run(effects(), call)
        assert ["answer", busy, None] == await run_async(effects(), call_async)

    def test_a_later_run_is_greater(self) -> None:
        """A restarted process fences its old self."""
        runs = [new_run() for _ in range(3)]

        assert all(earlier[:12] <= later[:12] for earlier, later in pairwise(runs))
        assert 3 == len(set(runs))
