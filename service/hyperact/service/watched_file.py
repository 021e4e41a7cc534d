"""Files that may change while the service runs, read anew when they have."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

ResultT = TypeVar("ResultT")
Stamp = tuple[tuple[int, int, int], ...]
logger = structlog.stdlib.get_logger("hyperact.service")


class WatchedFiles(Generic[ResultT]):
    """What some files say, together. A change that cannot be used is told, once, and the last good content stays.

    Replacing files one after the other is therefore safe: as long as they do not fit together, nothing happens.

    Attributes:
        content: what `read` made of them last.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], ResultT]) -> None:
        """Read them; OSError or ValueError if they cannot be used."""
        self._what = what
        self._paths = tuple(paths)
        self._read = read
        self._stamp = self._look()
        self.content = read()

    def refresh(self) -> bool:
        """Read the files again if they changed; tell whether there is something new in `content`."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self.content = self._read()
        except (OSError, ValueError) as error:
            logger.warning("changed and not usable; the last good one stays", file=self._what, problem=str(error))
            return False
        logger.info("changed and read anew", file=self._what)
        return True

    def _look(self) -> Stamp:
        """Return what changes when a file does. Symbolic links are followed, as orchestrators swap them."""
        return tuple((found.st_mtime_ns, found.st_size, found.st_ino) for found in map(Path.stat, self._paths))
