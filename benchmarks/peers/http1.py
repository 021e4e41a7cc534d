"""HTTP/1.1 from the asking side: one request at a time on a connection that is kept."""

from benchmarks.peers.connection import Connection, Listener


class HttpConnection(Connection):
    """Asks one question at a time by POST.

    Args:
        path: where to.
        content_type: what the questions are.
        listener: who is told of answers.
    """

    def __init__(self, path: str, content_type: str, listener: Listener) -> None:
        super().__init__(listener)
        self._head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: "
        self._received = bytearray()

    def ask(self, question: bytes) -> None:
        self._write(f"{self._head}{len(question)}\r\n\r\n".encode() + question)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or (answer := whole_body(bytes(head).lower(), bytes(body))) is None:
            return
        self._received.clear()
        status = head.split(b" ", 2)[1]
        if status == b"200":
            self._listener.on_answer(answer)
        else:
            self._listener.on_failure(f"status {status.decode()}: {answer[:200].decode(errors='replace')}")


def whole_body(head: bytes, body: bytes) -> bytes | None:
    """Return a response's body, or None while some of it is missing."""
    if b"transfer-encoding: chunked" in head:
        return join_chunks(body) if body.endswith(b"0\r\n\r\n") else None
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    return body if len(body) >= length else None


def join_chunks(body: bytes) -> bytes:
    """Return what was sent in chunks."""
    pieces = []
    while size := int(body.partition(b"\r\n")[0], 16):
        _, _, rest = body.partition(b"\r\n")
        pieces.append(rest[:size])
        body = rest[size + 2 :]
    return b"".join(pieces)
