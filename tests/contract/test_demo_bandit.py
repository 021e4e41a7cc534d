"""`hyperact demo bandit` and `hyperact play bandit` as a newcomer runs them, on a small data set."""

import csv
import json
from pathlib import Path

import pytest

from hyperact.clients.connection import Connection
from hyperact.clients.demo.bandit import geometric_schedule
from hyperact.v1.steps import to_key
from toy_processes import limit_seconds, running, wait_for_text

num_decisions, num_later = 150, 20


@pytest.mark.timeout(3 * limit_seconds)
def test_a_bandit_is_learned_by_few_deployments_and_played_on(tmp_path: Path) -> None:
    """Table, plot, figures; every decision in the log once, with one reward each but for the lost ones."""
    data_dir, output = tmp_path / "demo", tmp_path / "out"
    flags = ["--data", "iris", "--decisions", str(num_decisions), "--deployments", "2", "--first-deployment", "60"]

    with running(["demo", "bandit", *flags, "--data-dir", str(data_dir), "--max-delay", "9"], output) as process:
        assert process.wait(limit_seconds) == 0, output.read_text()

    rows = list(csv.DictReader((data_dir / "regret.csv").read_text().splitlines()))
    assert [("1", "60"), ("2", "90")] == [(row["deployment"], row["decisions"]) for row in rows]
    # Whoever guesses is right one time in three, of 90 decisions in 30 +- 4.5.
    assert float(rows[-1]["right"]) > 0.55
    assert (data_dir / "regret.png").read_bytes().startswith(b"\x89PNG")
    play_on(data_dir, tmp_path)


def play_on(data_dir: Path, tmp_path: Path) -> None:
    """Serve what the demo left, play some more decisions, and look into the log."""
    served, output, plot = tmp_path / "serve", tmp_path / "play", tmp_path / "play.png"
    arguments = ["serve", "--data-dir", str(data_dir), "--models", "iris", "--metrics-address", ""]
    with running([*arguments, "--address", "127.0.0.1:0"], served) as process:
        wait_for_text(served, "serving", process)
        address = next(word for word in served.read_text().split() if word.startswith("address=127.0.0.1:"))
        address = address.removeprefix("address=")
        flags = ["--data", "iris", "--decisions", str(num_later), "--address", address, "--plot", str(plot)]
        with running(["play", "bandit", *flags], output) as player:
            assert player.wait(limit_seconds) == 0, output.read_text()
        with running(["play", "bandit", "--data", "digits", "--address", address], output) as player:
            assert player.wait(limit_seconds) == 1
        with Connection(address) as connection:
            entries = [entry for part in connection.read_log() for entry in part.entries]
    assert "observes float32 [4], and digits shows float32 [64]" in output.read_text()
    assert plot.exists()
    steps = [to_key(entry.step.step_id) for entry in entries if entry.HasField("step")]
    reported = [to_key(entry.report.step_id) for entry in entries if entry.HasField("report")]
    assert num_decisions + num_later == len(set(steps)) == len(steps)
    assert all(step.number == 0 for step in steps)
    assert set(reported) < set(steps)
    assert len(reported) == len(set(reported))


def test_a_directory_with_a_registry_is_left_alone(tmp_path: Path) -> None:
    """Two streams in one log would not be what the table says."""
    (tmp_path / "mlflow.db").write_bytes(b"")
    output = tmp_path / "out"

    with running(["demo", "bandit", "--data-dir", str(tmp_path)], output) as process:
        assert process.wait(limit_seconds) == 1

    assert "give another --data-dir" in output.read_text()


@pytest.mark.parametrize(("first", "end", "number"), [(50, 10_000, 19), (1, 3, 19), (30, 150, 2)])
def test_a_schedule_is_geometric(first: int, end: int, number: int) -> None:
    """It begins where it is told, ascends, and leaves decisions for its last version."""
    schedule = geometric_schedule(first, end, number)

    assert first == schedule[0]
    assert schedule[-1] < end
    assert json.loads(json.dumps(schedule)) == sorted(set(schedule))
    assert len(schedule) <= number
