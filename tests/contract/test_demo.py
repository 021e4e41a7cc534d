"""`hyperact demo` and `hyperact play` as a newcomer runs them: processes, signals, files."""

import csv
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from hyperact.clients.connection import Connection
from hyperact.clients.episode_log import EpisodeLog
from hyperact.clients.results import by_deployment
from hyperact.v1.steps import to_key
from toy_processes import limit_seconds, running, wait_for_text

# Small enough to be solved in a few deployments.
flags = ["--size", "5", "--sessions", "8", "--seed", "1"]


def processes_of(data_dir: Path) -> dict[str, int]:
    """Return the process ids of a demo's service and trainer, by command."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0") if entry.name.isdecimal() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "hyperact.clients.child" in words and str(data_dir) in words:
            found[words[words.index("hyperact.clients.child") + 1]] = int(entry.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.timeout(limit_seconds + 120)
def test_the_demo_survives_kills_stops_cleanly_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL of the service, Ctrl-C, and the same command again: solved, with every step in the log once."""
    data_dir, output = (tmp_path / "demo").resolve(), tmp_path / "out"
    command = ["demo", "--data-dir", str(data_dir), *flags]

    with running([*command, "--step-seconds", "0.05"], output) as process:
        wait_for_text(output, "deployment 1 (version 1)", process)
        os.kill(processes_of(data_dir)["serve"], signal.SIGKILL)
        wait_for_text(output, "serve was killed by signal 9; started it again", process)
        process.send_signal(signal.SIGINT)
        assert process.wait(limit_seconds) == 130, output.read_text()
    assert "run the same command again to go on" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert processes_of(data_dir) == {}

    with running(command, output) as process:
        assert process.wait(limit_seconds) == 0, output.read_text()
    assert processes_of(data_dir) == {}
    text = output.read_text()
    assert "all 100 evaluation episodes optimal" in text
    assert f"mlflow ui --backend-store-uri sqlite:///{data_dir}/mlflow.db" in text
    assert (data_dir / "returns.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((data_dir / "results.csv").read_text().splitlines()))
    assert [str(number) for number in range(len(rows))] == [row["deployment"] for row in rows]
    assert rows[-1]["optimal_share"] == "1.0"
    check_log(data_dir, tmp_path, int(rows[-1]["deployment"]))


def check_log(data_dir: Path, tmp_path: Path, last_deployment: int) -> None:
    """Serve the demo's log once more and look into it."""
    output = tmp_path / "serve"
    arguments = ["serve", "--data-dir", str(data_dir), "--models", "deepsea-5", "--metrics-address", ""]
    with running([*arguments, "--address", "127.0.0.1:0"], output) as process:
        wait_for_text(output, "serving", process)
        bound = next(word for word in output.read_text().split() if word.startswith("address=127.0.0.1:"))
        with Connection(bound.removeprefix("address=")) as connection:
            play_an_episode(bound.removeprefix("address="), tmp_path)
            entries = [entry for part in connection.read_log() for entry in part.entries]
            log = EpisodeLog(connection, "deepsea-5")
            log.refresh()
            results = by_deployment(log.episodes)
    steps = Counter(to_key(entry.step.step_id) for entry in entries if entry.HasField("step"))
    assert {1} == set(steps.values())
    assert [*range(last_deployment + 1)] == [result.deployment for result in results]
    assert all(result.num_episodes >= 20 for result in results[:-1])


def play_an_episode(address: str, tmp_path: Path) -> None:
    """Play two episodes by the solving version, with a video and a plot."""
    plot, output = tmp_path / "play.png", tmp_path / "play"
    arguments = ["play", "deepsea", "--size", "5", "--mapping-seed", "1", "--address", address, "--evaluation"]
    where = ["--plot", str(plot), "--record", str(tmp_path / "videos")]
    with running([*arguments, *where, "--episodes", "2", "--session", "guest"], output) as process:
        assert process.wait(limit_seconds) == 0, output.read_text()
    assert "0.99" in output.read_text()
    assert plot.exists()
    assert ["guest-episode-0.mp4", "guest-episode-1.mp4"] == sorted(
        file.name for file in (tmp_path / "videos").glob("*.mp4")
    )


def test_nobody_to_play_with_is_said_in_a_line(tmp_path: Path) -> None:
    """Where we looked, and what to start."""
    output = tmp_path / "out"

    with running(["play", "deepsea", "--address", "127.0.0.1:1", "--timeout-seconds", "0.3"], output) as process:
        assert process.wait(limit_seconds) == 1

    text = output.read_text()
    assert text.count("\n") == 1
    assert "no service answered at 127.0.0.1:1 within 0.3 s; is `hyperact serve` running" in text


def test_a_directory_of_another_demo_is_left_alone(tmp_path: Path) -> None:
    """Two seas in one log would teach nonsense."""
    (tmp_path / "demo.json").write_text('{"size": 10, "seed": 0}')
    output = tmp_path / "out"

    with running(["demo", "--data-dir", str(tmp_path), "--seed", "2"], output) as process:
        assert process.wait(limit_seconds) == 1

    assert "give another --data-dir" in output.read_text()
