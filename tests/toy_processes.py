"""Commands of `hyperact` as processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

limit_seconds = 240.0


@contextmanager
def running(arguments: list[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of `hyperact` as a process, its output in a file."""
    environment = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hyperact.command_line", *arguments]
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def wait_for_text(file: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    """Return once a file holds a text."""
    deadline = time.monotonic() + limit_seconds
    while not file.exists() or text not in file.read_text():
        assert process.poll() is None, file.read_text()
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.05)
