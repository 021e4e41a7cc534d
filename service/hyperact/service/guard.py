"""The one door to every method: who is it, may they, and is there room. It stands before the request is read.

The rules:

1. A method answers those whom the table in `access` names, and no method is outside the table.
2. A token in the call's metadata ("authorization: Bearer …") decides who calls; without one, the connection's
   certificate. A token that is nobody's is refused even from a connection with a good certificate.
3. Who has a token, or needs one, is judged before their message is read: a stranger's message costs nothing.
4. The credentials may change at any time. Calls that begin afterwards are judged by the new ones, and open streams at
   their next message.
5. A message that is not one of the method's gets INVALID_ARGUMENT.

Without credentials and limits of callers the door stands open, and only rule 5 is left.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import grpc
from google.protobuf.message import DecodeError

from hyperact.service.access import Access, Role, access_of_method, check_complete
from hyperact.service.callers import Caller, CallerLimits, current_caller, nobody
from hyperact.service.credentials import Credentials, read_credentials
from hyperact.service.errors import DecisionError, DeniedError, InvalidRequestError, UnauthenticatedError
from hyperact.service.statuses import abort
from hyperact.service.watched_file import WatchedFiles

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Metadata: TypeAlias = Iterable[tuple[str, Any]]
# Their requests are counted one by one, also in a batch, by the data plane.
_counting_methods = frozenset(f"/hyperact.v1.DecisionService/{name}" for name in ("Act", "ActBatch", "Report"))
_header, _scheme = "authorization", "bearer"


class Guard:
    """Tells who calls and whether they may.

    Args:
        credentials_file: None: nobody is asked for a name, and each host is a caller.
        count_refused: is told the reason of each call that is refused.
    """

    def __init__(
        self,
        credentials_file: Path | None,
        limits: CallerLimits,
        *,
        count_refused: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Read the credentials file; OSError or ValueError if it cannot be used."""
        self._limits = limits
        self._count_refused = count_refused
        self._hosts: WeakValueDictionary[str, Caller] = WeakValueDictionary()
        self._callers: dict[str, Caller] = {}
        self._file: WatchedFiles[Credentials] | None = None
        self.generation = 0
        if credentials_file is not None:
            self._file = WatchedFiles(
                "credentials file", [credentials_file], lambda: read_credentials(credentials_file)
            )
            self._declare(self._file.content)

    def refresh(self) -> None:
        """Read the credentials again if the file changed."""
        if self._file is not None and self._file.refresh():
            self._declare(self._file.content)

    def judge_early(self, metadata: Metadata, access: Access) -> Caller | None:
        """Return who calls, if that can be told from the call's metadata alone; None if the connection must tell.

        Raises as `judge` does.
        """
        if self._file is None or access is Access.ANYONE:
            return None
        token = _find_token(metadata)
        if token is None:
            if not self._file.content.has_certificates:
                raise self._refused(_who_are_you())
            return None
        return self._admit(self._file.content.find_token(token), access)

    def judge(self, context: Context, access: Access) -> Caller:
        """Return who calls.

        Raises:
            UnauthenticatedError: neither a token nor a certificate that is known.
            DeniedError: a caller that is known has not the role.
        """
        if self._file is None or access is Access.ANYONE:
            return self._host(context)
        token = _find_token(context.invocation_metadata() or ())
        if token is not None:
            return self._admit(self._file.content.find_token(token), access)
        return self._admit(self._file.content.find_certificate(_certificate_names(context)), access)

    def _admit(self, name: str, access: Access) -> Caller:
        caller = self._callers.get(name)
        if caller is None:
            raise self._refused(_who_are_you())
        if access is not Access.KNOWN and Role(access) not in caller.roles:
            message = f"{caller.name} has not the role {access.value}"
            raise self._refused(DeniedError(message, reason="MISSING_ROLE"))
        return caller

    def _host(self, context: Context) -> Caller:
        host = (context.peer() or "").rpartition(":")[0] or "unknown"
        caller = self._hosts.get(host)
        if caller is None:
            caller = self._hosts[host] = Caller(host, limits=self._limits)
        return caller

    def _declare(self, credentials: Credentials) -> None:
        """Take over what the file says. A caller that stays keeps what it holds."""
        self.generation += 1
        callers = {}
        for name, declared in credentials.callers.items():
            caller = callers[name] = self._callers.get(name) or Caller(name, limits=self._limits)
            caller.roles, caller.sessions = declared.roles, declared.sessions
        self._callers = callers

    def _refused(self, error: DecisionError) -> DecisionError:
        self._count_refused(error.reason)
        return error


@dataclass(frozen=True, slots=True)
class _Method:
    handler: "grpc.RpcMethodHandler[Any, Any]"
    access: Access
    has_request: bool  # a single request message, which gRPC reads before it calls the handler


class GuardedMethods(grpc.GenericRpcHandler):
    """All methods of a server, behind a guard. It collects them as a server does, and is then given to one.

    Args:
        guard: None: the door stands open.
    """

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard
        self._methods: dict[str, _Method] = {}

    # What generated code calls on a server.

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Take nothing: every method comes by the other way as well."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None:
        """Take a service's methods in; RuntimeError if nobody said who may call them."""
        by_path = {f"/{service_name}/{name}": handler for name, handler in method_handlers.items()}
        check_complete(by_path)
        for path, handler in by_path.items():
            access = access_of_method[path]
            wrapped = self._wrap(handler, access, counts_itself=path in _counting_methods)
            self._methods[path] = _Method(wrapped, access, not handler.request_streaming)

    # What gRPC calls.

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers a call; None if there is no such method."""
        method = self._methods.get(handler_call_details.method)
        if method is None or self._guard is None:
            return method.handler if method else None
        try:
            caller = self._guard.judge_early(handler_call_details.invocation_metadata or (), method.access)
            if caller is not None:
                if method.has_request and method.access is Access.ACT:
                    caller.check_requests()
                current_caller.set(caller)
        except DecisionError as error:
            return _refuse(error)
        return method.handler

    def _wrap(self, handler: Any, access: Access, *, counts_itself: bool) -> Any:
        behave = _behaviour(handler)
        if handler.response_streaming:
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            wrapped = self._streaming(behave, access, is_request_stream=handler.request_streaming)
        else:
            assert not handler.request_streaming
            make = grpc.unary_unary_rpc_method_handler
            wrapped = self._unary(behave, access, counts_itself=counts_itself)
        return make(wrapped, _lenient(handler.request_deserializer), handler.response_serializer)

    def _unary(self, behave: Any, access: Access, *, counts_itself: bool) -> Any:
        guard = self._guard

        async def answer(request: Any, context: Context) -> Any:
            try:
                if guard is not None and current_caller.get() is nobody:
                    current_caller.set(guard.judge(context, access))
                _check_parsed(request)
                if guard is not None and not counts_itself:
                    current_caller.get().check_requests()
            except DecisionError as error:
                await abort(context, error)
            if guard is None or counts_itself:
                return await behave(request, context)
            with current_caller.get().request():
                return await behave(request, context)

        return answer

    def _streaming(self, behave: Any, access: Access, *, is_request_stream: bool) -> Any:
        async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                with self._enter_stream(context, access) as check:
                    given = _each_parsed(request, check) if is_request_stream else _check_parsed(request)
                    async with contextlib.aclosing(behave(given, context)) as responses:
                        async for response in responses:
                            check()
                            yield response
            except DecisionError as error:
                await abort(context, error)

        return answer

    @contextlib.contextmanager
    def _enter_stream(self, context: Context, access: Access) -> Any:
        """Count a stream; give a function that raises once its caller may not go on."""
        guard = self._guard
        if guard is None:
            yield lambda: None
            return
        caller = current_caller.get()
        if caller is nobody:
            caller = guard.judge(context, access)
            current_caller.set(caller)
        judged = guard.generation

        def check() -> None:
            nonlocal judged
            if judged != guard.generation:
                judged = guard.generation
                guard.judge(context, access)

        with caller.stream(reads_log=access is Access.READ_LOG):
            yield check


def _behaviour(handler: Any) -> Any:
    behaviours = (handler.unary_unary, handler.unary_stream, handler.stream_stream, handler.stream_unary)
    return next(behaviour for behaviour in behaviours if behaviour is not None)


def _lenient(parse: Any) -> Any:
    """Return a parser that returns None for what is no message of its kind."""

    def try_to_parse(content: bytes) -> Any:
        try:
            return parse(content)
        except DecodeError:
            return None

    return try_to_parse


def _check_parsed(request: Any) -> Any:
    if request is None:
        raise InvalidRequestError("the bytes are not a message of this method", reason="MALFORMED")
    return request


async def _each_parsed(requests: AsyncIterator[Any], check: Callable[[], None]) -> AsyncIterator[Any]:
    async for request in requests:
        check()
        yield _check_parsed(request)


def _refuse(error: DecisionError) -> Any:
    """Return a handler that ends a call of any kind without reading a message."""

    async def refuse(_requests: Any, context: Context) -> AsyncIterator[Any]:
        await abort(context, error)
        yield

    return grpc.stream_stream_rpc_method_handler(refuse)


def _find_token(metadata: Metadata) -> str | None:
    """Return the bearer token of a call; None if it has no such metadata, "" if that is of another kind."""
    for key, value in metadata:
        if key == _header:
            scheme, _, token = str(value).partition(" ")
            return token.strip() if scheme.lower() == _scheme else ""
    return None


def _certificate_names(context: Context) -> list[str]:
    """Return the names of the connection's verified certificate, none if there is none."""
    found = context.auth_context()
    names = found.get("x509_subject_alternative_name") or found.get("x509_common_name") or ()
    return [name.decode(errors="replace") for name in names]


def _who_are_you() -> UnauthenticatedError:
    message = "a token that is known here is needed (authorization: Bearer …), or a certificate"
    return UnauthenticatedError(message, reason="UNKNOWN_CALLER")
