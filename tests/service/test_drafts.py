"""Records, tokens and answers that are put together from parts say what whole messages would."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperact.service import tokens
from hyperact.service.callers import nobody
from hyperact.service.drafts import StepWriter, make_answer, make_answer_again, make_token
from hyperact.service.lanes import Decided, FallbackLane
from hyperact.service.log_records import to_record
from hyperact.service.rhythm import Rhythm
from hyperact.service.rows import Row
from hyperact.service.sessions import Cursor, Flight, SessionKey
from hyperact.v1.decision_pb2 import ActRequest, Outcome, Position, Step
from hyperact.v1.indices import GAUSSIAN
from hyperact.v1.steps import RunNames, StepKey
from hyperact.v1.tensor_pb2 import TensorSpec
from hyperact.v1.tensors import TensorChecker, make_spec, to_tensor

KEY = b"k" * 16
OBSERVATION = np.arange(6, dtype=np.float32).reshape(2, 3)
STEP = StepKey("default", "Zürich/1", "run", 300, 2**40)
VERSION_LANE = FallbackLane(
    KEY,
    num_actions=4,
    rhythm=Rhythm(KEY),
    checker=TensorChecker(make_spec(np.float32, (2, 3))),
    version="7",
    digest=b"digest-8",
    distribution=GAUSSIAN,
)
UNKNOWN_LANE = FallbackLane(KEY, num_actions=0, rhythm=Rhythm(KEY))
nanoseconds = 1_700_000_000_123_456_789


def make_row(previous: tuple[int, int] | None = (300, 2**40 - 1), mask: bytes = b"", **asked: Any) -> Row:
    request = ActRequest(session=STEP.session, observation=to_tensor(OBSERVATION), action_mask=mask, **asked)
    key = SessionKey(STEP.model, STEP.session)
    flight = Flight(key, STEP, 1, previous, "7", 3, is_pin_known=True, segment_before=0)
    return Row(
        request=request,
        flight=flight,
        step=STEP,
        content=request.observation.data,
        checker=None,
        action_mask=mask,
        wants_posterior=False,
        begun=time.monotonic(),
        waiting=[],
        versions=None,  # type: ignore[arg-type]  # nothing here asks for them
        caller=nobody,
        deployment=3,
        segment=2,
    )


def whole(row: Row, lane: FallbackLane, result: Decided) -> Step:
    """Return the step as one message made by protobuf."""
    step = Step(
        step_id=row.step.to_message(),
        observation=row.request.observation,
        action=result.action,
        version=lane.version,
        deployment=row.deployment,
        propensity=result.propensity,
        margin=result.margin,
        segment=row.segment,
        action_mask=row.action_mask,
        evaluation=row.request.evaluation,
        fallback=not lane.version,
        repinned=row.is_repinned,
        reference_distribution=lane.distribution,
        num_actions=0 if lane.version else lane.num_actions or len(row.action_mask),
        version_digest=lane.digest,
        index_key_id=b"key!",
    )
    step.time.FromNanoseconds(nanoseconds)
    if row.flight.previous is not None:
        step.previous_outcome.CopyFrom(row.request.outcome)
        episode, number = row.flight.previous
        step.previous_position.CopyFrom(Position(episode=episode, number=number))
    return step


@pytest.mark.parametrize("lane", [VERSION_LANE, UNKNOWN_LANE], ids=["version", "fallback"])
@pytest.mark.parametrize(
    "row",
    [
        make_row(outcome=Outcome(reward=-0.5)),
        make_row(previous=None),
        make_row(
            previous=(0, 0), outcome=Outcome(reward=0.0, terminated=True, final_observation=to_tensor(OBSERVATION))
        ),
        make_row(mask=b"\x01\x00\x01\x01", evaluation=True, outcome=Outcome(truncated=True)),
    ],
    ids=["middle", "first", "end", "masked"],
)
def test_a_record_holds_the_whole_step(row: Row, lane: FallbackLane) -> None:
    """What the log holds is what every reader of the contract expects, field by field."""
    writer, result = StepWriter(lane, b"key!"), Decided(3, 0.25, 0.125)

    record = writer.record(row, RunNames(*STEP[:3]), result, writer.share(nanoseconds), nanoseconds // 1_000_000)

    expected = whole(row, lane, result)
    assert expected == Step.FromString(record.payload)
    assert to_record(expected)[:5] == record[:5]


@given(
    st.builds(
        Cursor,
        run=st.just("run"),
        episode=st.integers(0, 2**64 - 1),
        number=st.integers(0, 2**64 - 1),
        version=st.sampled_from(["", "1", "12"]),
        deployment=st.integers(0, 2**64 - 1),
        segment=st.integers(0, 2**64 - 1),
        last=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        is_last_settled=st.just(value=False),
    )
)
def test_a_token_carries_the_whole_cursor(cursor: Cursor) -> None:
    """Any replica reads from it what the session's own memory holds."""
    key = SessionKey("default", "Zürich/1")

    token = make_token(KEY, RunNames(*key, cursor.run), cursor)

    assert cursor.to_state(key) == tokens.verify(KEY, token, model=key.model, session=key.session)


def test_an_answer_from_the_log_is_the_first_one() -> None:
    """A retry that a replica answers from the log gets the same answer."""
    row, result = make_row(outcome=Outcome(reward=1.0)), Decided(3, 0.25, 0.125)
    logged = whole(row, VERSION_LANE, result)

    assert make_answer(row, result, "7", b"token") == make_answer_again(logged, b"token")


def test_a_spec_with_bounds_has_the_same_form_on_the_wire() -> None:
    """What stands before an observation's bytes names dtype and shape, and nothing of the bounds."""
    spec = make_spec(np.float32, (2, 3))
    spec.MergeFrom(TensorSpec(minimum=0.0, maximum=9.0))

    assert VERSION_LANE.checker is not None
    assert VERSION_LANE.checker.head == TensorChecker(spec).head
