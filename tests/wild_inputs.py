"""What strangers send: random messages of a kind, mutated bytes, and graphs and manifests that somebody tampered with.

Everything is drawn from the `random.Random` that is given, so an input can be made again.
"""

import math
import struct
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from hyperact.inference import open_inference_pb2
from hyperact.v1 import decision_pb2, deployment_pb2, log_pb2

max_depth = 4
_files = (decision_pb2, log_pb2, deployment_pb2, open_inference_pb2, health_pb2, reflection_pb2)
_integers = (
    0,
    1,
    2,
    3,
    7,
    127,
    128,
    255,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
    -1,
    -(2**31),
)
_floats = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, 1.8e308, -1e300, math.inf, -math.inf, math.nan)
_texts = (
    "", "default", "agent", "0", "a/b", "../../etc/passwd", "\x00", "\n", "ü😀", "x" * 300, "observations",
    "coefficients", "FP32", "hyperact.v1.DecisionService", "0123456789abcdef0123456789abcdef",
)  # fmt: skip
_datas = (
    b"",
    b"\x00",
    b"\x01",
    b"\x00\x01",
    b"\x01\x01",
    b"\xff" * 12,
    bytes(12),
    struct.pack("<3f", 0.1, math.nan, 1),
)


class Method(NamedTuple):
    """A method of the service, as a stranger sees it."""

    path: str
    request: type[Message]
    is_request_stream: bool
    is_response_stream: bool


def all_methods() -> list[Method]:
    """Return every method of every service that ours has."""
    return [
        Method(
            f"/{service.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            method.client_streaming,
            method.server_streaming,
        )
        for file in _files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


def wild_message(random: Random, kind: type[Message], seeds: Sequence[Message] = ()) -> Message:
    """Return a message whose fields are drawn, or one of the `seeds` with a few fields drawn anew."""
    fitting = [seed for seed in seeds if isinstance(seed, kind)]
    message = kind()
    if fitting and random.random() < 0.7:
        message.CopyFrom(random.choice(fitting))
        _change_one(random, message)
        return message
    _fill(random, message, depth=0)
    return message


def wild_bytes(random: Random, content: bytes) -> bytes:
    """Return bytes that were a message: bits flipped, pieces cut out, doubled, put in; or anything at all."""
    if random.random() < 0.1:
        return random.randbytes(random.choice((0, 1, 5, 50, 500)))
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        _mutate(random, changed)
    return bytes(changed)


def _mutate(random: Random, content: bytearray) -> None:
    at = random.randrange(len(content) + 1)
    length = random.choice((1, 1, 2, 4, 8, 32))
    match random.randrange(5):
        case 0 if at < len(content):
            content[at] ^= 1 << random.randrange(8)
        case 1:
            del content[at : at + length]
        case 2:
            content[at:at] = random.randbytes(length)
        case 3:
            content[at:at] = content[at : at + length]
        case _:
            content[at : at + 1] = random.choice((b"\xff", b"\x00", b"\x80", b"\xff" * 10, b"\x7f", b"\x01"))


def _change_one(random: Random, message: Message) -> None:
    """Draw one field anew, somewhere in the message."""
    present = [(field, value) for field, value in message.ListFields() if field.type == FieldDescriptor.TYPE_MESSAGE]
    if present and random.random() < 0.6:
        field, value = random.choice(present)
        inner = random.choice(list(value)) if field.is_repeated else value
        if isinstance(inner, Message):
            _change_one(random, inner)
            return
    fields: Any = message.DESCRIPTOR.fields
    if fields:
        field = random.choice(fields)
        message.ClearField(field.name)
        _fill_field(random, message, field, depth=max_depth - 2)


def _fill(random: Random, message: Message, depth: int) -> None:
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        if random.random() < 0.6:
            _fill_field(random, message, field, depth)


def _fill_field(random: Random, message: Message, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None and (depth >= max_depth or field.message_type.GetOptions().map_entry):
        return
    if field.is_repeated:
        for _ in range(random.choice((0, 1, 1, 2, 3, 9))):
            if field.message_type is not None:
                _fill(random, getattr(message, field.name).add(), depth + 1)
            else:
                getattr(message, field.name).append(_draw(random, field))
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _fill(random, inner, depth + 1)
    else:
        setattr(message, field.name, _draw(random, field))


def _draw(random: Random, field: FieldDescriptor) -> Any:
    """Return a value of a field's type."""
    kinds = FieldDescriptor
    if field.cpp_type == kinds.CPPTYPE_STRING:
        if field.type == kinds.TYPE_BYTES:
            return random.choice((*_datas, random.randbytes(random.randrange(64))))
        return random.choice(_texts)
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return random.random() < 0.5
    if field.cpp_type == kinds.CPPTYPE_DOUBLE:
        return random.choice(_floats)
    if field.cpp_type == kinds.CPPTYPE_FLOAT:
        return random.choice([value for value in _floats if abs(value) < 3.4e38 or not math.isfinite(value)])
    bits = 64 if field.cpp_type in (kinds.CPPTYPE_INT64, kinds.CPPTYPE_UINT64) else 32
    is_unsigned = field.cpp_type in (kinds.CPPTYPE_UINT32, kinds.CPPTYPE_UINT64)
    low, high = (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return random.choice([value for value in _integers if low <= value <= high])
