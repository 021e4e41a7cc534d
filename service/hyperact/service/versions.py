"""All served models: follows the registry for each (model_versions.py has the rules)."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hyperact.service.errors import RegistryUnavailableError, UnknownNameError
from hyperact.service.metrics import Metrics
from hyperact.service.model_versions import LoadedVersion, ModelVersions, VersionOptions
from hyperact.service.priorities import lower_priority
from hyperact.service.repository import Repository
from hyperact.service.version_loader import Loader
from hyperact.v1.deployment_pb2 import ModelStatus

__all__ = ["LoadedVersion", "Loader", "ModelVersions", "Versions"]

logger = logging.getLogger(__name__)
default_warm_up_batch_sizes = (1, 2, 32)
sweep_seconds = 0.5
close_seconds = 2.0


class Versions:
    """All served models.

    Args:
        repository: the registry.
        models: registered models to serve; the first is the default.
        load: reads a version's folder.
        metrics: where changes are counted.
        poll_seconds: how often to look at the registry; up to 20 % more or less, so that replicas spread.
        drain_deadline_seconds: how long after a promotion pinned episodes may go on.
        start_seconds: how long `start` waits for the first look.
        now: the time, in Unix seconds.
        draw: returns numbers in [0, 1), for the jitter.

    Attributes:
        default_model: the first.
        changed: set at the next change, and replaced by a new event then.
    """

    def __init__(  # noqa: PLR0913 everything it depends on is handed in
        self,
        repository: Repository,
        models: Sequence[str],
        *,
        load: Loader,
        metrics: Metrics,
        poll_seconds: float = 1.0,
        drain_deadline_seconds: float = 300.0,
        warm_up_batch_sizes: Sequence[int] = default_warm_up_batch_sizes,
        start_seconds: float = 30.0,
        now: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.default_model = models[0]
        self.changed = asyncio.Event()
        self._poll_seconds = poll_seconds
        self._start_seconds = start_seconds
        self._draw = draw
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="versions", initializer=lower_priority)
        self._tasks: list[asyncio.Task[None]] = []
        options = VersionOptions(
            repository=repository,
            load=load,
            drain_deadline_seconds=drain_deadline_seconds,
            warm_up_batch_sizes=tuple(warm_up_batch_sizes),
            metrics=metrics,
            executor=self._executor,
            now=now,
            notify=self._notify,
        )
        self._models = {model: ModelVersions(model, options) for model in models}

    def __getitem__(self, model: str) -> ModelVersions:
        """Return the versions of a model; UnknownNameError if it is not served."""
        try:
            return self._models[model]
        except KeyError:
            raise UnknownNameError(
                f"model {model[:80]!r} is not served here; served: {', '.join(self._models)}", field="model"
            ) from None

    async def start(self) -> None:
        """Look at the registry once, within a time limit, then follow it.

        A registry that is away does not fail this.
        """
        first_looks = []
        for versions in self._models.values():
            looked = asyncio.Event()
            self._tasks.append(asyncio.create_task(self._follow(versions, looked)))
            first_looks.append(asyncio.create_task(looked.wait()))
        self._tasks.append(asyncio.create_task(self._sweep()))
        _, late = await asyncio.wait(first_looks, timeout=self._start_seconds)
        for task in late:
            task.cancel()
        if late:
            logger.warning("the first look at the registry takes longer than %g s; going on", self._start_seconds)

    async def reload(self, model: str = "") -> None:
        """Look at the registry now, for one model or all, and try refused versions again.

        Raises UnknownNameError or RegistryUnavailableError.
        """
        for versions in self._choose(model):
            await versions.look(is_forced=True)

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(close_seconds):
                await asyncio.gather(*(versions.close() for versions in self._models.values()))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def status(self, model: str = "") -> list[ModelStatus]:
        """Return the status of one model or of all. Raises UnknownNameError."""
        return [versions.status() for versions in self._choose(model)]

    def _choose(self, model: str) -> list[ModelVersions]:
        return [self[model]] if model else list(self._models.values())

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _follow(self, versions: ModelVersions, looked: asyncio.Event) -> None:
        while True:
            try:
                with contextlib.suppress(RegistryUnavailableError):
                    await versions.look()
                if not looked.is_set():
                    await versions.serve_last()
            except Exception:
                logger.exception("following the registry of %s failed; trying again", versions.model)
            looked.set()
            await asyncio.sleep(self._poll_seconds * (0.8 + 0.4 * self._draw()))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(sweep_seconds)
            for versions in self._models.values():
                await versions.sweep()
