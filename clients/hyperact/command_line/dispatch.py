"""Which command, with which settings, and what becomes of its failures.

Exit codes: the command's own; 2 for a wrong command, flag or setting; 3 for a missing extra.
"""

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from textwrap import TextWrapper

from hyperact.command_line import catalogue
from hyperact.command_line.settings import SettingsError, load_settings, nearest
from hyperact.command_line.toml import to_toml
from hyperact.v1.errors import ConnectionSettingsError

wrong_usage, missing_extra = 2, 3


def dispatch(arguments: list[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    commands = catalogue.list_commands()
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview(commands))
        return 0 if given else wrong_usage
    if given[0] in ("-V", "--version"):
        print(f"hyperact {version('hyperact')}")
        return 0
    name = command_name(given, commands)
    if name not in commands:
        return fail(no_command(name, commands), wrong_usage)
    rest = given[len(name.split()) :]
    return run(commands[name], rest, os.environ if environment is None else environment, commands)


def command_name(given: list[str], commands: Mapping[str, catalogue.Command]) -> str:
    """Return the command that the arguments begin with; one of two words goes before one of one."""
    two_words = " ".join(given[:2])
    return two_words if two_words in commands else given[0]


def no_command(name: str, commands: Mapping[str, catalogue.Command]) -> str:
    """Return what to say to a command that there is not, or to the first word alone of commands that have two."""
    second_words = [command.split()[1] for command in commands if command.startswith(f"{name} ")]
    if second_words:
        return f"hyperact {name}: say which, {' or '.join(second_words)}"
    return f"hyperact: no command {name!r}{nearest(name, commands)}; `hyperact --help` lists them"


def run(
    command: catalogue.Command,
    arguments: list[str],
    environment: Mapping[str, str],
    commands: Mapping[str, catalogue.Command],
) -> int:
    """Load a command, read its settings, call it; turn what cannot go on into one line and an exit code."""
    label = f"hyperact {command.name}"
    try:
        function = command.load()
        known = {other.name: other.field_names for other in commands.values()}
        settings_class = catalogue.settings_class(function)
        loaded = load_settings(settings_class, command.name, arguments, environment, known, command.help)
        if loaded.print_config:
            print(to_toml(command.name, loaded.settings), end="")
            return 0
        return function(loaded.settings)
    except (SettingsError, ConnectionSettingsError) as error:
        return fail(f"{label}: {error}", wrong_usage)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "hyperact"):
            raise
        return fail(f"{label} needs {library}: pip install 'hyperact[{command.extra}]'", missing_extra)


def fail(line: str, code: int) -> int:
    """Print one line on standard error and return the exit code."""
    print(line, file=sys.stderr)
    return code


def overview(commands: Mapping[str, catalogue.Command]) -> str:
    """Return the help that lists every command."""
    width = max(map(len, commands), default=0)
    wrapper = TextWrapper(width=100, subsequent_indent=" " * (width + 4))
    lines = [wrapper.fill(f"  {name:{width}}  {command.help}") for name, command in commands.items()]
    return "\n".join(
        [
            "usage: hyperact COMMAND [--flags]",
            "",
            "A decision service for online agents: act, log, retrain, promote.",
            "",
            *lines,
            "",
            "hyperact COMMAND --help tells a command's flags. Settings: flags over HYPERACT_* over hyperact.toml.",
        ]
    )
