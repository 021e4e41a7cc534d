"""Which of the log's oldest entries go: by age and by size, and never what a registered reader has not read."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperact.service.errors import UnavailableError
from hyperact.service.log_partition import Partition
from hyperact.service.registered_readers import RegisteredReaders

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What one partition keeps; 0 in both: everything.

    Attributes:
        seconds: entries older than this go.
        num_bytes: the oldest entries go while its database holds more than this.
        period_seconds: how often to look.
    """

    seconds: float = 0.0
    num_bytes: int = 0
    period_seconds: float = 5.0

    def __bool__(self) -> bool:
        """Tell whether anything is ever removed."""
        return bool(self.seconds or self.num_bytes)


class Retention:
    """Removes what is beyond the limits, a little at a time, on the writer's thread.

    Attributes:
        num_removed: entries removed since the start.
    """

    def __init__(self, directory: Path, limits: RetentionLimits, clock: Callable[[], float] = time.time) -> None:
        self._readers = RegisteredReaders(directory)
        self._limits = limits
        self._clock = clock
        self._due = 0.0
        self._is_told = False
        self.num_removed = 0

    def wait_seconds(self) -> float | None:
        """Return how long the writer may rest before the next look; None for ever."""
        return max(0.0, self._due - time.monotonic()) if self._limits else None

    def look(self, partition: Partition) -> None:
        """Remove some entries if it is time to. Raises sqlite3.Error, and then nothing was removed."""
        if not self._limits or time.monotonic() < self._due:
            return
        num_removed = self._remove(partition)
        self.num_removed += num_removed
        # While there is more to remove, go on after the next group of records.
        self._due = time.monotonic() + (0.0 if num_removed else self._limits.period_seconds)

    def _remove(self, partition: Partition) -> int:
        try:
            lowest = self._readers.lowest(partition.id)
        except UnavailableError as error:
            if not self._is_told:
                logger.error("retention removes nothing: %s", error)  # noqa: TRY400 what to mend is in the message
            self._is_told = True
            return 0
        self._is_told = False
        end_offset = 1 << 62 if lowest is None else lowest
        before_ms = int((self._clock() - self._limits.seconds) * 1000) if self._limits.seconds else 0
        return partition.remove_oldest(end_offset, before_ms, self._limits.num_bytes)
