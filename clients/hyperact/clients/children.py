"""Child processes that are kept running, and stopped for certain.

A thread of its own starts, watches and stops them: signals reach only the main thread, so a Ctrl-C there never falls
between a start and its record. Children are in sessions of their own, so a terminal's Ctrl-C reaches only us.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

watch_seconds = 0.1
tail_bytes = 4096
time_stamp = re.compile(r"^\S+T\S+Z ")


@dataclass
class Child:
    """One program: how it is started, where its output goes, how often it was started again."""

    name: str
    arguments: Sequence[str]
    log_file: Path
    process: subprocess.Popen[bytes] | None = None
    num_restarts: int = 0
    problem: str = field(default="")

    def last_line(self) -> str:
        """Return the last line of its output without its time; empty if there is none."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(max(self.log_file.stat().st_size - tail_bytes, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return time_stamp.sub("", last)


class Children:
    """Programs that run as long as the context is open.

    A child that dies is started again, at most `max_restarts` times; after that `check` raises.

    Args:
        environment: variables to set in the children.
        notify: is told, in a line, when a child died and was started again. Called by the watching thread.
        stop_seconds: how long children may take to end before they are killed.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        max_restarts: int = 5,
        stop_seconds: float = 15.0,
        notify: Callable[[str], None] = lambda line: None,  # noqa: ARG005 -- nobody listens
    ) -> None:
        self._environment = {**os.environ, **environment}
        self._max_restarts = max_restarts
        self._stop_seconds = stop_seconds
        self._notify = notify
        self._children: list[Child] = []
        self._wanted: list[Child] = []
        self._is_stopping = Event()
        self._is_in_haste = Event()
        self._thread = Thread(target=self._watch, name="children", daemon=True)

    def start(self, name: str, command: Sequence[str], log_file: Path) -> Child:
        """Start `hyperact COMMAND…` soon and keep it running; its output is appended to a file."""
        return self.start_program(name, [sys.executable, "-m", "hyperact.clients.child", *command], log_file)

    def start_program(self, name: str, arguments: Sequence[str], log_file: Path) -> Child:
        """As `start`, for any program."""
        child = Child(name, arguments, log_file)
        self._wanted.append(child)
        return child

    def check(self) -> None:
        """Raise ChildError if a child died too often."""
        for child in self._children:
            if child.problem:
                raise ChildError(child.problem)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all children: ask, wait, then kill. A Ctrl-C while it waits kills at once."""
        self._is_stopping.set()
        while self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt:
                self._is_in_haste.set()

    def _watch(self) -> None:
        try:
            while not self._is_stopping.is_set():
                while self._wanted:
                    child = self._wanted.pop(0)
                    self._children.append(child)
                    self._launch(child)
                for child in self._children:
                    self._revive(child)
                self._is_stopping.wait(watch_seconds)
        finally:
            self._stop_all()

    def _launch(self, child: Child) -> None:
        child.log_file.parent.mkdir(parents=True, exist_ok=True)
        with child.log_file.open("ab") as output:
            child.process = subprocess.Popen(
                child.arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def _revive(self, child: Child) -> None:
        if child.process is None or child.process.poll() is None or child.problem:
            return
        what = describe_exit(child.process.returncode)
        if child.num_restarts >= self._max_restarts:
            child.problem = (
                f"{child.name} {what} and was started again {child.num_restarts} times; "
                f"its last words in {child.log_file}: {child.last_line()}"
            )
            return
        child.num_restarts += 1
        self._launch(child)
        self._notify(f"{child.name} {what}; started it again ({child.num_restarts} of {self._max_restarts})")

    def _stop_all(self) -> None:
        # The last one started first: it depends on those before it.
        for child in reversed(self._children):
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + self._stop_seconds
        for child in self._children:
            while child.process is not None and child.process.poll() is None:
                if time.monotonic() > deadline or self._is_in_haste.is_set():
                    child.process.kill()
                    child.process.wait()
                time.sleep(0.02)


class ChildError(Exception):
    """A child process that will not run."""


def describe_exit(code: int) -> str:
    """Return what an exit code means: "exited with 3" or "was killed by signal 9"."""
    return f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
