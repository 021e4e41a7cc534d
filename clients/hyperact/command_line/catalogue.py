"""The commands that are installed, each brought by a room under the entry point group "hyperact.commands".

A command is a function with exactly one annotated parameter, a pydantic model: its settings. It returns the exit code;
the first line of its docstring is its help.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import get_type_hints

from pydantic import BaseModel

from hyperact.command_line import source

group = "hyperact.commands"


@dataclass(frozen=True)
class Command:
    """One command. Nothing of its room is imported before `load`."""

    entry_point: EntryPoint

    @property
    def name(self) -> str:
        """What is typed after `hyperact`."""
        return self.entry_point.name

    @property
    def extra(self) -> str:
        """The extra of the package that brings what this command imports."""
        parts = self.entry_point.module.split(".")
        return parts[1] if len(parts) > 1 and parts[0] == "hyperact" else parts[0]

    @cached_property
    def help(self) -> str:
        """One line on what it does, read from the source."""
        return source.first_line(self._definition) if self._definition else ""

    @cached_property
    def field_names(self) -> list[str]:
        """The names of its settings, read from the source."""
        settings = source.parameter_class(self._definition) if self._definition else None
        return source.field_names(settings) if settings else []

    def load(self) -> Callable[[BaseModel], int]:
        """Import and return the function. ModuleNotFoundError if a library of its extra is missing."""
        function: Callable[[BaseModel], int] = self.entry_point.load()
        return function

    @cached_property
    def _definition(self) -> source.Definition | None:
        return source.find_definition(self.entry_point.module, self.entry_point.attr)


def list_commands() -> dict[str, Command]:
    """Return the installed commands by name, sorted."""
    found = {entry_point.name: Command(entry_point) for entry_point in entry_points(group=group)}
    return dict(sorted(found.items()))


def settings_class(function: Callable[[BaseModel], int]) -> type[BaseModel]:
    """Return the model that a command's only parameter is annotated with."""
    (parameter,) = inspect.signature(function).parameters
    hint = get_type_hints(function)[parameter]
    assert isinstance(hint, type), f"{function} takes {hint}, not a pydantic model"
    assert issubclass(hint, BaseModel), f"{function} takes {hint}, not a pydantic model"
    return hint
