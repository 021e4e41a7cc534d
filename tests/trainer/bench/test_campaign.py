"""Campaigns: many runs on some processes, interrupted and taken up again."""

import io
from pathlib import Path

from rich.console import Console

from hyperact.trainer.bench.campaign import play_campaign, unfinished
from hyperact.trainer.bench.results import ResultsFile
from toy_runs import ToyRun, columns


def quiet() -> Console:
    return Console(file=io.StringIO())


class TestCampaign:
    def test_every_run_leaves_its_row(self, tmp_path: Path) -> None:
        """Three runs on two processes of one thread each."""
        results = ResultsFile(tmp_path / "results.csv", columns)

        failed = play_campaign([ToyRun("counts", seed) for seed in range(3)], results, 2, quiet())

        assert [] == failed
        assert [("0", "3", "1"), ("1", "4", "1"), ("2", "5", "1")] == sorted(
            (row["seed"], row["total"], row["threads"]) for row in results.rows()
        )

    def test_a_run_that_fails_or_dies_takes_no_other_with_it(self, tmp_path: Path) -> None:
        """The reason is shown, the row is missing, and the next campaign would try again."""
        results = ResultsFile(tmp_path / "results.csv", columns)
        runs = [ToyRun("fails", 0), ToyRun("dies", 1), ToyRun("counts", 2)]
        console = quiet()

        failed = play_campaign(runs, results, 1, console)

        assert ["fails-0", "dies-1"] == failed
        assert isinstance(console.file, io.StringIO)
        assert "a wrong number" in console.file.getvalue()
        assert runs[:2] == unfinished(runs, results)

    def test_an_interrupted_run_goes_on_from_its_checkpoint(self, tmp_path: Path) -> None:
        """What was reached before the process died is not done twice; at the end nothing is left lying about."""
        results = ResultsFile(tmp_path / "results.csv", columns)
        assert ["stops-4"] == play_campaign([ToyRun("stops", 4)], results, 1, quiet())

        failed = play_campaign([ToyRun("stops", 4)], results, 1, quiet())

        assert [] == failed
        assert ["10"] == [row["total"] for row in results.rows()]
        assert [results.path] == list(tmp_path.iterdir())

    def test_finished_runs_are_not_played_again(self, tmp_path: Path) -> None:
        """A campaign that is called again does what is left."""
        results = ResultsFile(tmp_path / "results.csv", columns)
        results.append({"kind": "counts", "seed": 0, "total": 99, "threads": 1})

        assert [] == unfinished([ToyRun("counts", 0)], results)
        assert [ToyRun("counts", 1)] == unfinished([ToyRun("counts", seed) for seed in range(2)], results)
