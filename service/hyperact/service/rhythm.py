"""When an index and a version may change: the agent kinds of the contract as three questions about a step."""

from dataclasses import dataclass

from hyperact.v1.indices import is_segment_start
from hyperact.v1.model_pb2 import AgentKind, IndexSchedule, ModelSpec
from hyperact.v1.steps import StepKey

# Looked up once: a protobuf enum's name costs more than the rest of a question.
_every_step = IndexSchedule.INDEX_SCHEDULE_STEP
_geometric = IndexSchedule.INDEX_SCHEDULE_GEOMETRIC
_per_episode = IndexSchedule.INDEX_SCHEDULE_EPISODE


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How the steps of one model group.

    | kind       | the version may change at | a new index is drawn at                                  |
    |------------|---------------------------|----------------------------------------------------------|
    | episodic   | number 0                  | number 0; by schedule also at segment starts, every step |
    | continuing | segment starts            | segment starts; by schedule every step                   |
    | one-shot   | every step                | every step                                               |
    """

    key: bytes
    discount: float = 0.0
    is_one_shot: bool = False
    is_continuing: bool = False
    schedule: "IndexSchedule.ValueType" = _per_episode

    def is_pin_start(self, step: StepKey) -> bool:
        """Tell whether the step may be decided by another version than the one before."""
        return step.number == 0 or (self.is_continuing and is_segment_start(self.key, step, self.discount))

    def is_index_start(self, step: StepKey) -> bool:
        """Tell whether a new index is drawn at the step."""
        if step.number == 0 or self.schedule == _every_step:
            return True
        is_geometric = self.is_continuing or self.schedule == _geometric
        return is_geometric and is_segment_start(self.key, step, self.discount)

    def segment_of(self, step: StepKey, segment_before: int | None) -> int:
        """Return the number of the step at which the step's index was drawn.

        `segment_before` is the segment of the step before; None if it is not known: then it is derived anew, which
        takes 1 / (1 - discount) hashes in the mean.
        """
        if self.is_index_start(step):
            return step.number
        if segment_before is not None:
            return segment_before
        if not self.is_continuing and self.schedule == _per_episode:
            return 0
        earlier = (
            number for number in range(step.number - 1, 0, -1) if self.is_index_start(step._replace(number=number))
        )
        return next(earlier, 0)


def make_rhythm(key: bytes, spec: ModelSpec) -> Rhythm:
    """Return the rhythm that a spec describes."""
    return Rhythm(
        key=key,
        discount=spec.discount,
        is_one_shot=spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT,
        is_continuing=spec.agent_kind == AgentKind.AGENT_KIND_CONTINUING,
        schedule=spec.index_schedule,
    )
