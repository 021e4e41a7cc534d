"""The service's two secrets: the key of all randomness and the key that signs tokens.

The rules:

1. A key is given in hex by a setting, or stands in hex in a file, or is made: 32 random bytes, once.
2. Workers that start together on an empty directory end up with one key: the file appears whole, and the first wins.
3. A file of the service's own making is readable by its owner alone. A key is never logged and never in a message.
"""

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hyperact.service.settings import ServeSettings
from hyperact.v1.errors import FieldError
from hyperact.v1.indices import check_key

num_key_bytes = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """The two keys."""

    index: bytes = field(repr=False)
    token: bytes = field(repr=False)


def load_keys(settings: ServeSettings) -> Keys:
    """Return the keys, making those that are missing. ValueError or OSError if one cannot be used; neither shows it."""
    return Keys(
        index=_load(settings, "index"),
        token=_load(settings, "token"),
    )


def load_index_key(index_key: str, index_key_file: str, data_dir: Path) -> bytes:
    """Return the index key for a command that only reads: given in hex, in a file, or in the data directory.

    ValueError or OSError if it cannot be used, and nothing is made; neither shows it.
    """
    if index_key:
        return parse_key(index_key, "index_key")
    path = Path(index_key_file) if index_key_file else key_path(data_dir, "index")
    return parse_key(path.read_bytes(), str(path))


def key_path(data_dir: Path, name: str) -> Path:
    """Return where a key of the service's own making is."""
    return data_dir / "keys" / f"{name}.key"


def load_or_make_key(path: Path, draw: Callable[[int], bytes] = secrets.token_bytes) -> bytes:
    """Return the key in a file; make the file, mode 0600, if it is not there."""
    try:
        return parse_key(path.read_bytes(), str(path))
    except FileNotFoundError:
        _create(path, draw(num_key_bytes).hex() + "\n")
        return parse_key(path.read_bytes(), str(path))


def parse_key(text: str | bytes, source: str) -> bytes:
    """Return the bytes of a key in hex. ValueError names the source and not the content."""
    try:
        key = bytes.fromhex((text if isinstance(text, str) else text.decode("ascii")).strip())
        check_key(key)
    except FieldError as error:
        raise ValueError(f"{source}: {str(error).removeprefix(f'{error.field}: ')}") from None
    except ValueError:
        raise ValueError(f"{source}: expected hexadecimal digits") from None
    return key


def _load(settings: ServeSettings, name: str) -> bytes:
    given = getattr(settings, f"{name}_key").get_secret_value()
    if given:
        return parse_key(given, f"{name}_key")
    file = getattr(settings, f"{name}_key_file")
    if file:
        return parse_key(Path(file).read_bytes(), file)
    return load_or_make_key(key_path(settings.data_dir, name))


def _create(path: Path, content: str) -> None:
    """Make the file appear whole, or leave the one that somebody else made meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
