"""What a shadow's scores say, beside what was served: read from the two logs, which name the same steps."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hyperact.service.errors import UnavailableError
from hyperact.service.log_reader import LogReader
from hyperact.v1.decision_pb2 import Step
from hyperact.v1.steps import StepKey, to_key


@dataclass
class ShadowRow:
    """The scores of one version.

    Attributes:
        num_found: scored steps that are still in the log of what was served.
        num_agreed: those for which it would have chosen the same action.
        sum_propensity, sum_served_propensity: of the chosen actions, over those.
    """

    version: str
    num_steps: int = 0
    num_found: int = 0
    num_agreed: int = 0
    sum_propensity: float = 0.0
    sum_served_propensity: float = 0.0


async def read_scores(data_dir: Path, model: str) -> list[ShadowRow]:
    """Return one row for each version that scored. Raises UnavailableError if there are no scores."""
    directory = data_dir / "shadow"
    if not directory.is_dir():
        raise UnavailableError(f"there are no scores in {directory}: name the service's directory with --data-dir")
    scores = await _read(directory, model)
    served = await _read(data_dir / "log", model)
    rows: dict[str, ShadowRow] = {}
    for key, score in scores.items():
        row = rows.setdefault(score.version, ShadowRow(score.version))
        row.num_steps += 1
        step = served.get(key)
        if step is not None:
            row.num_found += 1
            row.num_agreed += step.action == score.action
            row.sum_propensity += score.propensity
            row.sum_served_propensity += step.propensity
    return sorted(rows.values(), key=lambda row: int(row.version or 0))


async def _read(directory: Path, model: str) -> dict[StepKey, Step]:
    reader = LogReader(directory)
    try:
        found: dict[StepKey, Step] = {}
        async for response in reader.read(model, {}, is_following=False):
            found |= _without_observations(
                response.entries[place].step
                for place in range(len(response.entries))
                if response.entries[place].HasField("step")
            )
        return found
    finally:
        reader.close()


def _without_observations(steps: Iterable[Step]) -> dict[StepKey, Step]:
    kept = {}
    for step in steps:
        step.ClearField("observation")
        kept[to_key(step.step_id)] = step
    return kept
