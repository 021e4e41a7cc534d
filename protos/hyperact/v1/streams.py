"""How the step log travels on a stream of NATS JetStream: names, layout, and how a stream is reached.

The rules:

1. One stream carries what any number of replicas logged. Its subjects are STREAM.MODEL.KIND: the stream's name, the
   model's name percent-encoded, and `step`, `evaluation` (a step that is not learned from) or `report`.
2. A message is one LogEntry, with the partition and the offset that it has in its replica's own log.
3. A message is known (header Nats-Msg-Id) by its step's id; a report by its step's id, "/" and its own id. The broker
   drops a second one within its window; after that, readers collapse steps and reports by the same ids. A step that two
   replicas decided differently is there twice, the second time with "@" and its partition behind the id.
4. To a reader the stream is one partition: its id derives from its name and the time at which it was made, and the
   offsets are its sequence numbers. So a LogRange names a stretch of a stream, and another stream of the same name is
   another partition.
"""

import hashlib
import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from hyperact.v1.decision_pb2 import Step
from hyperact.v1.errors import FieldError
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.steps import encode_ids, to_key

default_stream = "hyperact"
default_port = 4222
id_header = "Nats-Msg-Id"
_stream_name = re.compile(r"[0-9A-Za-z_\-]{1,64}")
_server = re.compile(r"(\[[0-9A-Fa-f:]+\]|[0-9A-Za-z_.\-]+)(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class StreamAddress:
    """Where a stream is: URLs of servers of one cluster, each as good as the other, and its name."""

    servers: tuple[str, ...]
    stream: str

    def __str__(self) -> str:
        """Return the text that it was parsed from, its defaults filled in."""
        scheme = self.servers[0].partition("://")[0]
        return f"{scheme}://{','.join(server.partition('://')[2] for server in self.servers)}/{self.stream}"


@dataclass(frozen=True, slots=True)
class StreamAccess:
    """Who we are to the servers, and whom we trust. Empty: not needed. Files are read when a connection is made.

    Attributes:
        user, password: a name and its password.
        token: instead of them.
        credentials_file: instead of them: a file with a JWT and its key, as `nsc` makes it.
        ca_file: the certificates to trust instead of the system's, PEM; encryption is demanded then.
        certificate_file, key_file: our own certificate and its key, PEM, where the servers ask for one.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    credentials_file: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""


def parse_stream_address(text: str) -> StreamAddress:
    """Return what nats://HOST:PORT,HOST:PORT/STREAM (or tls://…) names; FieldError, which shows no password."""
    scheme, separator, rest = text.partition("://")
    if "@" in rest:
        raise FieldError("log", "expected no user and password in the URL: give them by settings of their own")
    hosts, _, stream = rest.partition("/")
    servers = hosts.split(",")
    if not separator or scheme not in ("nats", "tls") or not all(map(_server.fullmatch, servers)):
        raise FieldError("log", f"expected nats://HOST:PORT,HOST:PORT/STREAM, got {text[:200]!r}")
    stream = stream or default_stream
    if not _stream_name.fullmatch(stream):
        raise FieldError("log", f"expected a stream of 1 to 64 letters, digits, - and _, got {stream[:80]!r}")
    return StreamAddress(tuple(f"{scheme}://{_with_port(server)}" for server in servers), stream)


def connect_options(access: StreamAccess) -> dict[str, Any]:
    """Return the keyword arguments of nats.connect that make us known; OSError or ssl.SSLError for a bad file."""
    options: dict[str, Any] = {}
    if access.user:
        options |= {"user": access.user, "password": access.password}
    if access.token:
        options["token"] = access.token
    if access.credentials_file:
        options["user_credentials"] = access.credentials_file
    if access.ca_file or access.certificate_file:
        context = ssl.create_default_context(cafile=access.ca_file or None)
        if access.certificate_file:
            context.load_cert_chain(access.certificate_file, access.key_file or None)
        options["tls"] = context
    return options


def all_subjects(stream: str) -> str:
    """Return what matches everything on a stream."""
    return f"{stream}.>"


def model_subjects(stream: str, model: str) -> str:
    """Return what matches everything of one model."""
    return f"{stream}.{_token(model)}.*"


def training_subject(stream: str, model: str) -> str:
    """Return the subject of one model's steps that may be learned from."""
    return f"{stream}.{_token(model)}.step"


def subject_of(stream: str, entry: LogEntry) -> str:
    """Return the subject of an entry."""
    record = _record(entry)
    kind = "report" if not isinstance(record, Step) else "evaluation" if record.evaluation else "step"
    return f"{stream}.{_token(record.step_id.model)}.{kind}"


def message_id(entry: LogEntry) -> str:
    """Return what an entry is known by on a stream."""
    record = _record(entry)
    name = str(to_key(record.step_id))
    return name if isinstance(record, Step) else f"{name}/{quote(record.report_id, safe='')}"


def second_message_id(entry: LogEntry) -> str:
    """Return what an entry is known by if another replica logged something else under the same id."""
    return f"{message_id(entry)}@{entry.partition}"


def is_same_record(entry: LogEntry, other: LogEntry) -> bool:
    """Tell whether two entries of one id say the same: a reader may learn from either."""
    if not (entry.HasField("step") and other.HasField("step")):
        return entry.HasField("step") == other.HasField("step")
    return (entry.step.version, entry.step.action) == (other.step.version, other.step.action)


def stream_partition(stream: str, created: datetime) -> str:
    """Return the id by which ranges and positions name a stream: 32 hexadecimal digits."""
    made = created.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return hashlib.blake2b(encode_ids(stream, made), digest_size=16, person=b"hyperact.stream").hexdigest()


def _record(entry: LogEntry) -> Any:
    return entry.step if entry.HasField("step") else entry.report


def _token(model: str) -> str:
    """Return a model's name as one token of a subject: what means something in a subject is percent-encoded."""
    return quote(model, safe="").replace(".", "%2E")


def _with_port(server: str) -> str:
    return server if re.search(r":\d+$", server) and not server.endswith("]") else f"{server}:{default_port}"
