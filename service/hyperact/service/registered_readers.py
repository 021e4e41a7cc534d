"""Readers that are registered with the log: until where each has read, so that retention takes nothing before it.

One small file a reader under `readers/` beside the databases, replaced in one rename: every worker may write it and all
read it. A file that cannot be read keeps everything: it may be the one that matters.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from hyperact.service.errors import ExhaustedError, InvalidRequestError, UnavailableError

max_readers = 64
max_name_length = 64


class RegisteredReader(NamedTuple):
    """One reader: its positions (partition id to the first offset it may still read) and when it told them."""

    name: str
    positions: dict[str, int]
    time_seconds: float


class RegisteredReaders:
    """The readers registered with the log in a directory. Everything here blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "readers"

    def register(self, name: str, positions: Mapping[str, int], now_seconds: float) -> None:
        """Note where a reader stands, durably; a partition without a position is kept whole.

        Raises:
            InvalidRequestError: not a name.
            ExhaustedError: there are too many readers.
            UnavailableError: it cannot be written.
        """
        path = self._path(name)
        try:
            self._directory.mkdir(exist_ok=True)
            if not path.exists() and len(list(self._directory.glob("*.json"))) >= max_readers:
                raise ExhaustedError(f"{max_readers} readers are registered, as many as are allowed; forget one")
            partial = path.with_suffix(f".{os.getpid()}.partial")
            content = {"name": name, "positions": dict(positions), "time_seconds": now_seconds}
            with partial.open("w") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise UnavailableError(f"reader {name!r} cannot be noted: {error}", reason="LOG_NOT_WRITABLE") from error

    def forget(self, name: str) -> bool:
        """Keep nothing for a reader any more; tell whether it was registered. Raises as `register`."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UnavailableError(f"reader {name!r} cannot be removed: {error}", reason="LOG_NOT_WRITABLE") from error
        return True

    def list(self) -> list[RegisteredReader]:
        """Return all readers by name. Raises UnavailableError if one cannot be read."""
        found = []
        for path in sorted(self._directory.glob("*.json")):
            try:
                content = json.loads(path.read_text())
                positions = {str(partition): int(offset) for partition, offset in content["positions"].items()}
                found.append(RegisteredReader(str(content["name"]), positions, float(content["time_seconds"])))
            except FileNotFoundError:
                continue  # forgotten meanwhile
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UnavailableError(f"{path} cannot be read ({error!r}): is it damaged?") from error
        return found

    def lowest(self, partition: str) -> int | None:
        """Return the first offset that a reader may still read in a partition; None if no reader is registered."""
        return min((reader.positions.get(partition, 0) for reader in self.list()), default=None)

    def _path(self, name: str) -> Path:
        if not 1 <= len(name) <= max_name_length or not name.isprintable():
            message = f"reader: expected 1 to {max_name_length} printable characters, got {name[:80]!r}"
            raise InvalidRequestError(message, reason="BAD_NAME", field="reader")
        return self._directory / f"{quote(name, safe='')}.json"
