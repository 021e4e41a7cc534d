"""Everything that can be set, with its default and unit. Parsed at one edge: nothing below reads the environment."""

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, SecretStr, model_validator
from pydantic_settings import CliPositionalArg

from hyperact.service.access import Role
from hyperact.v1.channels import ConnectionSettings

default_address = "127.0.0.1:50051"


class LogFormat(StrEnum):
    """How log lines look."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class DurabilityLevel(StrEnum):
    """What an acknowledged step has survived."""

    MEMORY = "memory"
    PROCESS = "process"
    DISK = "disk"


class ExecutionProvider(StrEnum):
    """Where models run."""

    CPU = "cpu"
    CUDA = "cuda"


class ServeSettings(BaseModel, extra="forbid"):
    """Settings of `hyperact serve`."""

    data_dir: Path = Field(
        Path("hyperact-data"), description="The directory of the log, the keys and the embedded registry."
    )
    address: str = Field(default_address, description="The address to listen on, HOST:PORT; port 0 takes a free one.")
    allow_remote: bool = Field(
        False,
        description="Whether to listen beyond this machine's loopback without TLS or credentials; metrics have none.",
    )
    tls_certificate_file: Path | None = Field(
        None, description="The server's certificate chain, PEM; read anew when it changes. Unset: no TLS."
    )
    tls_key_file: Path | None = Field(None, description="The certificate's key, PEM, unencrypted.")
    tls_client_ca_file: Path | None = Field(
        None, description="The authorities of callers' certificates, PEM; set: nobody connects without one (mTLS)."
    )
    credentials_file: Path | None = Field(
        None, description="Which tokens and certificates may do what, TOML; read anew when it changes. Unset: all may."
    )
    workers: int = Field(1, ge=1, le=256, description="Worker processes that share the address, best one per core.")
    metrics_address: str = Field(
        "127.0.0.1:9464",
        description="The address of Prometheus metrics over HTTP, HOST:PORT; empty: none. Worker i takes port + i.",
    )
    trace_endpoint: str = Field(
        "",
        description="Where OpenTelemetry traces go by OTLP over gRPC: http://127.0.0.1:4317; empty: nowhere.",
    )
    models: list[str] = Field(
        ["default"], min_length=1, description="The registered models to serve; the first is the default."
    )
    tracking_uri: str = Field("", description="The MLflow registry; empty: the SQLite database in data_dir.")
    alias: str = Field("champion", min_length=1, description="The registry alias whose version serves.")
    poll_seconds: float = Field(1.0, gt=0, description="How often to look at the registry; 20 % of jitter is added.")
    drain_deadline_seconds: float = Field(
        300.0, ge=0, description="How long after a promotion episodes may go on with their old version."
    )
    max_version_bytes: int = Field(1 << 30, gt=0, description="The largest version to download and load.")
    execution_provider: ExecutionProvider = Field(
        ExecutionProvider.CPU, description="Where models run; cuda falls back to the CPU if there is no device."
    )
    inference_threads: int = Field(
        0,
        ge=0,
        le=64,
        description="Threads for model calls; 0 calls small models from the event loop, which is faster.",
    )
    durability: DurabilityLevel = Field(
        DurabilityLevel.DISK,
        description="What an acknowledged step survives. memory: nothing, process: a kill, disk: a power cut.",
    )
    log_min_free_bytes: int = Field(64 << 20, ge=0, description="Free disk space below which no step is accepted.")
    log_max_queued_records: int = Field(16384, gt=0, description="Log records that may wait to be written.")
    log_retention_seconds: float = Field(
        0.0,
        ge=0,
        description="How long log entries are kept; 0: for ever. What a registered reader has not read stays.",
    )
    log_retention_bytes: int = Field(
        0,
        ge=0,
        description="The size of the log beyond which the oldest entries go, as far as they were read; 0: none.",
    )
    log: str = Field(
        "", description="The stream that steps are shipped to, nats://HOST:PORT,HOST:PORT/STREAM; empty: to none."
    )
    nats_replicas: int = Field(
        1, ge=1, le=5, description="How many servers keep each message of a stream that is not there yet and is made."
    )
    nats_user: str = Field("", description="Who the service is to the stream's servers; empty: nobody.")
    nats_password: SecretStr = Field(SecretStr(""), description="That user's password; best by HYPERACT_NATS_PASSWORD.")
    nats_token: SecretStr = Field(
        SecretStr(""), description="Instead of user and password: a token; best by HYPERACT_NATS_TOKEN."
    )
    nats_credentials_file: str = Field("", description="Instead of them: a credentials file (JWT and key).")
    nats_ca_file: str = Field(
        "", description="The certificates to trust, PEM: demands TLS of the stream's servers. Empty: the system's."
    )
    nats_certificate_file: str = Field("", description="The service's certificate for the stream's servers, PEM.")
    nats_key_file: str = Field("", description="That certificate's key, PEM.")
    fallback_num_actions: int = Field(
        0,
        ge=0,
        le=65536,
        description="While there is no version, act uniformly at random among so many; 0: as a request's mask tells.",
    )
    require_version: bool = Field(
        False, description="Whether to decide nothing, and be unready, while there is no version."
    )
    max_batch: int = Field(256, ge=1, le=65536, description="The most rows of one model call and of one message.")
    batch_wait_ms: float = Field(
        1.0, ge=0, le=1000, description="The longest that a batch stays open while requests keep coming."
    )
    max_queued: int = Field(4096, ge=1, description="Requests in work above which new ones are refused for a while.")
    max_wait_ms: float = Field(
        5000.0,
        ge=0,
        description="How long requests may wait for their batch; when they do, new ones are refused. 0: no limit.",
    )
    max_caller_requests: int = Field(
        0, ge=0, description="Requests in work of one caller; 0: with credentials half of max_queued, else no limit."
    )
    max_caller_sessions: int = Field(
        0, ge=0, description="Sessions of one caller; 0: with credentials half of max_sessions, else no limit."
    )
    max_caller_streams: int = Field(
        256, ge=0, description="Open streams of one caller, once callers are told apart (16 on the log); 0: no limit."
    )
    max_calls_per_connection: int = Field(
        1024, ge=1, description="Calls open at a time on one connection; its others wait at the client."
    )
    max_message_bytes: int = Field(64 << 20, ge=1024, description="The largest message, in either direction.")
    session_ttl_seconds: float = Field(3600.0, gt=0, description="How long an idle session is remembered.")
    max_sessions: int = Field(
        100_000, ge=1, description="How many sessions are remembered; the idlest is forgotten first."
    )
    index_key: SecretStr = Field(
        SecretStr(""), description="The key of all randomness, in hex; best by HYPERACT_INDEX_KEY. Over the file."
    )
    token_key: SecretStr = Field(
        SecretStr(""),
        description="The key that signs session tokens, in hex; best by HYPERACT_TOKEN_KEY. Over the file.",
    )
    index_key_file: str = Field(
        "", description="The file of the index key; empty: keys/index.key in data_dir, made once."
    )
    token_key_file: str = Field(
        "", description="The file of the token key; empty: keys/token.key in data_dir, made once."
    )
    shutdown_grace_seconds: float = Field(10.0, ge=0, description="How long requests in work may take after SIGTERM.")
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="How log lines look: console or json.")
    log_level: LogLevel = Field(LogLevel.INFO, description="The least important log lines written.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_tls()
        is_guarded = self.tls_certificate_file is not None and self.credentials_file is not None
        if not is_guarded:
            self._check_reach("address", self.address, "needs TLS and credentials_file, or allow_remote to do without")
        if self.metrics_address:
            self._check_reach("metrics_address", self.metrics_address, "is neither encrypted nor guarded: allow_remote")
        if len(set(self.models)) != len(self.models):
            raise ValueError("models: each may be named once")
        return self

    def _check_tls(self) -> None:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file: give both or none")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_client_ca_file needs tls_certificate_file")
        if self.tls_client_ca_file is not None and self.credentials_file is None:
            raise ValueError("tls_client_ca_file needs credentials_file, which says what a certificate may do")

    def _check_reach(self, name: str, address: str, otherwise: str) -> None:
        host, _ = split_address(address)
        if not self.allow_remote and not is_loopback(host):
            raise ValueError(f"{name} {address} is reachable from elsewhere and {otherwise}")

    @property
    def registry_uri(self) -> str:
        """The registry to use, the default filled in."""
        return fill_registry_uri(self.tracking_uri, self.data_dir)

    @property
    def has_caller_limits(self) -> bool:
        """Whether callers are told apart: by name, or, where only limits are set, by host."""
        return self.credentials_file is not None or bool(self.max_caller_requests or self.max_caller_sessions)

    @property
    def most_caller_requests(self) -> int:
        """The limit of one caller's requests in work, the default filled in; 0: none."""
        return self.max_caller_requests or (self.max_queued // 2 if self.credentials_file else 0)

    @property
    def most_caller_sessions(self) -> int:
        """The limit of one caller's sessions, the default filled in; 0: none."""
        return self.max_caller_sessions or (self.max_sessions // 2 if self.credentials_file else 0)


class HealthSettings(ConnectionSettings, extra="forbid"):
    """Settings of `hyperact health`."""

    address: str = Field(default_address, description="The service's address, HOST:PORT.")
    timeout_seconds: float = Field(5.0, gt=0, description="How long to wait for the answer.")


class TokenSettings(BaseModel, extra="forbid"):
    """Settings of `hyperact token`."""

    name: CliPositionalArg[str] = Field(min_length=1, description="The caller's name.")
    roles: set[Role] = Field({Role.ACT}, description='What it may do, as JSON: ["act", "read-log", "operate"].')


def fill_registry_uri(tracking_uri: str, data_dir: Path) -> str:
    """Return the registry to use: what is set, else the SQLite database in the data directory."""
    return tracking_uri or f"sqlite:///{data_dir.resolve() / 'mlflow.db'}"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT or [IPV6]:PORT; ValueError if it is neither."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, got {address!r}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
