"""Where one model's log is read from, whatever holds it: how far it goes, and its entries from one place to another."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from hyperact.v1.log_pb2 import LogEntry

# A partition's id to the offset of its first entry not yet read.
Positions = dict[str, int]
nowhere: Mapping[str, int] = MappingProxyType({})


class LogUnavailableError(Exception):
    """The log cannot be read now, and may be later."""


class LogLostError(Exception):
    """The log no longer holds what was read from it before."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the log goes now.

    Attributes:
        ends: for every partition, the offset after its last entry.
        num_training_steps: training steps that were ever written to these partitions.
        begins: for every partition, the offset of its first entry; retention moves it.
        set_aside: partitions whose databases were damaged: they are not here any more.
    """

    ends: Positions
    num_training_steps: int
    begins: Positions = field(default_factory=dict)
    set_aside: frozenset[str] = frozenset()


class LogSource(ABC):
    """One model's log."""

    @abstractmethod
    def extent(self, positions: Mapping[str, int] = nowhere, num_training_steps: int = 0) -> Extent:
        """Ask how far the log goes. Raises LogUnavailableError.

        Args:
            positions: until where it was read.
            num_training_steps: how many training steps there were up to there, for a log that counts from there on.
        """

    @abstractmethod
    def acknowledge(self, reader: str, positions: Mapping[str, int]) -> None:
        """Have the log keep everything from the positions on for a reader. Raises LogUnavailableError."""

    @abstractmethod
    def _read_partition(self, partition: str, begin: int, end: int, extent: Extent) -> Iterator[Sequence[LogEntry]]:
        """Yield what one partition holds from an offset to before another. Raises LogUnavailableError, LogLostError."""

    def read(
        self,
        begins: Mapping[str, int],
        ends: Mapping[str, int],
        extent: Extent,
        pause: Callable[[LogUnavailableError], None],
    ) -> Iterator[Sequence[LogEntry]]:
        """Yield the entries from `begins` to before `ends`, partition by partition.

        `extent` is how far the log goes at least; `pause` is called when the log is away: it waits, or raises to give
        up. Raises LogLostError.
        """
        for partition in sorted(ends):
            position = begins.get(partition, 0)
            while position < ends[partition]:
                try:
                    for entries in self._read_partition(partition, position, ends[partition], extent):
                        yield entries
                        position = entries[-1].offset + 1
                    position = ends[partition]
                except LogUnavailableError as error:
                    pause(error)
