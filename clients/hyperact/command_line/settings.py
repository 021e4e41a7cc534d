"""Settings of one command: flags over HYPERACT_* over a TOML file over the defaults.

The file is `--config FILE`, else HYPERACT_CONFIG, else hyperact.toml in the current directory if there is one. Its
top-level keys apply to every command that has them, its table [serve] only to `hyperact serve`, before the top level.
A key that no command knows, a table that is no command, and a variable HYPERACT_<KEY> that no command knows are errors.
A field that would be a word of Python ends in an underscore, and its flag does not: `from_` is --from.
"""

import difflib
import tomllib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic_settings
from pydantic import BaseModel, Field, SecretBytes, SecretStr, ValidationError, create_model
from pydantic_settings import BaseSettings, CliSettingsSource, EnvSettingsSource, SettingsConfigDict

env_prefix = "HYPERACT_"
config_variable = "HYPERACT_CONFIG"
default_config_file = Path("hyperact.toml")
Values = dict[str, Any]


class SettingsError(ValueError):
    """Settings that cannot be used, said in one line."""


class CommonFlags(BaseModel):
    """Flags that every command has."""

    config: Path | None = Field(
        None, description="The TOML file to read settings from, default hyperact.toml if there is one."
    )
    print_config: bool = Field(False, description="Print the settings as TOML and exit.")


common_names = frozenset(CommonFlags.model_fields)


@dataclass(frozen=True)
class Loaded:
    """A command's settings and whether they are only to be printed."""

    settings: BaseModel
    print_config: bool


@dataclass(frozen=True)
class Layers:
    """Values by where they came from; `origin` names a value's place for a message."""

    flags: Values
    variables: Values
    file: Values
    file_name: str = ""
    merged: Values = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "merged", {**self.file, **self.variables, **self.flags})

    def origin(self, key: str) -> str:
        """Return what a person typed to set a key."""
        if key in self.flags:
            return flag(key)
        if key in self.variables:
            return variable(key)
        return f"{key} in {self.file_name}" if key in self.file else flag(key)


def flag(key: str) -> str:
    """Return a field's flag."""
    return "--" + key.rstrip("_").replace("_", "-")


def variable(key: str) -> str:
    """Return a field's environment variable."""
    return env_prefix + key.upper()


def nearest(key: str, known: Iterable[str]) -> str:
    """Return ", did you mean X?" for the known key most like `key`; empty if none is like it."""
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]}?" if matches else ""


def load_settings(
    settings_class: type[BaseModel],
    command: str,
    arguments: list[str],
    environment: Mapping[str, str],
    known: Mapping[str, Iterable[str]],
    description: str = "",
) -> Loaded:
    """Return a command's settings.

    Args:
        known: the field names of every command by the command's name.
        description: what `--help` says first; empty: the class's docstring.

    Raises:
        SettingsError: a key is unknown or a value does not fit.
        SystemExit: `--help` was asked for and printed.
    """
    known = {**known, command: settings_class.model_fields}
    flags = read_flags(settings_class, command, arguments, description)
    check_variables(environment, known)
    variables = read_variables(settings_class)
    path = config_path(flags.get("config"), environment)
    file = read_file(path, command, settings_class, known) if path else {}
    print_config = bool(flags.get("print_config", False) not in (False, "False", "false"))
    secrets = {
        name for name, info in settings_class.model_fields.items() if info.annotation in (SecretStr, SecretBytes)
    }
    layers = Layers({k: v for k, v in flags.items() if k not in common_names}, variables, file, str(path or ""))
    try:
        return Loaded(settings_class.model_validate(layers.merged), print_config)
    except ValidationError as error:
        raise SettingsError("; ".join(describe(detail, layers, secrets) for detail in error.errors())) from None


def read_flags(settings_class: type[BaseModel], command: str, arguments: list[str], description: str = "") -> Values:
    """Return the values of the flags that were given."""
    layered = layered_class(settings_class, command, description)
    try:
        return CliSettingsSource[Any](layered, cli_parse_args=arguments)()
    except pydantic_settings.SettingsError as error:
        raise SettingsError(describe_flags(str(error), settings_class)) from error


def read_variables(settings_class: type[BaseModel]) -> Values:
    """Return the values of the process's HYPERACT_* variables that the command has."""
    layered = layered_class(settings_class, "")
    try:
        values = EnvSettingsSource(layered, env_prefix=env_prefix)()
    except pydantic_settings.SettingsError as error:
        raise SettingsError(f"{error}: {error.__cause__}; lists and tables are given as JSON") from error
    return {key: value for key, value in values.items() if key not in common_names}


def layered_class(settings_class: type[BaseModel], command: str, description: str = "") -> type[BaseSettings]:
    """Return the settings as pydantic-settings wants them, with the flags that every command has."""
    common: Any = {name: (info.annotation, info) for name, info in CommonFlags.model_fields.items()}
    shortcuts = {name.replace("_", "-"): name.rstrip("_") for name in settings_class.model_fields if name.endswith("_")}
    extended = create_model(settings_class.__name__, __base__=settings_class, **common)

    class Layered(BaseSettings, extended):  # type: ignore[misc, valid-type]
        __doc__ = description or settings_class.__doc__
        model_config = SettingsConfigDict(
            cli_prog_name=f"hyperact {command}",
            cli_avoid_json=True,
            cli_exit_on_error=False,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
            cli_kebab_case=True,
            cli_shortcuts=shortcuts,
            case_sensitive=False,
        )

    return Layered


def config_path(given: Any, environment: Mapping[str, str]) -> Path | None:
    """Return the file to read, None if there is none; SettingsError if the one that was named is not there."""
    named = given or environment.get(config_variable)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"{'--config' if given else config_variable}: there is no file {named}")
        return Path(named)
    return default_config_file if default_config_file.is_file() else None


def read_file(path: Path, command: str, settings_class: type[BaseModel], known: Mapping[str, Iterable[str]]) -> Values:
    """Return what a TOML file says to a command, after checking every key in it."""
    try:
        content = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path}: {error}") from error
    tables = {key: value for key, value in content.items() if key in known and isinstance(value, dict)}
    top = {key: value for key, value in content.items() if key not in tables}
    everything = sorted({name for names in known.values() for name in names})
    for key in top:
        if key not in everything:
            raise SettingsError(f"{path}: no command knows {key!r}{nearest(key, [*everything, *known])}")
    for table, values in tables.items():
        for key in values:
            if key not in known[table]:
                raise SettingsError(f"{path}: [{table}] has no {key!r}{nearest(key, known[table])}")
    return {key: value for key, value in (top | tables.get(command, {})).items() if key in settings_class.model_fields}


def check_variables(environment: Mapping[str, str], known: Mapping[str, Iterable[str]]) -> None:
    """Raise SettingsError if a HYPERACT_* variable is known to no command."""
    names = {variable(name) for fields in known.values() for name in fields} | {config_variable}
    for name in environment:
        if name.startswith(env_prefix) and name not in names:
            raise SettingsError(f"the environment sets {name}, which no command knows{nearest(name, names)}")


def describe_flags(message: str, settings_class: type[BaseModel]) -> str:
    """Return what is wrong with the flags, naming the nearest known one for each that is unknown."""
    plain = message.removeprefix("error parsing CLI: ")
    if plain.startswith("Parsing error encountered for "):
        name = plain.removeprefix("Parsing error encountered for ").partition(":")[0]
        return f'{flag(name)}: expected JSON, such as {{"size": 10}}'
    unknown = plain.removeprefix("unrecognized arguments: ")
    if unknown == plain:
        return plain
    flags = [flag(name) for name in (*settings_class.model_fields, *common_names)]
    name = unknown.split()[0].split("=")[0]
    return f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{nearest(name, flags)}"


def describe(detail: Any, layers: Layers, secrets: Container[str] = ()) -> str:
    """Return one line for one complaint of pydantic; the values of secrets are not in it."""
    key = str(detail["loc"][0]) if detail["loc"] else ""
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{flag(key)} is required"
    if not key:
        return str(message)
    place = ".".join([layers.origin(key), *map(str, detail["loc"][1:])])
    complaint = f"{place}: {message[:1].lower()}{message[1:]}"
    return complaint if key in secrets else f"{complaint}, got {detail['input']!r}"
