"""Bare grpc.aio under uvloop: answers as many bytes as a decision has and looks at nothing. The transport's ceiling."""

import grpc
import settings
import uvloop

ANSWER = b"d" * 200


async def answer(_question: bytes, _context: object) -> bytes:
    """Answer a call."""
    return ANSWER


async def answer_stream(questions, _context):
    """Answer every message of a stream."""
    async for _ in questions:
        yield ANSWER


async def serve(port: int) -> None:
    """Serve until the process ends."""
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
    _, port = settings.read()
    uvloop.run(serve(port))
