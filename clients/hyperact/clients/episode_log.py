"""The episodes in a service's log, read as they come."""

from hyperact.clients.connection import Connection
from hyperact.v1.log_pb2 import LogPosition
from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.transitions import EpisodeSummary, TransitionAssembler


class EpisodeLog:
    """Every episode of one episodic model that has ended, in the order of their ends.

    Attributes:
        episodes: training and evaluation episodes, with the deployment that decided each.
    """

    def __init__(self, connection: Connection, model: str) -> None:
        self.episodes: list[EpisodeSummary] = []
        self._connection = connection
        self._model = model
        self._positions: list[LogPosition] = []
        # How episodes end is all that counts here; what is observed does not.
        self._assembler = TransitionAssembler(ModelSpec(agent_kind=AgentKind.AGENT_KIND_EPISODIC))

    def refresh(self) -> None:
        """Read what was logged since the last time; ClientError."""
        for part in self._connection.read_log(self._model, self._positions):
            self.episodes += self._assembler.push(part.entries).episodes
            self._positions = list(part.next_positions)

    def count(self, deployment: int, *, is_evaluation: bool = False) -> int:
        """Return how many episodes a deployment decided."""
        return sum(
            episode.deployment == deployment and episode.is_evaluation == is_evaluation for episode in self.episodes
        )
