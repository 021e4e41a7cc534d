"""The deployment benchmark: batch mode on DeepSea, its table and its figure."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from hyperact.trainer.bench.deployments import DeploymentsRun, columns, make_runs
from hyperact.trainer.bench.deployments_figure import deployments_figure
from hyperact.trainer.bench.deployments_table import make_table
from hyperact.trainer.bench.results import Row
from hyperact.trainer.bench.runs import Mark
from hyperact.trainer.bench.settings import DeploymentsSettings
from hyperact.trainer.bench.subjects import Subject

quick = json.dumps({"batch_size": 16, "network": {"hidden_sizes": [16]}})


def outcome(seed: int = 0, batch: int = 20, deployments: int = 5, variant: str = "hyperagent") -> Row:
    """Return a row; one of ten deployments is unsolved."""
    run = DeploymentsRun(Subject(variant, 10, seed), batch, 10)
    solved = "no" if deployments == 10 else "yes"
    found = {**run.subject.identity(), "episodes_per_deployment": batch, "solved": solved, "deployments": deployments}
    rest = {"max_deployments": 10, "configuration": run.configuration}
    return {name: str((found | rest).get(name, "")) for name in columns}


def heights(axis: Axes, style: str = "-", marker: str = "None") -> list[list[float]]:
    """Return the y values of an axis's lines of a style."""
    lines = [line for line in axis.lines if (line.get_linestyle(), line.get_marker()) == (style, marker)]
    return [np.asarray(line.get_ydata()).tolist() for line in lines]


class TestDeploymentsRun:
    def test_a_small_sea_is_solved_in_a_few_deployments(self, tmp_path: Path) -> None:
        """The row counts versions, and the episodes and learner steps that they took."""
        marks: list[Mark] = []

        row = DeploymentsRun(Subject("hyperagent", 4, 0, quick), 10, 40).play(tmp_path / "none", marks.append)

        needed = int(str(row["deployments"]))
        assert set(columns) == set(row)
        assert ("yes", "0.9900") == (row["solved"], row["last_evaluation"])
        assert (10 * needed, 40 * needed, 160 * needed) == (row["episodes"], row["steps"], row["learner_steps"])
        assert needed == len(marks)

    @pytest.mark.parametrize(("least", "expected"), [(0, 2 * 5), (7, 2 * 7), (3, 2 * 5)])
    def test_small_batches_may_have_more_learner_steps(self, tmp_path: Path, least: int, expected: int) -> None:
        """The greater of a least number and a tenth of 50 new transitions each; a run ends at its cap."""
        changes = json.dumps({**json.loads(quick), "replay_ratio": 0.1})
        run = DeploymentsRun(Subject("ddqn_greedy", 10, 0, changes), 5, 2, min_learner_steps=least)

        row = run.play(tmp_path / "none", lambda mark: None)

        assert ("no", 2, expected) == (row["solved"], row["deployments"], row["learner_steps"])
        assert bool(least) == ("min_learner_steps" in str(row["configuration"]))

    def test_a_row_finishes_its_own_run_only(self) -> None:
        """Another batch, other learner steps or a higher cap for an unsolved run are runs of their own."""
        subject = Subject("hyperagent", 10, 0)

        assert DeploymentsRun(subject, 20, 10).is_finished_by(outcome())
        assert DeploymentsRun(subject, 20, 30).is_finished_by(outcome())
        assert not DeploymentsRun(subject, 50, 10).is_finished_by(outcome())
        assert not DeploymentsRun(subject, 20, 10, min_learner_steps=500).is_finished_by(outcome())
        assert not DeploymentsRun(subject, 20, 30).is_finished_by(outcome(deployments=10))

    def test_small_seas_and_batches_come_first(self) -> None:
        """A campaign that is cut short has finished something."""
        settings = DeploymentsSettings(sizes=[20, 10], episodes_per_deployment=[100, 20], seeds=[3])

        assert ["hyperagent-10-3-by-20", "hyperagent-10-3-by-100", "hyperagent-20-3-by-20"] == [
            run.label for run in make_runs(settings)
        ][:3]


class TestReport:
    def test_unsolved_runs_count_at_the_cap(self) -> None:
        """The table says that the means are bounds then."""
        table = make_table([outcome(0), outcome(1, deployments=10), outcome(0, batch=100, deployments=3)])

        assert [
            ("hyperagent", "10", "20", "1/2", "≥ 7.5", "5 to 10", "≥ 150"),
            ("hyperagent", "10", "100", "1/1", "3.0", "3 to 3", "300"),
        ] == table.cells

    def test_the_figure_has_a_column_a_size_and_a_line_a_variant(self) -> None:
        """Deployments above, episodes below; who is shown is named by the legend."""
        rows = [outcome(), outcome(batch=100, deployments=3), outcome(1, deployments=4, variant="ddqn")]

        figure = deployments_figure(rows)

        above, below = figure.axes
        assert ("deployments to solve", "episodes to solve") == (above.get_ylabel(), below.get_ylabel())
        assert [[5, 3], [4]] == heights(above)
        assert [[100, 300], [80]] == heights(below)
        named = [text.get_text() for text in figure.legends[0].get_texts()]
        assert ["HyperAgent", "Double DQN, ε-greedy", "not all solved"] == named

    def test_means_with_unsolved_runs_are_shown_as_bounds(self) -> None:
        """One of ten deployments is unsolved: the mean of 5 and 10 is a hollow triangle on a dashed line."""
        (above, _) = deployments_figure([outcome(0), outcome(1, deployments=10)]).axes

        assert [[7.5]] == heights(above, style="--")
        assert [[7.5]] == [ys for ys in heights(above, style="None", marker="^") if ys]
