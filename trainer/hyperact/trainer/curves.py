"""Curves of the learner: statistics of many updates in, a few points out."""

from hyperact.trainer.learner import UpdateStatistics
from hyperact.trainer.tracking import MetricPoint

names = UpdateStatistics._fields


class Curves:
    """Averages the statistics of updates over stretches of `period` learner steps."""

    def __init__(self, period: int = 50) -> None:
        self._period = period
        self._stretch: list[UpdateStatistics] = []
        self._num_learner_steps = 0
        self._points: list[MetricPoint] = []

    def add(self, num_learner_steps: int, statistics: UpdateStatistics) -> None:
        """Take in what an update saw; `num_learner_steps` counts it."""
        self._stretch.append(statistics)
        self._num_learner_steps = num_learner_steps
        if num_learner_steps % self._period == 0:
            self._close()

    def take(self) -> list[MetricPoint]:
        """Return the points since the last call; what is left of a stretch gives the last one."""
        if self._stretch:
            self._close()
        points, self._points = self._points, []
        return points

    def _close(self) -> None:
        for name, values in zip(names, zip(*self._stretch, strict=True), strict=True):
            mean = sum(float(value) for value in values) / len(values)
            self._points.append(MetricPoint(name, mean, self._num_learner_steps))
        self._stretch = []
