"""gRPC from the asking side, just enough of HTTP/2 to ask fast: one call at a time on a connection of its own.

A load generator has to cost less than what it measures, and a full gRPC client in Python costs about as much as a
server. This one knows what it will say beforehand: headers are encoded once, as literals that no table keeps, and those
of answers are not decoded (we ask for encoders without a table, so nothing is lost by skipping them). An answer without
a message is an error. Flow control is obeyed when sending; what we receive fits into windows that never close.

Source: RFC 9113 (frames, windows), RFC 7541 (literals), gRPC over HTTP/2 (the five bytes before each message).
"""

import struct
from collections.abc import Callable

from benchmarks.peers.connection import Connection, Listener

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
TABLE_SIZE, INITIAL_WINDOW, MAX_FRAME = 1, 4, 5
LARGEST_WINDOW = 2**31 - 1


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """Return a header that enters no table. Both texts have fewer than 127 bytes."""
    texts = (text.encode() for text in (name, value))
    return b"\x00" + b"".join(bytes([len(text)]) + text for text in texts)


def request_headers(path: str) -> bytes:
    """Return the encoded headers of a gRPC call."""
    pairs = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1")]
    pairs += [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "peers")]  # codespell:ignore te
    return b"".join(literal(name, value) for name, value in pairs)


class GrpcConnection(Connection):
    """Asks one question at a time: each a call of its own, or all of them messages of one call.

    Args:
        path: the method, as in "/package.Service/Method".
        is_stream: whether all messages belong to one call.
        listener: who is told of answers.
    """

    def __init__(self, path: str, is_stream: bool, listener: Listener) -> None:
        super().__init__(listener)
        self._headers, self._is_stream = request_headers(path), is_stream
        self._received, self._message, self._unsent = bytearray(), bytearray(), memoryview(b"")
        self._stream, self._is_open = -1, False
        self._initial_window = self._stream_window = self._connection_window = 65535
        self._max_frame = 16384
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            DATA: self._take_data,
            HEADERS: self._take_headers,
            RST_STREAM: self._take_reset,
            SETTINGS: self._take_settings,
            PING: self._take_ping,
            GOAWAY: lambda _flags, _stream, payload: self._fail(f"the server goes away: {readable(payload)}"),
            WINDOW_UPDATE: self._take_window,
        }

    def _greeting(self) -> bytes:
        settings = struct.pack(">HIHI", TABLE_SIZE, 0, INITIAL_WINDOW, LARGEST_WINDOW)
        opened = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST_WINDOW - 65535))
        return PREFACE + frame(SETTINGS, 0, 0, settings) + opened

    def ask(self, question: bytes) -> None:
        start = b""
        if not self._is_open:
            self._stream += 2
            self._stream_window, self._is_open = self._initial_window, True
            start = frame(HEADERS, END_HEADERS, self._stream, self._headers)
        self._message.clear()
        self._unsent = memoryview(struct.pack(">BI", 0, len(question)) + question)
        self._send(start)

    def data_received(self, data: bytes) -> None:
        self._received += data
        received, start = self._received, 0
        while len(received) - start >= 9:
            end = start + 9 + int.from_bytes(received[start : start + 3], "big")
            if len(received) < end:
                break
            kind, flags, stream = struct.unpack_from(">BBI", received, start + 3)
            if handler := self._handlers.get(kind):
                handler(flags, stream, bytes(received[start + 9 : end]))
            start = end
        del received[:start]

    def _send(self, start: bytes = b"") -> None:
        """Send what the windows let pass."""
        pieces = [start]
        while self._unsent and (room := min(self._max_frame, self._stream_window, self._connection_window)) > 0:
            piece, self._unsent = self._unsent[:room], self._unsent[room:]
            self._stream_window -= len(piece)
            self._connection_window -= len(piece)
            flags = 0 if self._unsent or self._is_stream else END_STREAM
            pieces.append(frame(DATA, flags, self._stream, bytes(piece)))
        self._write(b"".join(pieces))

    def _take_data(self, flags: int, _stream: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        self._message += payload
        if self._is_stream and self._is_whole():
            self._listener.on_answer(bytes(self._message[5:]))
        elif flags & END_STREAM:
            self._end(b"")

    def _take_headers(self, flags: int, _stream: int, payload: bytes) -> None:
        if flags & END_STREAM:
            self._end(payload)

    def _take_reset(self, _flags: int, stream: int, payload: bytes) -> None:
        if self._is_open and stream == self._stream:
            self._fail(f"the call was reset with code {int.from_bytes(payload, 'big')}")

    def _end(self, trailers: bytes) -> None:
        self._is_open = False
        if self._is_stream or not self._is_whole():
            self._fail(f"a call ended without an answer: {readable(trailers)}")
        else:
            self._listener.on_answer(bytes(self._message[5:]))

    def _is_whole(self) -> bool:
        message = self._message
        return len(message) >= 5 and len(message) == 5 + int.from_bytes(message[1:5], "big")

    def _take_settings(self, flags: int, _stream: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == MAX_FRAME:
                self._max_frame = value
        self._send(frame(SETTINGS, ACK, 0))

    def _take_ping(self, flags: int, _stream: int, payload: bytes) -> None:
        if not flags & ACK:
            self._send(frame(PING, ACK, 0, payload))

    def _take_window(self, _flags: int, stream: int, payload: bytes) -> None:
        (more,) = struct.unpack(">I", payload)
        if stream == 0:
            self._connection_window += more
        elif stream == self._stream:
            self._stream_window += more
        self._send()

    def _fail(self, reason: str) -> None:
        self._is_open = False
        self._listener.on_failure(reason)


def readable(data: bytes) -> str:
    """Return what a person can read of encoded headers."""
    return "".join(chr(byte) if 32 <= byte < 127 else " " for byte in data).strip()
