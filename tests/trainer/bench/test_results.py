"""Results files: rows are written once and whole."""

from pathlib import Path

import pytest

from hyperact.trainer.bench.results import ResultsFile, read_rows

columns = ("size", "episodes", "configuration")


def row(size: int, configuration: str = "{}") -> dict[str, object]:
    return {"size": size, "episodes": 10.5, "configuration": configuration}


class TestResultsFile:
    def test_rows_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        """A configuration with commas, quotes and line ends survives."""
        results = ResultsFile(tmp_path / "deep" / "results.csv", columns)

        results.append(row(10))
        results.append(row(20, '{"a": "b,\nc"}'))

        assert ["10", "20"] == [found["size"] for found in results.rows()]
        assert '{"a": "b,\nc"}' == results.rows()[1]["configuration"]

    def test_a_half_written_line_is_dropped(self, tmp_path: Path) -> None:
        """After a crash in the middle of a row its run counts as unfinished, and the file goes on being good."""
        results = ResultsFile(tmp_path / "results.csv", columns)
        results.append(row(10))
        with results.path.open("a") as file:
            file.write("20,3")

        assert ["10"] == [found["size"] for found in results.rows()]
        results.append(row(30))

        assert ["10", "30"] == [found["size"] for found in results.rows()]

    def test_two_writers_share_a_file(self, tmp_path: Path) -> None:
        """The header stands once."""
        first, second = (ResultsFile(tmp_path / "results.csv", columns) for _ in range(2))

        first.append(row(10))
        second.append(row(20))

        assert 2 == len(first.rows())

    def test_other_columns_are_refused(self, tmp_path: Path) -> None:
        """Rows of another benchmark are not mixed in."""
        ResultsFile(tmp_path / "results.csv", columns).append(row(10))

        with pytest.raises(ValueError, match="expected the columns size, seconds, found size, episodes, configuration"):
            ResultsFile(tmp_path / "results.csv", ("size", "seconds"))

    def test_no_file_has_no_rows(self, tmp_path: Path) -> None:
        """Nothing was run yet."""
        assert [] == read_rows(tmp_path / "results.csv")
