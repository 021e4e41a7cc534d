"""Serialised messages put together from parts.

Protobuf reads the fields of a message in any order, and messages that are joined as bytes are read as one, merged. So
what many messages share is serialised once, and a large observation is copied once. Pure.
"""

_one_byte = [bytes([number]) for number in range(128)]
_bytes_type = 2


def varint(number: int) -> bytes:
    """Return an unsigned number as protobuf writes it."""
    if number < 128:
        return _one_byte[number]
    parts = bytearray()
    while number >> 7:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def field_head(field_number: int, num_bytes: int) -> bytes:
    """Return what stands before the content of a message or bytes field."""
    return varint(field_number << 3 | _bytes_type) + varint(num_bytes)


def field(field_number: int, content: bytes) -> bytes:
    """Return a message or bytes field."""
    return field_head(field_number, len(content)) + content
