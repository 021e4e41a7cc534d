"""From the data plane's errors to gRPC: the only place of this room that knows status codes."""

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from hyperact.service import errors
from hyperact.v1.decision_pb2 import ActError

domain = "hyperact"
_details_key = "grpc-status-details-bin"
_code_of_error: dict[type[errors.DecisionError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownNameError: grpc.StatusCode.NOT_FOUND,
    errors.FencedError: grpc.StatusCode.ABORTED,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.DeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.GivenUpError: grpc.StatusCode.CANCELLED,
}


def code_of(error: errors.DecisionError) -> grpc.StatusCode:
    """Return the status code of an error; INTERNAL if its class has none."""
    return _code_of_error.get(type(error), grpc.StatusCode.INTERNAL)


def to_act_error(error: errors.DecisionError) -> ActError:
    """Return the form in which one request of a batch carries its error."""
    message = ActError(code=code_of(error).value[0], message=str(error), field=error.field, reason=error.reason)
    if error.retry_delay_seconds is not None:
        message.retry_delay.FromNanoseconds(round(error.retry_delay_seconds * 1e9))
    return message


def to_status(error: errors.DecisionError) -> status_pb2.Status:
    """Return the google.rpc form: ErrorInfo always, BadRequest if a field is named, RetryInfo if retrying can help."""
    status = status_pb2.Status(code=code_of(error).value[0], message=str(error))
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=domain))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        _pack(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_delay_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_delay_seconds * 1e9))
        _pack(status, retry)
    return status


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: errors.DecisionError) -> NoReturn:
    """End a call with the error's status code, its message and its details."""
    metadata = ((_details_key, to_status(error).SerializeToString()),)
    await context.abort(code_of(error), str(error), metadata)
    raise AssertionError("abort returned")


def _pack(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)
