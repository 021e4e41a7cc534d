"""When a call is tried again, and after how long. Pure: the clock and the randomness are given.

Every request of this library may be sent twice: it names its step by token or position, and the service answers a
step once. So what is temporary is tried again until the deadline:

    UNAVAILABLE, CANCELLED          with backoff (gRPC itself has made the first attempts by then)
    RESOURCE_EXHAUSTED              after the delay that the service asks for, or with backoff
    everything else                 never

Backoff: uniform in [1/2, 1] times min(initial * 2^attempt, longest).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc

from hyperact.clients.effects import Call, Effects, Sleep
from hyperact.clients.errors import ClientError

temporary_codes = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


@dataclass(frozen=True)
class Retries:
    """How long to go on trying.

    Attributes:
        deadline_seconds: for one act or report, all attempts together.
    """

    deadline_seconds: float = 30.0
    initial_seconds: float = 0.1
    longest_seconds: float = 2.0
    random: Random = field(default_factory=Random, compare=False)

    def delay_seconds(self, error: ClientError, attempt: int) -> float | None:
        """Return the pause after the attempt of this number, from 0; None: give up."""
        if error.code not in temporary_codes:
            return None
        if error.retry_delay_seconds is not None:
            return error.retry_delay_seconds
        longest = min(self.initial_seconds * 2.0 ** min(attempt, 30), self.longest_seconds)
        return longest * self.random.uniform(0.5, 1.0)


def call(method: str, request: Any, retries: Retries, clock: Callable[[], float]) -> Effects[Any]:
    """Send one request until it is answered, refused for good, or the deadline has passed (ClientError)."""
    return (yield from call_until(method, request, retries, clock, clock() + retries.deadline_seconds))


def call_until(
    method: str, request: Any, retries: Retries, clock: Callable[[], float], deadline: float
) -> Effects[Any]:
    """As `call`, with the deadline as a time of the clock."""
    attempt = 0
    while True:
        try:
            return (yield Call(method, request, max(deadline - clock(), 0.001)))
        except ClientError as error:
            delay_seconds = retries.delay_seconds(error, attempt)
            if delay_seconds is None or clock() + delay_seconds >= deadline:
                raise
        yield Sleep(delay_seconds)
        attempt += 1
