"""What the steps of a batch leave to chance: functions of each step and the index key. Pure."""

from collections.abc import Sequence

from hyperact.v1.indices import derive_tie_break, derive_uniform_action, is_exploring
from hyperact.v1.steps import StepKey


class Chances:
    """Answers for the row of a batch; what no row needs is not derived."""

    def __init__(self, key: bytes, steps: Sequence[StepKey], epsilon: float) -> None:
        self._key = key
        self._steps = steps
        self._epsilon = epsilon

    def tie_break(self, row: int) -> float:
        """Return the uniform in (0, 1) that chooses among exactly equal actions."""
        return derive_tie_break(self._key, self._steps[row])

    def explore(self, row: int) -> float | None:
        """Return the uniform in (0, 1) that chooses among all allowed actions; None if the best one is taken."""
        step = self._steps[row]
        return derive_uniform_action(self._key, step) if is_exploring(self._key, step, self._epsilon) else None
