"""What the door costs a call: nanoseconds from gRPC's question for a handler to the servicer's own code.

    python benchmarks/guard.py --output benchmarks/results

Without a network, for that would drown it: a handler is looked up and run as gRPC does, on an event loop, with a
servicer that does nothing. `bare` is gRPC's own generic handler, `open` the door without credentials, `token` one that
knows 1,000 callers by their tokens, `certificate` the same by certificates, whose names the connection tells. The best
of seven rounds counts. Results go to guard.csv, one row a way.
"""

import argparse
import asyncio
import csv
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc

from hyperact.service.callers import CallerLimits, current_caller, nobody
from hyperact.service.credentials import hash_token
from hyperact.service.guard import Guard, GuardedMethods
from hyperact.v1.decision_pb2 import ActRequest, ActResponse

NUM_CALLERS = 1000
NUM_CALLS = 20_000
NUM_ROUNDS = 7
PATH = "/hyperact.v1.DecisionService/Act"


class Connection:
    """What a servicer may ask of a call, with a certificate of the last caller."""

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_subject_alternative_name": [f"caller-{NUM_CALLERS - 1}.example.com".encode()]}

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


async def act(_request: ActRequest, _context: Any) -> ActResponse:
    return RESPONSE


RESPONSE = ActResponse()
HANDLER = grpc.unary_unary_rpc_method_handler(act, ActRequest.FromString, ActResponse.SerializeToString)


async def measure(methods: Any, metadata: tuple[tuple[str, str], ...]) -> float:
    """Return nanoseconds a call."""
    details, content, connection = SimpleNamespace(method=PATH, invocation_metadata=metadata), b"", Connection()
    best = float("inf")
    for _ in range(NUM_ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(NUM_CALLS):
            current_caller.set(nobody)
            handler = methods.service(details)
            await handler.unary_unary(handler.request_deserializer(content), connection)
        best = min(best, (time.perf_counter_ns() - begun) / NUM_CALLS)
    return best


def make_guard(directory: Path) -> Guard:
    """Return a guard that knows many callers, each by a token and a certificate."""
    tables = [
        f'[callers.caller-{number}]\nroles = ["act"]\ntokens = ["{hash_token(f"token-{number}")}"]\n'
        f'certificates = ["caller-{number}.example.com"]\n'
        for number in range(NUM_CALLERS)
    ]
    path = directory / "credentials.toml"
    path.write_text("\n".join(tables))
    path.chmod(0o600)
    return Guard(path, CallerLimits(max_requests=100))


async def compare() -> dict[str, float]:
    """Return nanoseconds a call by the way it is answered."""
    with tempfile.TemporaryDirectory() as directory:
        guarded, opened = GuardedMethods(make_guard(Path(directory))), GuardedMethods(None)
    for methods in (guarded, opened):
        methods.add_registered_method_handlers("hyperact.v1.DecisionService", {"Act": HANDLER})
    bare = grpc.method_handlers_generic_handler("hyperact.v1.DecisionService", {"Act": HANDLER})
    return {
        "bare": await measure(bare, ()),
        "open": await measure(opened, ()),
        "token": await measure(guarded, (("user-agent", "x"), ("authorization", f"Bearer token-{NUM_CALLERS - 1}"))),
        "certificate": await measure(guarded, (("user-agent", "x"),)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=None, help="the folder of guard.csv; unset: none is written")
    arguments = parser.parse_args()
    found = asyncio.run(compare())
    for way, nanoseconds in found.items():
        print(f"{way:12} {nanoseconds:8.0f} ns a call")
    if arguments.output is not None:
        with (arguments.output / "guard.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["way", "nanoseconds_a_call"])
            writer.writerows((way, round(nanoseconds)) for way, nanoseconds in found.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
