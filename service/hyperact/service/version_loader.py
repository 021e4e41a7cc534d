"""From a version's number to a hypermodel that has answered: download, load, warm up, all off the event loop.

A copy in the cache that does not load is thrown away and downloaded once more: disks err too. A copy that was just
downloaded is the version's own fault. While the registry is away nothing is thrown away.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hyperact.service.errors import RegistryUnavailableError, VersionRefusedError
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.repository import Repository
from hyperact.service.version_cache import CachedVersion

_Result = TypeVar("_Result")


class Loader(Protocol):
    """Reads a version's folder. Blocks; raises VersionRefusedError."""

    def __call__(self, directory: Path, *, model: str) -> Hypermodel:
        """Return the hypermodel in a folder, checked, for a registered model's name."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A version just loaded.

    Attributes:
        origin: the registry's words for what it is.
        is_verified: whether the registry was there to say so; otherwise it is what the cache held.
    """

    hypermodel: Hypermodel
    origin: str
    is_verified: bool


class VersionLoader:
    """Loads versions of one model; those who want the same one at the same time share the work.

    When the last of them is cancelled the work is given up; a download goes on in its thread, and its end is not
    waited for.

    Args:
        observe_phase: is told how many seconds a phase took: "fetch" from the registry or the cache, "load" into the
            runtime with all checks, "warm_up". Called from any thread.

    Attributes:
        loading_since: the versions that are being loaded, and since when (Unix seconds).
    """

    def __init__(
        self,
        model: str,
        repository: Repository,
        load: Loader,
        *,
        warm_up_batch_sizes: Sequence[int],
        executor: Executor,
        now: Callable[[], float],
        notify: Callable[[], None],
        observe_phase: Callable[[str, float], None] = lambda _phase, _seconds: None,
    ) -> None:
        self.loading_since: dict[str, float] = {}
        self._model = model
        self._repository = repository
        self._load_folder = load
        self._warm_up_batch_sizes = warm_up_batch_sizes
        self._executor = executor
        self._now = now
        self._notify = notify
        self._observe_phase = observe_phase
        self._tasks: dict[str, asyncio.Task[Fresh]] = {}
        self._num_waiting: Counter[str] = Counter()

    async def load(self, version: str) -> Fresh:
        """Return a version loaded and warm.

        Raises:
            VersionRefusedError: it cannot be served.
            RegistryUnavailableError: the registry is away and the version is not in the cache.
        """
        task = self._tasks.get(version)
        if task is None:
            self.loading_since[version] = self._now()
            task = self._tasks[version] = asyncio.create_task(self._load(version))
            self._notify()
        self._num_waiting[version] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._num_waiting[version] -= 1
            if not self._num_waiting[version]:
                del self._num_waiting[version]
                task.cancel()
                self._forget(version, task)

    async def _load(self, version: str) -> Fresh:
        try:
            while True:
                begun = self._now()
                cached, is_verified = await self._fetch(version)
                self._observe_phase("fetch", self._now() - begun)
                try:
                    hypermodel = await self._in_executor(self._load_and_warm, cached.directory)
                    return Fresh(hypermodel, cached.origin, is_verified)
                except VersionRefusedError:
                    if is_verified:
                        await self._in_executor(self._repository.cache.discard, cached)
                    if cached.is_new or not is_verified:
                        raise
        finally:
            self._forget(version, asyncio.current_task())

    def _forget(self, version: str, task: "asyncio.Task[Any] | None") -> None:
        if self._tasks.get(version) is task:
            del self._tasks[version], self.loading_since[version]

    async def _fetch(self, version: str) -> tuple[CachedVersion, bool]:
        try:
            return await self._repository.fetch(self._model, version), True
        except RegistryUnavailableError:
            cached = await self._in_executor(self._repository.cache.find, self._model, version)
            if cached is None:
                raise
            return cached, False

    def _load_and_warm(self, directory: Path) -> Hypermodel:
        try:
            begun = self._now()
            hypermodel = self._load_folder(directory, model=self._model)
            loaded = self._now()
            hypermodel.warm_up(self._warm_up_batch_sizes)
            self._observe_phase("load", loaded - begun)
            self._observe_phase("warm_up", self._now() - loaded)
        except VersionRefusedError:
            raise
        except Exception as error:  # a version must not be able to end the task that follows the registry
            raise VersionRefusedError("LOAD_FAILED", f"{type(error).__name__}: {error}") from error
        return hypermodel

    async def _in_executor(self, function: Callable[..., _Result], *args: Any) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
