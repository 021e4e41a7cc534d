"""Processes that play runs, each with one thread: as many runs at a time as there are workers.

The rules:

1. A run is given to one worker; a worker plays one run after another, so that what is slow to set up is set up once.
2. A worker that dies loses its run and nothing else: it is reported as failed, and another worker takes its place.
3. Ctrl-C is the parent's alone. When the parent leaves, the workers end, in the middle of their runs.
"""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from hyperact.trainer.bench.runs import Mark, Run, Values

# Before torch is imported in a worker: its pools take their size from here.
_one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Event:
    """What a worker tells of a run: that it began, how far it is, its row, or why it failed (a traceback)."""

    run: Run
    mark: Mark | None = None
    row: Values | None = None
    failure: str = ""


class _Worker:
    """One process and the run that it plays, if any."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with _environment(_one_thread):
            self._process: SpawnProcess = context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
        theirs.close()
        self.run: Run | None = None

    def give(self, run: Run, checkpoint: Path) -> None:
        self.run = run
        self.connection.send((run, checkpoint))

    def end(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def play_runs(runs: Sequence[Run], num_workers: int, checkpoints: Path) -> Iterator[Event]:
    """Play runs in their order on a number of processes, and yield what becomes of them as it happens."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    waiting = list(reversed(runs))
    workers = [_Worker() for _ in range(min(num_workers, len(runs)))]
    try:
        while waiting or any(worker.run for worker in workers):
            yield from _give_out(workers, waiting, checkpoints)
            busy = {worker.connection: worker for worker in workers if worker.run}
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                yield from _hear(busy[connection], workers)
    finally:
        for worker in workers:
            worker.end()


def checkpoint_path(checkpoints: Path, run: Run) -> Path:
    """Return the file that a run may keep its state in."""
    return checkpoints / f"{run.label}.checkpoint"


def _give_out(workers: Sequence[_Worker], waiting: list[Run], checkpoints: Path) -> Iterator[Event]:
    for worker in workers:
        if waiting and worker.run is None:
            run = waiting.pop()
            worker.give(run, checkpoint_path(checkpoints, run))
            yield Event(run, Mark(0.0, ""))


def _hear(worker: _Worker, workers: list[_Worker]) -> Iterator[Event]:
    run = worker.run
    assert run is not None
    try:
        event: Event = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        workers[workers.index(worker)] = _Worker()
        worker.end()
        yield Event(run, failure="its process died")
        return
    if event.mark is None:
        worker.run = None
    yield event


def _work(connection: Connection) -> None:
    """Play what comes over the connection until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            run, checkpoint = connection.recv()
        except EOFError:
            return
        try:
            row = run.play(checkpoint, lambda mark, run=run: connection.send(Event(run, mark=mark)))
        except Exception:  # noqa: BLE001 -- whatever it is, it is told, and the other runs go on
            connection.send(Event(run, failure=traceback.format_exc()))
        else:
            connection.send(Event(run, row=row))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    kept = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
