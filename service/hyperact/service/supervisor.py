"""Several workers on one address: spawns a process per worker, restarts those that die, passes the stop signal on.

The kernel spreads connections over the workers (SO_REUSEPORT). Every worker has its own log partition, so a restarted
one takes its predecessor's number.
"""

import multiprocessing
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from types import FrameType

import structlog

from hyperact.service.settings import ServeSettings, split_address

logger = structlog.stdlib.get_logger("hyperact.service")
poll_seconds = 0.2
restart_delay_seconds = 1.0
kill_after_seconds = 5.0
start_seconds = 30.0


def supervise(settings: ServeSettings, run: Callable[[ServeSettings, int], int]) -> int:
    """Run `settings.workers` workers until SIGTERM or SIGINT; return 0 if all ended well, else 1.

    A worker that gives up (exit code 1) in the first `start_seconds` ends them all: whatever is wrong with the settings
    stays wrong. One that gives up later is started anew like any other that died: the rest still serves, and what is
    wrong (a full disk) may be mended.
    """
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        stopping.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with _reserve(settings.address) as reserved:
        shared = settings.model_copy(update={"address": _with_port(settings.address, reserved.getsockname()[1])})
        workers = {worker: _spawn(run, shared, worker) for worker in range(settings.workers)}
        logger.info("supervising", address=shared.address, pids=[process.pid for process in workers.values()])
        is_failed = False
        settled_time = time.monotonic() + start_seconds
        while not stopping and not is_failed:
            time.sleep(poll_seconds)
            is_starting = time.monotonic() < settled_time
            is_failed = _restart_dead(workers, run, shared, stopping, is_starting=is_starting)
        codes = _stop_all(workers, settings.shutdown_grace_seconds + kill_after_seconds)
    return int(is_failed or any(codes))


def _restart_dead(
    workers: dict[int, SpawnProcess],
    run: Callable[[ServeSettings, int], int],
    settings: ServeSettings,
    stopping: list[int],
    *,
    is_starting: bool,
) -> bool:
    """Start anew the workers that died; tell whether one could not start at all (exit code 1)."""
    for worker, process in workers.items():
        if process.is_alive() or stopping:
            continue
        logger.error("a worker died", number=worker, pid=process.pid, exit_code=process.exitcode)
        if is_starting and process.exitcode == 1:
            return True
        time.sleep(restart_delay_seconds)
        if not stopping:
            workers[worker] = _spawn(run, settings, worker)
    return False


def _spawn(run: Callable[[ServeSettings, int], int], settings: ServeSettings, worker: int) -> SpawnProcess:
    process = multiprocessing.get_context("spawn").Process(
        target=_run_and_exit, args=(run, settings, worker), name=f"hyperact-worker-{worker}", daemon=False
    )
    process.start()
    return process


def _run_and_exit(run: Callable[[ServeSettings, int], int], settings: ServeSettings, worker: int) -> None:
    raise SystemExit(run(settings, worker))


def _stop_all(workers: dict[int, SpawnProcess], seconds: float) -> list[int]:
    """Ask every worker to stop, kill those that do not in time, and return the exit codes."""
    deadline = time.monotonic() + seconds
    for process in workers.values():
        if process.is_alive():
            process.terminate()
    for process in workers.values():
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            logger.error("a worker does not stop and is killed", pid=process.pid)
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in workers.values()]


def _reserve(address: str) -> socket.socket:
    """Return a socket that holds the address while workers come and go, and accepts nothing; OSError if it is taken."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind((host, port))
    return held


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"
