"""`hyperact serve` as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Served:
    """A running `serve`: its process and the lines that it logged so far."""

    process: "subprocess.Popen[str]"
    lines: list[dict[str, Any]]
    address: str = ""

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the next line that tells of an event."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line = json.loads(text) if text.startswith("{") else {"event": text}
            self.lines.append(line)
            if line["event"] == event:
                return line
        raise AssertionError(f"ended without {event!r}: {self.lines}")

    def end(self) -> int:
        """Read what is left and return the exit code."""
        assert self.process.stderr is not None
        self.lines += [json.loads(text) for text in self.process.stderr if text.startswith("{")]
        return self.process.wait(30)


@contextmanager
def serve(data_dir: Path, *arguments: str) -> Iterator[Served]:
    """Run `python -m hyperact.service` on a data directory until the block ends."""
    command = [
        *(sys.executable, "-m", "hyperact.service", "--data-dir", str(data_dir), "--address", "127.0.0.1:0"),
        *("--metrics-address", "", "--log-format", "json", *arguments),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        yield Served(process, [])
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
