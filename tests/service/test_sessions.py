"""Sessions: the state machine alone."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from hyperact.service.errors import DecisionError, FencedError, InvalidRequestError, PreconditionError
from hyperact.service.rhythm import Rhythm
from hyperact.service.sessions import (
    Asked,
    Cursor,
    Flight,
    Replayed,
    SessionKey,
    Sessions,
    cursor_after,
    num_answers_kept,
    to_cursor,
)
from hyperact.v1.decision_pb2 import SessionState
from hyperact.v1.steps import StepKey

KEY = SessionKey("model", "agent")
EPISODIC = Rhythm(b"k" * 16)
ONE_SHOT = Rhythm(b"k" * 16, is_one_shot=True)


class Desk:
    """Sessions, and what the data plane does with them: begin, decide, commit."""

    def __init__(self, rhythm: Rhythm = EPISODIC, ttl_seconds: float = 100.0, max_sessions: int = 10) -> None:
        self.pins: dict[str, int] = {}
        self.rhythm = rhythm
        self.num_runs = 0
        self.sessions: Sessions[Any] = Sessions(
            ttl_seconds=ttl_seconds,
            max_sessions=max_sessions,
            pin=lambda _, version: self._count(version, 1),
            unpin=lambda _, version: self._count(version, -1),
            draw_run=self._draw_run,
        )

    def _count(self, version: str, by: int) -> None:
        self.pins[version] = self.pins.get(version, 0) + by

    def _draw_run(self) -> str:
        self.num_runs += 1
        return f"run-{self.num_runs:04}"

    def begin(self, key: SessionKey = KEY, now: float = 0.0, **asked: Any) -> Flight:
        """Begin a step that must be new."""
        flight = self.sessions.begin(key, Asked(**{"digest": 1, **asked}), self.rhythm, now)
        assert isinstance(flight, Flight)
        assert flight.is_new
        return flight

    def finish(self, flight: Flight, version: str = "1", answer: object = "", token: bytes = b"") -> Cursor:
        """Decide and log a step."""
        after = cursor_after(flight.step, version, 1, 0, self.rhythm)
        self.sessions.assign(flight, version)
        self.sessions.commit(flight, after, answer, token)
        return after

    def act(self, key: SessionKey = KEY, now: float = 0.0, version: str = "1", **asked: Any) -> Cursor:
        """Take a step from beginning to end and return where the session stands then."""
        return self.finish(self.begin(key, now, **asked), version)


class TestPlaces:
    def test_a_step_follows_the_last_one(self) -> None:
        """Without news of an end, numbers go up."""
        desk = Desk()
        flights: list[Flight] = []
        for _ in range(3):
            flights.append(desk.begin(has_outcome=bool(flights)))
            desk.finish(flights[-1])

        assert [(0, 0), (0, 1), (0, 2)] == [(flight.step.episode, flight.step.number) for flight in flights]
        assert [None, (0, 0), (0, 1)] == [flight.previous for flight in flights]

    def test_an_outcome_that_ends_the_episode_begins_the_next(self) -> None:
        """The observation beside it is the first of the new episode."""
        desk = Desk()
        desk.act()

        flight = desk.begin(has_outcome=True, is_end=True)

        assert (1, 0) == (flight.step.episode, flight.step.number)
        assert (0, 0) == flight.previous

    def test_a_failed_decision_does_not_advance_the_session(self) -> None:
        """The retry gets the very step, and may even come with what the agent sees by then."""
        desk = Desk()
        cursor = desk.act()
        desk.sessions.abandon(desk.begin(cursor=cursor, digest=5))

        again = desk.begin(cursor=cursor, digest=6)

        assert (0, 1) == (again.step.episode, again.step.number)

    def test_a_position_stands_in_for_a_token(self) -> None:
        """A client that knows its place need not carry anything."""
        desk = Desk()
        desk.act(run="r", position=(0, 0))

        flight = desk.begin(run="r", position=(3, 2), has_outcome=True)

        assert (3, 2) == (flight.step.episode, flight.step.number)
        assert (3, 1) == flight.previous
        assert not flight.is_pin_known

    @pytest.mark.parametrize(("position", "is_end"), [((0, 1), True), ((1, 0), False)])
    def test_a_position_that_contradicts_its_outcome_is_refused(self, position: tuple[int, int], is_end: bool) -> None:
        """An end is followed by a beginning, and by nothing else."""
        desk = Desk()
        desk.act(run="r", position=(0, 0))

        with pytest.raises(InvalidRequestError, match="position"):
            desk.begin(run="r", position=position, has_outcome=True, is_end=is_end)

    def test_an_outcome_needs_a_step_to_belong_to(self) -> None:
        """What followed nothing cannot be recorded, and is not dropped in silence."""
        with pytest.raises(PreconditionError, match="outcome"):
            Desk().begin(has_outcome=True)

    def test_a_token_ahead_of_the_memory_is_believed(self) -> None:
        """The session was served by another replica meanwhile."""
        desk = Desk()
        cursor = desk.act()
        elsewhere = cursor._replace(episode=4, number=7, version="9", deployment=3, last=(4, 6))

        flight = desk.begin(cursor=elsewhere)

        assert (4, 7) == (flight.step.episode, flight.step.number)
        assert ("9", 3) == (flight.pinned_version, flight.pinned_deployment)


class TestRetries:
    def test_the_last_answers_are_kept(self) -> None:
        """A retry of one of the last few steps gets the answer that the step got."""
        desk = Desk()
        cursors: list[Cursor | None] = [None]
        for number in range(num_answers_kept + 1):
            flight = desk.begin(cursor=cursors[-1], digest=number)
            cursors.append(desk.finish(flight, answer=f"answer-{number}"))

        replayed = [
            desk.sessions.begin(KEY, Asked(digest=number, cursor=cursors[number]), EPISODIC, 0.0)
            for number in range(1, num_answers_kept + 1)
        ]

        assert [Replayed(f"answer-{number}") for number in range(1, num_answers_kept + 1)] == replayed
        with pytest.raises(FencedError, match="position"):
            desk.sessions.begin(KEY, Asked(digest=0, run="run-0001", position=(0, 0)), EPISODIC, 0.0)

    def test_a_step_in_flight_is_shared(self) -> None:
        """The same question at the same time is one question."""
        desk = Desk()
        flight = desk.begin(digest=3)

        shared = desk.sessions.begin(KEY, Asked(digest=3), EPISODIC, 0.0)

        assert shared is flight
        assert not flight.is_new
        with pytest.raises(PreconditionError, match="observation"):
            desk.sessions.begin(KEY, Asked(digest=4), EPISODIC, 0.0)


class TestRuns:
    def test_a_greater_run_begins_anew_and_lets_go(self) -> None:
        """The restarted process has nothing of its old self: not its episode, not its version."""
        desk = Desk()
        desk.act(run="a")
        desk.act(run="a")

        flight = desk.begin(run="b")

        assert ("b", 0, 0) == (flight.step.run, flight.step.episode, flight.step.number)
        assert {"1": 0} == desk.pins

    def test_a_fenced_run_s_late_decision_moves_nothing(self) -> None:
        """A decision that was in flight when the newer run took over does not bring the old one back."""
        desk = Desk()
        late = desk.begin(run="a")
        desk.act(run="b")
        desk.finish(late)

        cursor = desk.sessions.cursor(KEY)

        assert cursor is not None
        assert ("b", 0, 1) == (cursor.run, cursor.episode, cursor.number)

    def test_a_newer_run_sets_its_old_token_aside(self) -> None:
        """A client that restarted and kept its token begins anew all the same."""
        desk = Desk()
        cursor = desk.act(run="a")

        flight = desk.begin(run="b", cursor=cursor)

        assert ("b", 0, 0) == (flight.step.run, flight.step.episode, flight.step.number)


class TestReports:
    def test_an_end_moves_the_session_and_lets_go_of_its_version(self) -> None:
        """Nobody holds a version between two episodes."""
        desk = Desk()
        cursor = desk.act()

        after = desk.sessions.commit_report(KEY, desk.sessions.locate_report(KEY, None, cursor), cursor, EPISODIC, 0.0)

        assert after is not None
        assert (1, 0, True) == (after.episode, after.number, after.is_last_settled)
        assert {"1": 0} == desk.pins
        with pytest.raises(InvalidRequestError, match="already"):
            desk.begin(cursor=after, has_outcome=True, is_end=True)

    def test_a_replica_that_never_saw_the_session_takes_the_token_s_word(self) -> None:
        """A report may come to any replica."""
        cursor = Desk().act()
        other = Desk()

        step = other.sessions.locate_report(KEY, None, cursor)
        after = other.sessions.commit_report(KEY, step, cursor, EPISODIC, 0.0)

        assert after is not None
        assert (1, 0) == after.place
        assert (1, 0) == (other.begin(cursor=after).step.episode, 0)

    def test_without_any_knowledge_it_needs_a_step(self) -> None:
        """A report of an unknown session that names no step belongs nowhere."""
        with pytest.raises(PreconditionError, match="step_id"):
            Desk().sessions.locate_report(KEY, None, None)


class TestForgetting:
    def test_idle_sessions_are_forgotten_and_let_go(self) -> None:
        """An agent that vanished does not hold a version for ever; its token lets it come back."""
        desk = Desk(ttl_seconds=10)
        cursor = desk.act(now=0.0)

        assert 0 == desk.sessions.expire(now=10.0)
        assert 1 == desk.sessions.expire(now=10.5)

        assert {"1": 0} == desk.pins
        flight = desk.begin(cursor=cursor, now=11.0)
        assert (0, 1, "1") == (flight.step.episode, flight.step.number, flight.pinned_version)

    def test_the_idlest_goes_when_there_are_too_many(self) -> None:
        """Memory is bounded, whoever invents session names."""
        desk = Desk(max_sessions=3)
        for number in range(8):
            desk.act(SessionKey("model", f"agent-{number}"))

        assert 3 == len(desk.sessions)
        assert {"1": 3} == desk.pins

    def test_a_session_with_a_decision_in_flight_stays(self) -> None:
        """What is being decided has a place to come home to."""
        desk = Desk(max_sessions=1)
        flight = desk.begin()
        desk.act(SessionKey("model", "other"))
        desk.finish(flight)

        cursor = desk.sessions.cursor(KEY)

        assert cursor is not None
        assert (0, 1) == cursor.place


class TestOneShot:
    def test_every_step_is_an_episode_that_holds_nothing(self) -> None:
        """A bandit's steps do not follow each other."""
        desk = Desk(ONE_SHOT)

        cursors = [desk.act(has_outcome=bool(n)) for n in range(3)]

        assert [(1, 0), (2, 0), (3, 0)] == [cursor.place for cursor in cursors]
        assert {"1": 0} == desk.pins

    def test_other_observations_do_not_wait_for_each_other(self) -> None:
        """Visitors of one session are served at once, each as an episode of its own."""
        desk = Desk(ONE_SHOT)

        flights = [desk.begin(digest=digest) for digest in range(3)]

        assert [0, 1, 2] == [flight.step.episode for flight in flights]


class TestTokensKnownHere:
    def test_the_last_token_is_recognised_and_no_other(self) -> None:
        """What this replica signed last for a session it need not verify again."""
        desk = Desk()
        after = desk.finish(desk.begin(), token=b"first")

        assert after == desk.sessions.recognise(KEY, b"first")
        assert desk.sessions.recognise(KEY, b"other") is None
        assert desk.sessions.recognise(SessionKey("model", "other"), b"first") is None

        desk.finish(desk.begin(cursor=after), token=b"second")
        assert desk.sessions.recognise(KEY, b"first") is None

    def test_a_token_means_what_it_meant_after_a_report(self) -> None:
        """A report that ended the episode moves the session and changes no token."""
        desk = Desk()
        after = desk.finish(desk.begin(), token=b"first")
        settled = desk.sessions.commit_report(KEY, StepKey(*KEY, after.run, 0, 0), after, EPISODIC, 0.0)

        assert after == desk.sessions.recognise(KEY, b"first")
        assert settled == desk.sessions.cursor(KEY) != after

    def test_a_session_without_tokens_recognises_none(self) -> None:
        """An empty token is no token."""
        desk = Desk()
        desk.finish(desk.begin())

        assert desk.sessions.recognise(KEY, b"") is None


def test_a_cursor_survives_its_token() -> None:
    """What the client carries is what the service knew."""
    for cursor in (
        Cursor("r"),
        Cursor("r", 2, 3, "7", 4, 1, (2, 2)),
        Cursor("r", 3, last=(2, 5), is_last_settled=True),
    ):
        state = SessionState.FromString(cursor.to_state(KEY).SerializeToString())

        assert cursor == to_cursor(state)


class AgentAndReplicas(RuleBasedStateMachine):
    """One agent's life with its token, over two replicas, with retries, lost answers, failures and restarts.

    The log stands for both: a step that is logged twice must be the same step of the same observation.
    """

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.replicas = [Desk(), Desk()]
        self.log: dict[tuple[str, int, int], int] = {}
        self.run = "run-0"
        self.num_restarts = 0
        self.newest: Cursor | None = None

    @rule(target=tokens)
    def begin_life(self) -> tuple[Cursor | None, str]:
        """Start as an agent without a token."""
        return None, self.run

    @rule(
        target=tokens,
        token=tokens,
        replica=st.integers(0, 1),
        is_end=st.booleans(),
        is_failing=st.booleans(),
        num_retries=st.integers(0, 2),
    )
    def act(
        self, token: tuple[Cursor | None, str], replica: int, is_end: bool, is_failing: bool, num_retries: int
    ) -> tuple[Cursor | None, str]:
        """Ask for a step with some token, perhaps an old one; the observation is a function of the place."""
        cursor, run = token
        desk = self.replicas[replica]
        if cursor is not None:  # as the data plane does with the last token that it signed
            cursor = desk.sessions.recognise(KEY, repr(cursor).encode()) or cursor
        has_outcome = cursor is not None and cursor.last is not None and not cursor.is_last_settled
        is_end = is_end and has_outcome
        place = (0, 0) if cursor is None else (cursor.episode + 1, 0) if is_end else cursor.place
        asked = Asked(hash(place), run, cursor, None if cursor else (0, 0), has_outcome=has_outcome, is_end=is_end)
        try:
            found = desk.sessions.begin(KEY, asked, EPISODIC, 0.0)
        except FencedError:
            known = desk.sessions.cursor(KEY)
            assert known is not None
            assert (run, place) < (known.run, known.place)
            return token
        if isinstance(found, Replayed):
            assert place == found.answer.last
            return found.answer, run
        assert (run, *place) == (found.step.run, found.step.episode, found.step.number)
        if is_failing:
            desk.sessions.abandon(found)
            return token
        after = cursor_after(found.step, "1", 1, 0, EPISODIC)
        desk.finish(found, answer=after, token=repr(after).encode())
        assert self.log.setdefault((run, *place), hash(place)) == hash(place)
        for _ in range(num_retries):
            again = desk.sessions.begin(KEY, asked, EPISODIC, 0.0)
            assert Replayed(after) == again
        return after, run

    @rule(token=consumes(tokens), replica=st.integers(0, 1))
    def report_end(self, token: tuple[Cursor | None, str], replica: int) -> None:
        """Report the end of the token's last step."""
        cursor, _ = token
        if cursor is None or cursor.last is None:
            return
        desk = self.replicas[replica]
        try:
            step = desk.sessions.locate_report(KEY, None, cursor)
        except FencedError:
            return
        after = desk.sessions.commit_report(KEY, step, cursor, EPISODIC, 0.0)
        if after is not None:
            assert cursor.last == after.last
            assert after.place > cursor.last

    @rule()
    @precondition(lambda self: self.num_restarts < 5)
    def restart_agent(self) -> None:
        """Restart the agent's process under a greater run."""
        self.num_restarts += 1
        self.run = f"run-{self.num_restarts}"

    @rule(replica=st.integers(0, 1))
    def restart_replica(self, replica: int) -> None:
        """Lose what a replica remembers."""
        self.replicas[replica] = Desk()

    @invariant()
    def a_session_holds_at_most_one_version(self) -> None:
        """One pin a session, none leaked."""
        for desk in self.replicas:
            assert sum(desk.pins.values()) in (0, 1)
            assert min(desk.pins.values(), default=0) >= 0

    @invariant()
    def nothing_is_left_in_flight(self) -> None:
        """Every flight was committed or abandoned."""
        for desk in self.replicas:
            assert not any(session.flights for session in desk.sessions._sessions.values())


TestAgentAndReplicas = AgentAndReplicas.TestCase


def test_errors_are_decision_errors() -> None:
    """The data plane has one thing to catch."""
    assert issubclass(FencedError, DecisionError)
