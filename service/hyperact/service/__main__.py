"""`python -m hyperact.service`: `hyperact serve` with settings from HYPERACT_* variables alone, for the image.

`--NAME=VALUE` arguments go over the variables.
"""

import sys

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from hyperact.service.commands import serve
from hyperact.service.settings import ServeSettings


class _Settings(BaseSettings, ServeSettings):
    model_config = SettingsConfigDict(
        env_prefix="HYPERACT_",
        extra="forbid",
        cli_kebab_case=True,
        hide_input_in_errors=True,  # keys are among it
    )


def main() -> int:
    """Serve and return the exit code."""
    try:
        settings = CliApp.run(_Settings)
    except ValidationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return serve(ServeSettings.model_validate(settings.model_dump()))


if __name__ == "__main__":
    sys.exit(main())
