"""Who calls, what they may do, and how much of the service they hold.

A caller is a name in the credentials file, or, where names are not asked for and limits are set, a host. Its excess is
refused to itself alone: what it may hold is less than what there is.

The caller of a call travels beside it in `current_caller`; without a guard it is `nobody`, who has no limits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from hyperact.service.access import Role
from hyperact.service.errors import DeniedError, ExhaustedError

busy_retry_seconds = 0.1
stream_retry_seconds = 1.0
session_retry_seconds = 10.0
unlimited = 1 << 62


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """The most that one caller may hold.

    Attributes:
        max_requests: requests in work.
        max_streams: open streams.
        max_readers: those among them that read the log, of which there may be 32 in all.
        max_sessions: sessions remembered.
    """

    max_requests: int = unlimited
    max_streams: int = unlimited
    max_readers: int = 16
    max_sessions: int = unlimited


@dataclass(slots=True, eq=False, weakref_slot=True)
class Caller:
    """One caller.

    Attributes:
        sessions: what the names of its sessions must begin with; empty: they may be any.
        num_requests: requests in work.
        num_streams: streams open.
        num_readers: those among them that read the log.
        num_sessions: sessions remembered.
    """

    name: str
    roles: frozenset[Role] = frozenset(Role)
    sessions: tuple[str, ...] = ()
    limits: CallerLimits = field(default_factory=CallerLimits)
    num_requests: int = 0
    num_streams: int = 0
    num_readers: int = 0
    num_sessions: int = 0

    def check_requests(self) -> None:
        """Raise ExhaustedError if no more requests may be in work."""
        if self.num_requests >= self.limits.max_requests:
            message = f"{self.name} has {self.num_requests} requests in work, the limit of one caller"
            raise ExhaustedError(message, reason="CALLER_REQUESTS", retry_delay_seconds=busy_retry_seconds)

    def check_session(self, session: str) -> None:
        """Raise DeniedError if a session is not one of its own."""
        if self.sessions and not session.startswith(self.sessions):
            message = f"session: {self.name} may only act for sessions that begin with {' or '.join(self.sessions)}"
            raise DeniedError(message, reason="NOT_YOUR_SESSION", field="session")

    def check_sessions(self) -> None:
        """Raise ExhaustedError if no more sessions may be remembered."""
        if not self.has_session_room:
            message = f"{self.name} has {self.num_sessions} sessions, the limit of one caller"
            raise ExhaustedError(message, reason="CALLER_SESSIONS", retry_delay_seconds=session_retry_seconds)

    @property
    def has_session_room(self) -> bool:
        """Whether one more session may be remembered."""
        return self.num_sessions < self.limits.max_sessions

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request while it is in work."""
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    @contextmanager
    def stream(self, *, reads_log: bool = False) -> Iterator[None]:
        """Count a stream while it is open; ExhaustedError if there are too many."""
        is_full = self.num_streams >= self.limits.max_streams
        if is_full or (reads_log and self.num_readers >= self.limits.max_readers):
            what = f"{self.num_streams} streams open, {self.num_readers} of them on the log"
            message = f"{self.name} has {what}, the limit of one caller"
            raise ExhaustedError(message, reason="CALLER_STREAMS", retry_delay_seconds=stream_retry_seconds)
        self.num_streams += 1
        self.num_readers += reads_log
        try:
            yield
        finally:
            self.num_streams -= 1
            self.num_readers -= reads_log


nobody = Caller("nobody")
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=nobody)
