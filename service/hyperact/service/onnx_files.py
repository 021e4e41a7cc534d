"""Whether an ONNX file stands alone: a walk over its protobuf wire form, without the onnx package.

A file may refer to tensors in other files ("external data"). The manifest's digest would not cover them, and their
paths come from the file, so such a version is not served. Nor is one with operators outside ONNX's own domains: they
are whatever the runtime happens to have under that name, its own inventions or somebody's library.

The table below names, for each message that can hold tensors or nodes, the fields that lead on (onnx.proto, IR version
10+).
"""

from collections.abc import Iterator

_children: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_external_data, _data_location = 13, 14
_node_domain = 7
_standard_domains = frozenset({b"", b"ai.onnx", b"ai.onnx.ml"})
_varint, _fixed64, _bytes, _fixed32 = 0, 1, 2, 5


def find_foreign(content: bytes) -> str:
    """Return what a file needs from elsewhere, for people; empty if it stands alone.

    ValueError if the bytes are not a protobuf message.
    """
    todo = [("model", memoryview(content))]
    while todo:
        kind, message = todo.pop()
        for field, value in _fields(message):
            if kind == "tensor" and (field == _external_data or (field == _data_location and value == 1)):
                return "tensors in other files"
            if kind == "node" and field == _node_domain and _bytes_of(value) not in _standard_domains:
                return f"operators of the domain {_bytes_of(value)[:80].decode(errors='replace')!r}"
            if field in _children[kind] and isinstance(value, memoryview):
                todo.append((_children[kind][field], value))
    return ""


def _bytes_of(value: int | memoryview) -> bytes:
    """Return a length-delimited field's bytes; none for a number, which a parser would pass over there."""
    return bytes(value) if isinstance(value, memoryview) else b""


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message: an integer, or the bytes of a length-delimited field."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        wire_type = tag & 7
        if wire_type == _varint:
            number, position = _read_varint(message, position)
            yield tag >> 3, number
            continue
        if wire_type == _bytes:
            length, position = _read_varint(message, position)
        elif wire_type in (_fixed64, _fixed32):
            length = 8 if wire_type == _fixed64 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("a field reaches beyond the end of its message")
        yield tag >> 3, message[position : position + length]
        position += length


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("cut off in the middle of a number")
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number of more than 64 bits")
