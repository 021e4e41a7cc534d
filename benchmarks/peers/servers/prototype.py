"""What one would write in an afternoon: grpc.aio, uvloop, ONNX Runtime inline, raw bytes, and batches of what waits.

No log, no index, no sessions, no versions, no checks: how fast Python could be with nothing but the graph.
"""

import asyncio

import grpc
import numpy as np
import settings
import uvloop
from graph import Graph


class Batcher:
    """Asks the graph once for all that came in one turn of the event loop."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._waiting: list[tuple[np.ndarray, asyncio.Future[bytes]]] = []

    def ask(self, question: bytes) -> "asyncio.Future[bytes]":
        """Return what will hold the answer."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        answer = loop.create_future()
        self._waiting.append((self._graph.parse(question), answer))
        return answer

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        coefficients = self._graph.coefficients(np.concatenate([rows for rows, _ in waiting]))
        start = 0
        for rows, answer in waiting:
            if not answer.done():
                answer.set_result(coefficients[start : start + len(rows)].tobytes())
            start += len(rows)


async def serve(graph: Graph, port: int) -> None:
    """Serve until the process ends."""
    batcher = Batcher(graph)

    async def answer(question: bytes, _context: object) -> bytes:
        return await batcher.ask(question)

    async def answer_stream(questions, _context):
        async for question in questions:
            yield await batcher.ask(question)

    handlers = {
        "Ask": grpc.unary_unary_rpc_method_handler(answer),
        "AskStream": grpc.stream_stream_rpc_method_handler(answer_stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peers.Peer", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    path, port = settings.read()
    uvloop.run(serve(Graph(path), port))
