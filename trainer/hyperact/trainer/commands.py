"""The room's commands: `init`, `train`, `retrain`, `evaluate`. What is heavy is imported when a command runs."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Literal

import structlog

from hyperact.trainer.settings import EvaluateSettings, InitSettings, RetrainSettings, TrainSettings


def init(settings: InitSettings) -> int:
    """Register an untrained prior hypermodel for an environment."""
    from hyperact.trainer import jobs

    _set_up(settings.log_format, settings.num_threads)
    return _report(lambda: jobs.init(settings))


def train(settings: TrainSettings) -> int:
    """Learn in this process, one update per environment step."""
    from hyperact.trainer import jobs

    _set_up(settings.log_format, settings.num_threads)
    return _report(lambda: jobs.train(settings))


def retrain(settings: RetrainSettings) -> int:
    """Learn from the log of a running service, and deploy by promoting versions."""
    # Before anything slow: a trainer that is told to end while it starts must end.
    with _stop_on_signals() as stop:
        from hyperact.trainer import jobs

        _set_up(settings.log_format, settings.num_threads)
        return _report(lambda: jobs.retrain(settings, stop))


def evaluate(settings: EvaluateSettings) -> int:
    """Estimate what a registered version would be worth, from what the service logged of others."""
    from hyperact.trainer import jobs

    _set_up(settings.log_format, settings.num_threads)
    return _report(lambda: jobs.evaluate(settings))


def _report(job: Callable[[], None]) -> int:
    """Run a job; return 0, or 1 with one line that says what is wrong."""
    from hyperact.trainer.jobs import JobError

    try:
        job()
    except JobError as error:
        structlog.get_logger().error(str(error))
        return 1
    return 0


def _set_up(log_format: Literal["console", "json"], num_threads: int) -> None:
    import torch

    from hyperact.trainer.allocator import keep_freed_memory

    torch.set_num_threads(num_threads)
    keep_freed_memory()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if log_format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def _stop_on_signals() -> Iterator[Event]:
    """Set an event on SIGTERM and SIGINT instead of dying; a second one kills as usual."""
    stop = Event()
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask_to_stop(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in kept:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
