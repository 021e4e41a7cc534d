"""Messages put together from parts are the messages that protobuf writes whole."""

from hypothesis import given
from hypothesis import strategies as st

from hyperact.v1.decision_pb2 import Position, Step, StepId
from hyperact.v1.wire import field, field_head, varint


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_written_as_protobuf_writes_it(number: int) -> None:
    """Numbers of every length, to the largest that a field can hold."""
    assert Position(episode=number).SerializeToString() == (b"\x08" + varint(number) if number else b"")


@given(st.binary(max_size=300))
def test_a_field_of_bytes_is_read_back(content: bytes) -> None:
    """Short and long ones."""
    assert content == Step.FromString(field(Step.ACTION_MASK_FIELD_NUMBER, content)).action_mask


def test_parts_merge_in_any_order() -> None:
    """What steps share may come before or after what is their own."""
    shared, own = Step(version="7", deployment=3).SerializeToString(), Step(action=2).SerializeToString()
    name = StepId(model="m", number=5).SerializeToString()
    parts = [shared, field_head(Step.STEP_ID_FIELD_NUMBER, len(name)) + name, own]

    whole = Step(step_id=StepId(model="m", number=5), action=2, version="7", deployment=3)

    assert whole == Step.FromString(b"".join(parts))
    assert whole == Step.FromString(b"".join(reversed(parts)))
