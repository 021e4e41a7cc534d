"""What is kept of the statistics of many updates."""

import pytest
import torch

from hyperact.trainer.curves import Curves
from hyperact.trainer.learner import UpdateStatistics
from hyperact.trainer.tracking import MetricPoint


def losses(curves: Curves) -> list[MetricPoint]:
    """Return the points of the loss since the last call."""
    return [point for point in curves.take() if point.name == "loss"]


def add(curves: Curves, first: int, last: int) -> None:
    """Tell of updates whose loss is their number."""
    for number in range(first, last + 1):
        curves.add(number, UpdateStatistics(*[torch.tensor(float(number))] * 4))


class TestCurves:
    def test_a_point_is_the_mean_of_its_stretch(self) -> None:
        """Its place is the last learner step of the stretch."""
        curves = Curves(period=10)

        add(curves, 1, 20)

        assert [MetricPoint("loss", 5.5, 10), MetricPoint("loss", 15.5, 20)] == losses(curves)

    @pytest.mark.parametrize("number", [1, 7])
    def test_a_round_shorter_than_a_stretch_has_a_point_too(self, number: int) -> None:
        """A curve without points tells nobody that something was learned."""
        curves = Curves(period=10)

        add(curves, 1, number)

        assert [MetricPoint("loss", (1 + number) / 2, number)] == losses(curves)
        assert [] == losses(curves)
