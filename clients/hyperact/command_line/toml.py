"""Settings as TOML text that reads back as the same settings."""

import json
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr


def to_toml(command: str, settings: BaseModel) -> str:
    """Return a table [command] with one line per field.

    Unset fields stand as comments, for TOML has no null, and so do secrets, which nobody should read off a screen.
    """
    values = settings.model_dump(mode="json")
    return "\n".join([f"[{command}]", *(_line(settings, key, value) for key, value in values.items())]) + "\n"


def _line(settings: BaseModel, key: str, value: Any) -> str:
    if isinstance(getattr(settings, key), SecretStr | SecretBytes):
        return f"# {key} is secret and not shown"
    return f"# {key} is not set" if value is None else f"{key} = {to_value(value)}"


def to_value(value: Any) -> str:
    """Return a JSON-like value as TOML."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {to_value(inner)}" for key, inner in value.items() if inner is not None)
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(to_value(inner) for inner in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # A JSON string, integer or boolean is a TOML one, if what lies outside ASCII is left as it is (TOML has no
    # surrogate pairs) and DEL, which TOML wants escaped, is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
