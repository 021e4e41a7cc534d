"""The DeepSea benchmark: runs, their identity, the table and the figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hyperact.trainer.bench.deep_sea import DeepSeaRun, columns, make_runs
from hyperact.trainer.bench.deep_sea_figure import deep_sea_figure
from hyperact.trainer.bench.deep_sea_table import make_table
from hyperact.trainer.bench.results import Row, read_rows
from hyperact.trainer.bench.runs import Mark
from hyperact.trainer.bench.settings import DeepSeaSettings
from hyperact.trainer.bench.subjects import Subject
from hyperact.trainer.bench.summaries import published_means, summarise

quick = json.dumps({"batch_size": 16, "min_replay_size": 50, "network": {"hidden_sizes": [16]}})


def outcome(variant: str = "hyperagent", size: int = 20, seed: int = 0, episodes: float = 300.0) -> Row:
    """Return a row; one of a thousand episodes is unsolved."""
    run = DeepSeaRun(Subject(variant, size, seed), 1000)
    solved = "no" if episodes == 1000 else "yes"
    found = {"variant": variant, "size": size, "seed": seed, "solved": solved, "episodes": episodes}
    rest = {"max_episodes": 1000, "seconds": 12.0, "configuration": run.configuration}
    return {name: str((found | rest).get(name, "")) for name in columns}


class TestDeepSeaRun:
    def test_a_small_sea_is_solved(self, tmp_path: Path) -> None:
        """The row says when, by what and how; marks are told meanwhile."""
        marks: list[Mark] = []

        row = DeepSeaRun(Subject("hyperagent", 4, 0, quick), 2000, "abc").play(tmp_path / "none", marks.append)

        assert set(columns) == set(row)
        assert ("yes", "abc", "0.9900") == (row["solved"], row["commit"], row["last_evaluation"])
        assert float(str(row["episodes"])) == int(str(row["steps"])) / 4
        assert int(str(row["first_success"])) <= float(str(row["episodes"]))
        assert [] != marks

    def test_a_run_ends_at_its_cap(self, tmp_path: Path) -> None:
        """An agent that does not explore finds nothing on a sea of ten in sixty episodes."""
        row = DeepSeaRun(Subject("ddqn_greedy", 10, 0, quick), 60).play(tmp_path / "none", lambda mark: None)

        assert ("no", 600, "") == (row["solved"], row["steps"], row["first_success"])

    def test_a_row_finishes_its_own_run_only(self) -> None:
        """Another seed, other settings or a higher cap for an unsolved run are runs of their own."""
        run = DeepSeaRun(Subject("hyperagent", 20, 0), 1000)

        assert run.is_finished_by(outcome())
        assert run.is_finished_by(outcome(episodes=1000))
        assert not run.is_finished_by(outcome(seed=1))
        assert not DeepSeaRun(Subject("hyperagent", 20, 0, '{"target_update_period": 5}'), 1000).is_finished_by(
            outcome()
        )
        assert not DeepSeaRun(Subject("hyperagent", 20, 0), 2000).is_finished_by(outcome(episodes=1000))
        assert DeepSeaRun(Subject("hyperagent", 20, 0), 2000).is_finished_by(outcome())

    def test_small_seas_come_first(self) -> None:
        """A campaign that is cut short has finished something."""
        runs = make_runs(DeepSeaSettings(sizes=[30, 10], seeds=[0, 1], variants=["hyperagent", "ddqn"]))

        assert [10, 10, 10, 10, 30, 30, 30, 30] == [run.subject.size for run in runs]
        assert ["hyperagent-10-0", "ddqn-10-0", "hyperagent-10-1"] == [run.label for run in runs[:3]]


class TestReport:
    def test_unsolved_runs_count_at_the_cap(self) -> None:
        """As in the papers; the table says that the mean is a bound."""
        rows = [outcome(seed=0, episodes=300), outcome(seed=1, episodes=1000)]

        assert (2, 1, 650.0, 300.0) == (
            (found := summarise(rows)).num_runs,
            found.num_solved,
            found.mean,
            found.least,
        )
        assert ("hyperagent", "20", "1/2", "≥ 650", "300 to 1000", "415", "12") == make_table(rows).cells[0]

    def test_markdown_has_a_line_for_each_variant_and_size(self) -> None:
        """What docs/results.md shows is made by a command."""
        rows = [outcome(size=30), outcome(variant="ddqn", episodes=1000), outcome()]

        lines = make_table(rows).to_markdown().splitlines()

        assert ["hyperagent | 20", "hyperagent | 30", "ddqn | 20"] == [
            line[2:].rpartition(" | ")[0].split(" | ")[0] + " | " + line.split(" | ")[1] for line in lines[2:]
        ]

    def test_published_figures_are_at_hand(self) -> None:
        """They travel with the package."""
        assert 415 == published_means("hyperagent")[20]
        assert 1128 == published_means("hyperagent_ois")[50]
        assert {} == published_means("ddqn")

    def test_the_figure_shows_runs_and_published_curves(self) -> None:
        """A line of ours, a dashed one of theirs, crosses for what was cut off."""
        rows = [
            outcome(seed=seed, size=size, episodes=episodes)
            for seed, size, episodes in ((0, 20, 300), (1, 20, 1000), (0, 30, 800))
        ]

        (axis,) = deep_sea_figure(rows).axes

        assert {"hyperagent", "hyperagent, published"} <= {line.get_label() for line in axis.lines}
        assert 1 == sum(line.get_marker() == "x" for line in axis.lines)


class TestCommand:
    @pytest.fixture
    def command(self, tmp_path: Path) -> list[str]:
        """Return the command for a tiny campaign."""
        hyperact = str(Path(sys.executable).with_name("hyperact"))
        flags = ["--sizes", "4", "--max-episodes", "2000", "--learner", quick]
        return [hyperact, "bench", "deepsea", *flags, "--results", str(tmp_path / "deep.csv")]

    def test_a_campaign_is_played_shown_and_not_played_again(self, command: list[str], tmp_path: Path) -> None:
        """The second call finds everything done and only tells."""
        first = subprocess.run(
            [*command, "--plot", str(tmp_path / "deep.png")], capture_output=True, text=True, check=True
        )
        rows = read_rows(tmp_path / "deep.csv")
        second = subprocess.run([*command, "--markdown"], capture_output=True, text=True, check=True)

        assert "hyperagent" in first.stdout
        assert (tmp_path / "deep.png").exists()
        assert rows == read_rows(tmp_path / "deep.csv")
        assert "| hyperagent | 4 | 1/1 |" in second.stdout
