"""Reads what a module defines from its source text, without running it.

`hyperact --help` and the check of a settings file need one line and the field names of every command, also of those
whose libraries are slow to import or not installed.
"""

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Definition:
    """A top-level function or class, and the module that it stands in."""

    module: str
    node: ast.FunctionDef | ast.ClassDef


@cache
def read_module(module: str) -> ast.Module | None:
    """Return a module's syntax tree; None if there is no such module or it is not Python text."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_text())


def find_definition(module: str, name: str) -> Definition | None:
    """Return the function or class that `name` means at a module's top level, through `from … import`; None if none."""
    tree = read_module(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return Definition(module, node)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return find_definition(node.module, alias.name)
    return None


def first_line(function: Definition) -> str:
    """Return the first line of a docstring; empty if there is none."""
    return (ast.get_docstring(function.node) or "").partition("\n")[0]


def parameter_class(function: Definition) -> Definition | None:
    """Return the class that the first parameter of a function is annotated with; None if it cannot be told."""
    assert isinstance(function.node, ast.FunctionDef)
    parameters = function.node.args.posonlyargs + function.node.args.args
    if not parameters or not isinstance(parameters[0].annotation, ast.Name):
        return None
    return find_definition(function.module, parameters[0].annotation.id)


def field_names(model: Definition) -> list[str]:
    """Return the names of a model's fields, inherited ones first."""
    assert isinstance(model.node, ast.ClassDef)
    names: list[str] = []
    for base in model.node.bases:
        parent = find_definition(model.module, base.id) if isinstance(base, ast.Name) else None
        if (
            parent is not None
            and isinstance(parent.node, ast.ClassDef)
            and parent.module.partition(".")[0] != "pydantic"
        ):
            names += field_names(parent)
    for statement in model.node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and _is_field(statement):
            names.append(statement.target.id)
    return list(dict.fromkeys(names))


def _is_field(statement: ast.AnnAssign) -> bool:
    assert isinstance(statement.target, ast.Name)
    is_private = statement.target.id.startswith("_") or statement.target.id == "model_config"
    return not is_private and not ast.unparse(statement.annotation).startswith("ClassVar")
