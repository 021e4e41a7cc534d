"""Where each session stands: a state machine without clock, socket, thread or log.

A session's *cursor* names the step that comes next. A request names a step by its token's cursor, or by a position, or
by neither: then this memory's cursor counts.

    cursor at (e, n) and the request's outcome …        the step asked for     cursor after it
    ------------------------------------------------    -------------------    ---------------
    … is absent, or does not end the episode            (e, n)                 (e, n + 1)
    … ends the episode (n > 0, not settled)             (e + 1, 0)             (e + 1, 1)
    … is any, and every step is its own episode         (e, 0)                 (e + 1, 0)
    a report ends the episode of the last step          none                   (e + 1, 0), settled

The rules:

1. A step asked for again gets the answer it got (`Replayed`), or shares the decision in flight (`Flight`). With another
   observation it is refused (PreconditionError).
2. A step before the cursor whose answer is no longer kept is refused: the token is stale (FencedError).
3. Runs of one session compare as text. A greater run takes over at (0, 0); a smaller one is fenced from then on.
4. A token ahead of this memory is believed, for it is signed: the session was served elsewhere meanwhile.
5. The cursor moves when a decision is committed. A decision that failed leaves it where it was.
6. An episode (of a continuing agent: a segment) holds the version that it began with, by one pin a session.
7. A session that was idle for the time to live, or is the idlest above the cap, is forgotten and lets go of its pin,
   unless it has a decision in flight. Its token lets it go on.
8. A session counts for the caller whose request made it. A caller that has all it may have gets no new one
   (ExhaustedError); nobody else's is forgotten for it.

Fencing and replays from memory hold per replica; across replicas and restarts the log's step ids do it.
"""

import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from hyperact.service.callers import Caller, nobody
from hyperact.service.errors import FencedError, InvalidRequestError, PreconditionError
from hyperact.service.rhythm import Rhythm
from hyperact.v1.decision_pb2 import Position, SessionState
from hyperact.v1.steps import StepKey

num_answers_kept = 4
Place = tuple[int, int]  # episode, number
AnswerT = TypeVar("AnswerT")


class SessionKey(NamedTuple):
    """Whose session it is."""

    model: str
    session: str


class Cursor(NamedTuple):
    """Where a session stands: the next step, what it is pinned to, and the last step."""

    run: str
    episode: int = 0
    number: int = 0
    version: str = ""
    deployment: int = 0
    segment: int = 0
    last: Place | None = None
    is_last_settled: bool = False

    @property
    def place(self) -> Place:
        """The next step's place."""
        return self.episode, self.number

    def to_state(self, key: SessionKey) -> SessionState:
        """Return what a token carries."""
        run, episode, number, version, deployment, segment, last, is_last_settled = self
        return SessionState(
            model=key.model,
            session=key.session,
            run=run,
            episode=episode,
            number=number,
            version=version,
            deployment=deployment,
            segment=segment,
            last_position=None if last is None else Position(episode=last[0], number=last[1]),
            is_last_settled=is_last_settled,
        )


def to_cursor(state: SessionState) -> Cursor:
    """Return the cursor that a token carries."""
    last = state.last_position
    return Cursor(
        run=state.run,
        episode=state.episode,
        number=state.number,
        version=state.version,
        deployment=state.deployment,
        segment=state.segment,
        last=(last.episode, last.number) if state.HasField("last_position") else None,
        is_last_settled=state.is_last_settled,
    )


class Asked(NamedTuple):
    """What a request says of its place.

    `digest` stands for the observation and the mask; `run` is empty and `cursor` (the token's) and `position` are None
    if the request has none.
    """

    digest: int
    run: str = ""
    cursor: Cursor | None = None
    position: Place | None = None
    has_outcome: bool = False
    is_end: bool = False


@dataclass(slots=True)
class Flight:
    """One step that is being decided. `payload` is the caller's own."""

    key: SessionKey
    step: StepKey
    digest: int
    previous: Place | None
    pinned_version: str
    pinned_deployment: int
    is_pin_known: bool
    segment_before: int | None
    is_new: bool = True
    payload: object = None


class Replayed(NamedTuple, Generic[AnswerT]):
    """The answer that a step got before."""

    answer: AnswerT


@dataclass(slots=True)
class _Session(Generic[AnswerT]):
    cursor: Cursor
    touched: float
    owner: Caller
    pinned: str = ""
    answers: dict[Place, tuple[int, AnswerT]] = field(default_factory=dict)
    flights: dict[Place, Flight] = field(default_factory=dict)
    token: bytes = b""
    token_cursor: Cursor | None = None


class Sessions(Generic[AnswerT]):
    """The sessions of one worker.

    Args:
        pin, unpin: called with (model, version) when a session begins and ceases to hold a version.
        draw_run: makes the run of a session that names none.
    """

    def __init__(
        self,
        *,
        ttl_seconds: float,
        max_sessions: int,
        pin: Callable[[str, str], None],
        unpin: Callable[[str, str], None],
        draw_run: Callable[[], str],
    ) -> None:
        self._ttl_seconds = ttl_seconds
        self._max_sessions = max_sessions
        self._pin = pin
        self._unpin = unpin
        self._draw_run = draw_run
        self._sessions: OrderedDict[SessionKey, _Session[AnswerT]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def cursor(self, key: SessionKey) -> Cursor | None:
        """Return where a session stands; None if it is not known here."""
        session = self._sessions.get(key)
        return session.cursor if session else None

    def recognise(self, key: SessionKey, token: bytes) -> Cursor | None:
        """Return what a token carries if it is the last one that the session was given here; None if it is another."""
        session = self._sessions.get(key)
        if session is None or not session.token or not hmac.compare_digest(session.token, token):
            return None
        return session.token_cursor

    def begin(
        self, key: SessionKey, asked: Asked, rhythm: Rhythm, now: float, caller: Caller = nobody
    ) -> Flight | Replayed[AnswerT]:
        """Name the step that a request asks for.

        Returns a flight with `is_new` set, which the caller must end by `commit` or `abandon`; the flight of the same
        step that began before; or the answer that the step got.

        Raises:
            FencedError: FENCED_RUN or STALE_TOKEN.
            PreconditionError: OTHER_OBSERVATION, NO_PREVIOUS_STEP.
            InvalidRequestError: the position contradicts the outcome, or the outcome is known already.
            ExhaustedError: CALLER_SESSIONS.
        """
        session = self._sessions.get(key)
        if session is not None and asked.cursor is session.cursor and not asked.run and not session.flights:
            return self._begin_next(key, session, asked, rhythm, now)
        asked = _check_runs(asked, session.cursor.run if session else "")
        cursor = self._base_cursor(session, asked)
        place = _place_of(asked, cursor, rhythm)
        if session is not None and session.cursor.run == cursor.run:
            if rhythm.is_one_shot and asked.cursor is None and asked.position is None:
                place = _pass_flights(place, session.flights, asked.digest)
            found = _find(session, place, asked.digest)
            if found is not None:
                self._touch(key, session, now)
                return found
            _check_not_stale(asked, place, session.cursor.place)
        previous = _previous_of(asked, cursor, place, rhythm)
        if session is None:
            caller.check_sessions()
        session = self._adopt(key, session, cursor, now, caller)
        flight = _make_flight(key, cursor, place, previous, asked.digest)
        session.flights[place] = flight
        return flight

    def _begin_next(
        self, key: SessionKey, session: _Session[AnswerT], asked: Asked, rhythm: Rhythm, now: float
    ) -> Flight:
        """Begin the step after the last one, as nearly every request asks: nothing else can be meant.

        Its token carries the very cursor that stands here, so no run is older, and no step at or after it was decided.
        """
        place = _place_of(asked, session.cursor, rhythm)
        flight = _make_flight(
            key, session.cursor, place, _previous_of(asked, session.cursor, place, rhythm), asked.digest
        )
        self._touch(key, session, now)
        session.flights[place] = flight
        return flight

    def assign(self, flight: Flight, version: str) -> None:
        """Hold the version that decides a flight's step; "" holds none."""
        session = self._sessions.get(flight.key)
        if session is not None and session.cursor.run == flight.step.run:
            self._hold(flight.key, session, version)

    def commit(self, flight: Flight, after: Cursor, answer: AnswerT, token: bytes = b"") -> None:
        """Record that a flight's step was decided and logged, and the token of `after` that its answer has."""
        session = self._sessions.get(flight.key)
        if session is None:
            return
        place = flight.step.episode, flight.step.number
        if session.flights.get(place) is flight:
            del session.flights[place]
        if session.cursor.run != after.run:
            return
        session.answers[place] = flight.digest, answer
        if len(session.answers) > num_answers_kept:
            del session.answers[next(iter(session.answers))]
        if after.place > session.cursor.place:
            session.cursor = after
            session.token, session.token_cursor = token, after
        if not session.cursor.version:
            self._hold(flight.key, session, "")

    def abandon(self, flight: Flight) -> None:
        """Forget a flight whose step was not decided or not logged."""
        session = self._sessions.get(flight.key)
        place = flight.step.episode, flight.step.number
        if session is not None and session.flights.get(place) is flight:
            del session.flights[place]

    def locate_report(self, key: SessionKey, step: StepKey | None, cursor: Cursor | None) -> StepKey:
        """Name the step that a report belongs to: the one it names, else the token's or this memory's last one.

        Raises:
            FencedError: a greater run than the token's took over.
            PreconditionError: UNKNOWN_SESSION.
        """
        known = self.cursor(key)
        if cursor is not None and known is not None and cursor.run < known.run:
            raise _fenced(cursor.run, known.run, "token")
        if step is not None:
            return step
        source = cursor or known
        if source is None or source.last is None:
            message = (
                "step_id: required, for this replica knows no step of the session and no token came with the report"
            )
            raise PreconditionError(message, reason="UNKNOWN_SESSION", field="step_id")
        return StepKey(key.model, key.session, source.run, *source.last)

    def commit_report(
        self,
        key: SessionKey,
        step: StepKey,
        cursor: Cursor | None,
        rhythm: Rhythm,
        now: float,
        caller: Caller = nobody,
    ) -> Cursor | None:
        """Record that a report that ends its step's episode was logged.

        Returns where the session stands then; None if that step is not the session's last, or nothing is known of it.
        """
        session = self._sessions.get(key)
        known = session.cursor if session else None
        if cursor is None or (known is not None and _order(known) >= _order(cursor)):
            cursor = known
        if cursor is None or cursor.run != step.run or cursor.last != (step.episode, step.number):
            return None
        if not rhythm.is_one_shot and not cursor.is_last_settled:
            cursor = Cursor(run=cursor.run, episode=step.episode + 1, last=cursor.last, is_last_settled=True)
        if session is None and not caller.has_session_room:
            return cursor  # the token remembers it
        session = self._adopt(key, session, cursor, now, caller)
        self._hold(key, session, "")
        return cursor

    def expire(self, now: float, limit: int = 1000) -> int:
        """Forget sessions that were idle too long, at most `limit` of them, and return how many."""
        num_forgotten = 0
        while self._sessions and num_forgotten < limit:
            key, session = next(iter(self._sessions.items()))
            is_over = len(self._sessions) > self._max_sessions
            if not is_over and now - session.touched <= self._ttl_seconds:
                break
            if session.flights:
                # In use after all. It goes to the end; only a session of which each lies in flight stays above the cap.
                self._touch(key, session, now)
                limit -= 1
                continue
            self._hold(key, session, "")
            del self._sessions[key]
            session.owner.num_sessions -= 1
            num_forgotten += 1
        return num_forgotten

    def _base_cursor(self, session: _Session[AnswerT] | None, asked: Asked) -> Cursor:
        if asked.cursor is not None:
            return asked.cursor
        if session is not None and asked.run in ("", session.cursor.run):
            return session.cursor
        return Cursor(run=asked.run or self._draw_run())

    def _adopt(
        self, key: SessionKey, session: _Session[AnswerT] | None, cursor: Cursor, now: float, caller: Caller
    ) -> _Session[AnswerT]:
        """Return the session, made or moved on so that it stands at least at `cursor`."""
        if session is None:
            session = self._sessions[key] = _Session(cursor, now, caller)
            caller.num_sessions += 1
            self.expire(now, limit=2)
            return session
        self._touch(key, session, now)
        if cursor.run > session.cursor.run:
            session.answers = {}
            session.flights = {}
            session.cursor = cursor
            self._hold(key, session, "")
        elif _order(cursor) > _order(session.cursor):
            session.cursor = cursor
        return session

    def _touch(self, key: SessionKey, session: _Session[AnswerT], now: float) -> None:
        session.touched = now
        self._sessions.move_to_end(key)

    def _hold(self, key: SessionKey, session: _Session[AnswerT], version: str) -> None:
        if session.pinned == version:
            return
        released, session.pinned = session.pinned, version
        if version:
            self._pin(key.model, version)
        if released:
            self._unpin(key.model, released)


def cursor_after(step: StepKey, version: str, deployment: int, segment: int, rhythm: Rhythm) -> Cursor:
    """Return where a session stands when a step is decided."""
    last = step.episode, step.number
    if rhythm.is_one_shot:
        return Cursor(run=step.run, episode=step.episode + 1, last=last)
    return Cursor(step.run, step.episode, step.number + 1, version, deployment, segment, last)


def _order(cursor: Cursor) -> tuple[str, Place, bool]:
    return cursor.run, cursor.place, cursor.is_last_settled


def _fenced(run: str, newer: str, field_name: str) -> FencedError:
    message = f"{field_name}: run {run!r} was fenced by the newer run {newer!r} of the same session"
    return FencedError(message, reason="FENCED_RUN", field=field_name)


def _check_runs(asked: Asked, known_run: str) -> Asked:
    """Apply rule 3. A token of an older run than the request's own is set aside."""
    if asked.cursor is not None and asked.run and asked.run != asked.cursor.run:
        if asked.run < asked.cursor.run:
            raise _fenced(asked.run, asked.cursor.run, "run")
        asked = asked._replace(cursor=None)
    run = asked.cursor.run if asked.cursor is not None else asked.run
    if run and run < known_run:
        raise _fenced(run, known_run, "token" if asked.cursor is not None else "run")
    return asked


def _place_of(asked: Asked, cursor: Cursor, rhythm: Rhythm) -> Place:
    """Return the step asked for, by the table at the top of this file."""
    if asked.cursor is None and asked.position is not None:
        return asked.position
    is_new_episode = asked.is_end and not rhythm.is_one_shot and not cursor.is_last_settled and cursor.number
    return (cursor.episode + 1, 0) if is_new_episode else cursor.place


def _previous_of(asked: Asked, cursor: Cursor, place: Place, rhythm: Rhythm) -> Place | None:
    """Return the step that the request's outcome belongs to; None if it has none."""
    _check_position(asked, place, rhythm)
    if not asked.has_outcome:
        return None
    if cursor.is_last_settled and place == cursor.place:
        message = "outcome: a report told the outcome of the last step already"
        raise InvalidRequestError(message, reason="ALREADY_SETTLED", field="outcome")
    if place[1]:
        return place[0], place[1] - 1
    if cursor.last is None or cursor.last >= place:
        message = (
            "outcome: no previous step is known that it could belong to; a session's first request has none, "
            "and a session that moved between replicas or outlived one needs its token"
        )
        raise PreconditionError(message, reason="NO_PREVIOUS_STEP", field="outcome")
    return cursor.last


def _check_position(asked: Asked, place: Place, rhythm: Rhythm) -> None:
    if asked.cursor is not None or asked.position is None:
        return
    problem = ""
    if rhythm.is_one_shot:
        if place[1]:
            problem = "every step of this model is an episode of its own, so the number is 0"
    elif asked.has_outcome and asked.is_end != (place[1] == 0):
        problem = "the outcome ends an episode if and only if a new one begins here"
    if problem:
        raise InvalidRequestError(f"position: {problem}, got {place}", reason="WRONG_POSITION", field="position")


def _pass_flights(place: Place, flights: dict[Place, Flight], digest: int) -> Place:
    """Step over decisions of other observations in flight: where no step follows another, they need not wait."""
    while place in flights and flights[place].digest != digest:
        place = place[0] + 1, 0
    return place


def _find(session: _Session[AnswerT], place: Place, digest: int) -> Flight | Replayed[AnswerT] | None:
    """Return what is known of a step that was asked for before."""
    if place in session.answers:
        known_digest, answer = session.answers[place]
        _check_digest(known_digest, digest, place, "was decided")
        return Replayed(answer)
    if place in session.flights:
        flight = session.flights[place]
        _check_digest(flight.digest, digest, place, "is being decided")
        flight.is_new = False
        return flight
    return None


def _check_digest(known: int, digest: int, place: Place, what: str) -> None:
    if known != digest:
        message = f"observation: step {place} {what} for another observation or mask"
        raise PreconditionError(message, reason="OTHER_OBSERVATION", field="observation")


def _check_not_stale(asked: Asked, place: Place, current: Place) -> None:
    if place < current:
        field_name = "token" if asked.cursor is not None else "position"
        message = f"{field_name}: it names step {place}, and the session stands at {current}"
        raise FencedError(message, reason="STALE_TOKEN", field=field_name)


def _make_flight(key: SessionKey, cursor: Cursor, place: Place, previous: Place | None, digest: int) -> Flight:
    is_next = place == cursor.place
    is_same_episode = is_next or (place[0] == cursor.episode and 0 < cursor.number <= place[1])
    return Flight(
        key=key,
        step=StepKey(key.model, key.session, cursor.run, *place),
        digest=digest,
        previous=previous,
        is_pin_known=is_same_episode or place[1] == 0,
        pinned_version=cursor.version if is_same_episode else "",
        pinned_deployment=cursor.deployment if is_same_episode else 0,
        segment_before=cursor.segment if is_next else None,
    )
