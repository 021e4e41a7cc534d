"""What the decision path asks of tracing; `tracing` does it with OpenTelemetry, if that is wanted."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Times(NamedTuple):
    """When the stages of a batch began and ended, in monotonic seconds."""

    arrived: float
    begun: float
    at_log: float
    logged: float
    done: float


class Traced(Protocol):
    """What a trace needs to know of a row."""

    span: Any
    step: Any
    deployment: int


class Traces(Protocol):
    """Makes spans of calls and batches."""

    def interceptors(self) -> list[Any]:
        """Return what makes the spans of calls."""

    def current(self) -> Any:
        """Return the span of the call that is being answered."""

    def exemplar(self, span: Any) -> dict[str, str] | None:
        """Return the label by which a latency in the metrics names its trace; None if it is not sampled."""

    def record_batch(self, rows: Sequence[Traced], model: str, version: str, times: Times) -> None:
        """Record a batch that is over, and what it decided."""

    def close(self) -> None:
        """Send what is left."""
