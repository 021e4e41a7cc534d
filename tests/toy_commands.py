"""Commands for the tests of the command line: what a room brings, in small."""

import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import CliPositionalArg


class CommonToySettings(BaseModel):
    """What both toys have."""

    model_config = ConfigDict(extra="forbid")

    data_dir: Path = Field(Path("hyperact-data"), description="Where everything is kept.")
    seed: int = Field(0, description="The seed.")


class GreetSettings(CommonToySettings):
    """Settings of `greet`."""

    name: CliPositionalArg[str] = Field("world", description="Whom to greet.")
    times: int = Field(1, ge=1, description="How often.")
    loud: bool = Field(False, description="Whether to shout.")
    models: list[str] = Field(["default"], description="Names.")
    extras: dict[str, int | str] = Field({}, description="Anything.")
    key: SecretStr = Field(SecretStr(""), description="Known to nobody.")
    from_: str = Field("", description="From whom.")
    limit_seconds: float | None = Field(None, description="At most so long.")


def greet(settings: GreetSettings) -> int:
    """Greet somebody.

    Exit code 0.
    """
    sys.stdout.write(settings.model_dump_json())
    return 0


class FailSettings(CommonToySettings):
    """Settings of the commands that fail."""

    shards: int = Field(1, description="How many.")


def interrupt(settings: FailSettings) -> int:
    """Behave as if Ctrl-C was pressed."""
    raise KeyboardInterrupt


def need(settings: FailSettings) -> int:
    """Need a library that is not installed."""
    import a_library_that_is_not_installed  # type: ignore[import-not-found]  # noqa: F401

    return 0


def refuse(settings: FailSettings) -> int:
    """Exit with 7."""
    return 7
