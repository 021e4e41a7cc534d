"""What can go wrong for a client, by who is at fault.

RequestError            the request: a field is malformed or names what is not there. Sending it again cannot help.
FencedError             a newer run of the same session took over, or this one's token is stale.
PreconditionError       the request does not fit where the session or the service stands now.
AuthenticationError     the token or the credentials are not accepted.
BusyError               the service has too much to do; retry_delay_seconds says when to come again.
UnavailableError        the service cannot be reached, is draining, or did not answer in time.
ServiceFaultError       the service failed at something it should have done.
"""

from typing import Any, ClassVar

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

from hyperact.clients.session_memory import Decision
from hyperact.v1.decision_pb2 import ActError


class ClientError(Exception):
    """A call that was not answered, and why.

    Attributes:
        code: the gRPC status.
        field: the request's field at fault, dotted; empty if none is.
        reason: a constant in UPPER_SNAKE_CASE for programs; empty if the service gave none.
        retry_delay_seconds: after how long the service asks to be tried again; None if it does not.
    """

    codes: ClassVar[frozenset[grpc.StatusCode]] = frozenset()

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        field: str = "",
        reason: str = "",
        retry_delay_seconds: float | None = None,
    ) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.field = field
        self.reason = reason
        self.retry_delay_seconds = retry_delay_seconds


class RequestError(ClientError):
    """The request is malformed, or names what is not there."""

    codes = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE})


class FencedError(ClientError):
    """A newer run of the session took over, or the token is stale."""

    codes = frozenset({grpc.StatusCode.ABORTED})


class PreconditionError(ClientError):
    """The request does not fit where the session or the service stands."""

    codes = frozenset({grpc.StatusCode.FAILED_PRECONDITION})


class AuthenticationError(ClientError):
    """The token or the credentials are not accepted."""

    codes = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


class BusyError(ClientError):
    """The service has too much to do."""

    codes = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED})


class UnavailableError(ClientError):
    """The service cannot be reached, is draining, or did not answer in time."""

    codes = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})


class ServiceFaultError(ClientError):
    """The service failed at something it should have done."""


_class_of_code = {
    code: kind
    for kind in (RequestError, FencedError, PreconditionError, AuthenticationError, BusyError, UnavailableError)
    for code in kind.codes
}
_code_of_number: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class BatchError(Exception):
    """Some rows of a batch were not answered. The others were, and their decisions stand in `decisions`.

    Attributes:
        errors: by row.
        decisions: one per row, None where there is an error or where the row took no part.
    """

    def __init__(self, errors: dict[int, ClientError], decisions: list[Decision | None]) -> None:
        row, first = next(iter(sorted(errors.items())))
        super().__init__(f"{len(errors)} of {len(decisions)} rows failed; row {row}: {first}")
        self.errors = errors
        self.decisions = decisions


def make_error(
    code: grpc.StatusCode,
    message: str,
    field: str = "",
    reason: str = "",
    retry_delay_seconds: float | None = None,
) -> ClientError:
    """Return the error of the class that its status code belongs to."""
    kind = _class_of_code.get(code, ServiceFaultError)
    return kind(message, code, field, reason, retry_delay_seconds)


def from_act_error(error: ActError) -> ClientError:
    """Return the error of one row of a batch."""
    delay = error.retry_delay.ToTimedelta().total_seconds() if error.HasField("retry_delay") else None
    code = _code_of_number.get(error.code, grpc.StatusCode.UNKNOWN)
    return make_error(code, error.message, error.field, error.reason, delay)


def from_rpc_error(error: grpc.RpcError, timeout_seconds: float | None = None) -> ClientError:
    """Return the error of a call, with what its details say.

    Args:
        timeout_seconds: how long the call could take, to be told if that was too short.
    """
    # What grpc raises is a Call too; its type stubs do not say so.
    call: grpc.Call = error  # type: ignore[assignment]
    field, reason, delay = "", "", None
    status = _status_of(call)
    for detail in status.details if status else ():
        bad, info, retry = BadRequest(), ErrorInfo(), RetryInfo()
        if detail.Unpack(bad) and bad.field_violations:
            field = bad.field_violations[0].field
        elif detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    message = call.details() or "no details"
    if call.code() == grpc.StatusCode.DEADLINE_EXCEEDED and timeout_seconds is not None:
        message = f"no answer within {timeout_seconds:.1f} s"
    return make_error(call.code(), message, field, reason, delay)


def _status_of(call: grpc.Call) -> Any:  # google.rpc.Status has no stubs
    try:
        return rpc_status.from_call(call)
    except ValueError:  # the details contradict the status: whatever stands between us and the service wrote them
        return None
