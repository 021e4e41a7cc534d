"""Settings of `hyperact audit`."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import CliPositionalArg

from hyperact.service.audit import default_tolerance
from hyperact.service.operation_settings import RegistrySettings
from hyperact.v1.channels import ConnectionSettings


class Bound(NamedTuple):
    """Where an audit begins or ends: an offset within each partition, or a Unix time in nanoseconds, or nowhere."""

    offset: int | None = None
    nanoseconds: int | None = None


def parse_bound(text: str) -> Bound:
    """Return what a person typed: digits are an offset, anything else a time; ValueError if it is neither."""
    if not text:
        return Bound()
    if text.isdecimal():
        return Bound(offset=int(text))
    try:
        time = datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError("expected an offset or a time such as 2026-01-31T12:00") from None
    return Bound(nanoseconds=round(time.timestamp() * 1e9))


class AuditSettings(RegistrySettings, ConnectionSettings):
    """Settings of `hyperact audit`."""

    step_id: CliPositionalArg[str] = Field(
        default="", description="The step to explain, model/session/run/episode/number; empty: grade all in the range."
    )
    from_: str = Field(
        default="", description="Where to begin: a time (2026-01-31T12:00, local unless it names a zone) or an offset."
    )
    to: str = Field(default="", description="Where to end, itself excluded: a time or an offset.")
    address: str = Field(
        default="", description="A service to read the log from, HOST:PORT; empty: the log in data_dir."
    )
    index_key: SecretStr = Field(
        default=SecretStr(""), description="The index key in hex; best by HYPERACT_INDEX_KEY. Over the file."
    )
    index_key_file: str = Field(default="", description="The file of the index key; empty: keys/index.key in data_dir.")
    tolerance: float = Field(
        default=default_tolerance,
        ge=0.0,
        lt=1.0,
        description="How far off a coefficient may be by rounding, as a share of the step's largest one.",
    )
    max_version_bytes: int = Field(default=1 << 30, gt=0, description="The largest version to download and load.")
    max_shown: int = Field(default=10, ge=0, description="How many of the worst findings to show.")
    csv: Path | None = Field(
        default=None, description="The table of every step that is not exact; unset: audits/audit.csv in data_dir."
    )
    picture: Path | None = Field(
        default=None, description="The picture of one step; unset: audits/DIGEST.png in data_dir."
    )

    @field_validator("from_", "to")
    @classmethod
    def _check_bound(cls, text: str) -> str:
        parse_bound(text)
        return text
