"""What can go wrong for a caller, as the data plane knows it. The servicers turn these into gRPC statuses, and nothing
else in this room knows a status code.
"""

from hyperact.v1.errors import FieldError


class DecisionError(Exception):
    """A request that cannot be answered, and why.

    Attributes:
        reason: a constant in UPPER_SNAKE_CASE for programs.
        field: the request's field at fault, dotted; empty if none is.
        retry_delay_seconds: after how long the same request may succeed; None if it cannot.
    """

    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        retry_delay_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason or self.default_reason
        self.field = field
        self.retry_delay_seconds = retry_delay_seconds


class InvalidRequestError(DecisionError):
    """A field is malformed. gRPC: INVALID_ARGUMENT."""

    default_reason = "INVALID_FIELD"

    @classmethod
    def from_field_error(cls, error: FieldError) -> "InvalidRequestError":
        """Return the same complaint as a request's error."""
        return cls(str(error), reason=error.reason, field=error.field)


class UnknownNameError(DecisionError):
    """A model, partition or version that is not here. gRPC: NOT_FOUND."""

    default_reason = "NOT_FOUND"


class FencedError(DecisionError):
    """A newer run of the session took over, or the token is stale. gRPC: ABORTED."""

    default_reason = "FENCED"


class PreconditionError(DecisionError):
    """The state of the session or of the service does not allow the request. gRPC: FAILED_PRECONDITION."""

    default_reason = "FAILED_PRECONDITION"


class ExhaustedError(DecisionError):
    """A queue or the log's disk is full. gRPC: RESOURCE_EXHAUSTED, with the retry delay."""

    default_reason = "EXHAUSTED"


class UnavailableError(DecisionError):
    """Draining, or the log or the registry cannot be reached. gRPC: UNAVAILABLE."""

    default_reason = "UNAVAILABLE"


class UnauthenticatedError(DecisionError):
    """A token that this service's keys did not sign, or a caller that is not known. gRPC: UNAUTHENTICATED."""

    default_reason = "BAD_TOKEN"


class DeniedError(DecisionError):
    """The caller is known and may not do this. gRPC: PERMISSION_DENIED."""

    default_reason = "DENIED"


class OutOfRangeError(DecisionError):
    """A log position before the oldest entry kept or beyond the newest. gRPC: OUT_OF_RANGE."""

    default_reason = "OUT_OF_RANGE"


class GivenUpError(DecisionError):
    """The caller cancelled, or its deadline passed; nobody reads this. gRPC: CANCELLED."""

    default_reason = "GIVEN_UP"


class VersionRefusedError(Exception):
    """A registered version that cannot be served, and why.

    Attributes:
        reason: CORRUPT, MISSING, TOO_LARGE, WRONG_SPEC, WRONG_MODEL, BAD_OUTPUT or LOAD_FAILED.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RegistryUnavailableError(Exception):
    """The registry cannot be read now."""
