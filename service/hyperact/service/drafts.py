"""What a decided row leaves behind: the record of its step, its token and its answer.

Made for every step, so put together from parts (`hyperact.v1.wire`): what a lane's steps share is serialised once for
the lane, their time once a batch, and the observation's bytes are copied once, from the request into the record.
"""

from functools import lru_cache

from hyperact.service import tokens
from hyperact.service.lanes import Decided, Lane
from hyperact.service.log_records import Kind, Record
from hyperact.service.rows import Row
from hyperact.service.sessions import Cursor
from hyperact.v1.decision_pb2 import ActResponse, Position, SessionState, Step
from hyperact.v1.steps import RunNames
from hyperact.v1.wire import field, field_head


class StepWriter:
    """Writes the records of one lane's steps."""

    def __init__(self, lane: Lane, key_id: bytes) -> None:
        self._lane = lane
        self._shared = Step(
            version=lane.version,
            fallback=not lane.version,
            reference_distribution=lane.distribution,
            version_digest=lane.digest,
            index_key_id=key_id,
        ).SerializeToString()
        self._observation_head = b""
        if lane.checker is not None:
            num_bytes = len(lane.checker.head) + lane.checker.num_bytes
            self._observation_head = field_head(Step.OBSERVATION_FIELD_NUMBER, num_bytes) + lane.checker.head

    def share(self, nanoseconds: int) -> bytes:
        """Return what the steps of a batch share that was decided at a Unix time."""
        step = Step()
        step.time.seconds, step.time.nanos = divmod(nanoseconds, 1_000_000_000)
        return self._shared + step.SerializeToString()

    def record(self, row: Row, names: RunNames, result: Decided, shared: bytes, time_ms: int) -> Record:
        """Return the record of a decided row; `shared` is from `share` at the same time."""
        request, key, previous = row.request, row.step, row.flight.previous
        own = Step(
            action=result.action,
            deployment=row.deployment,
            propensity=result.propensity,
            margin=result.margin,
            segment=row.segment,
        )
        if row.action_mask:
            own.action_mask = row.action_mask
        is_evaluation = request.evaluation
        if is_evaluation:
            own.evaluation = True
        if row.is_repinned:
            own.repinned = True
        if not self._lane.version:
            own.num_actions = self._lane.num_actions or len(row.action_mask)
        parts = [
            field(Step.STEP_ID_FIELD_NUMBER, names.message(key.episode, key.number)),
            self._observation_head or field(Step.OBSERVATION_FIELD_NUMBER, request.observation.SerializeToString()),
            row.content if self._observation_head else b"",
            own.SerializeToString(),
            shared,
        ]
        if previous is not None:
            parts.append(field(Step.PREVIOUS_OUTCOME_FIELD_NUMBER, request.outcome.SerializeToString()))
            parts.append(_position_field(Step.PREVIOUS_POSITION_FIELD_NUMBER, *previous))
        digest = names.digest(key.episode, key.number)
        return Record(digest, key.model, time_ms, Kind.STEP, is_evaluation, b"".join(parts))


def make_token(token_key: bytes, names: RunNames, cursor: Cursor) -> bytes:
    """Return the token of where a session stands when a step is decided."""
    assert cursor.last is not None
    assert not cursor.is_last_settled
    parts = (
        names.message(cursor.episode, cursor.number),  # the first fields of both messages are the same
        _pin(cursor.version, cursor.deployment, cursor.segment),
        _position_field(SessionState.LAST_POSITION_FIELD_NUMBER, *cursor.last),
    )
    return tokens.seal(token_key, b"".join(parts))


def make_answer(row: Row, result: Decided, version: str, token: bytes) -> ActResponse:
    """Return the answer to a decided row."""
    answer = ActResponse(
        action=result.action,
        version=version,
        deployment=row.deployment,
        propensity=result.propensity,
        margin=result.margin,
        token=token,
        step_id=row.step.to_message(),
        fallback=not version,
    )
    if result.posterior is not None:
        answer.posterior.CopyFrom(result.posterior)
    return answer


def make_answer_again(logged: Step, token: bytes) -> ActResponse:
    """Return the answer to a step that was decided and logged before."""
    return ActResponse(
        action=logged.action,
        version=logged.version,
        deployment=logged.deployment,
        propensity=logged.propensity,
        margin=logged.margin,
        token=token,
        step_id=logged.step_id,
        fallback=logged.fallback,
    )


# Small tables: sessions that began together ask for the same entries again and again.
@lru_cache(maxsize=4096)
def _pin(version: str, deployment: int, segment: int) -> bytes:
    return SessionState(version=version, deployment=deployment, segment=segment).SerializeToString()


@lru_cache(maxsize=4096)
def _position_field(field_number: int, episode: int, number: int) -> bytes:
    return field(field_number, Position(episode=episode, number=number).SerializeToString())
