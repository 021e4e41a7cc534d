"""The challenger and the shadow of one model: versions that the registry names beside the champion.

Rules:

1. Nobody waits for them: they are loaded beside everything else, so that a champion, and the kill switch, never queue
   behind a slow download. Only a reload waits, to tell what came of it.
2. What is wanted is told anew at each look. What is not wanted any more is let go at once; who holds it drains it.
3. A version that is at fault is refused, like a champion. A registry that is away is tried again at the next look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from hyperact.service.errors import RegistryUnavailableError, VersionRefusedError
from hyperact.service.version_loader import Fresh
from hyperact.v1.deployment_pb2 import DeploymentRole

logger = logging.getLogger(__name__)
Role: TypeAlias = "DeploymentRole.ValueType"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the registry says of a role: the version, its deployment's number, and its share of sessions."""

    version: str
    deployment: int
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Companion:
    """A version that has a role, loaded."""

    wanted: Wanted
    fresh: Fresh


class Companions:
    """Brings up what is wanted beside the champion.

    Args:
        bring_up: returns a version loaded, warm and of the champion's spec.
        refuse: notes that a version is at fault.
        changed: called when a role was given, changed or taken.
    """

    def __init__(
        self,
        bring_up: Callable[[str], Awaitable[Fresh]],
        refuse: Callable[[str, VersionRefusedError], None],
        changed: Callable[[], None],
    ) -> None:
        self._bring_up = bring_up
        self._refuse = refuse
        self._changed = changed
        self._wanted: dict[Role, Wanted] = {}
        self._present: dict[Role, Companion] = {}
        self._tasks: dict[Role, asyncio.Task[None]] = {}

    def get(self, role: Role) -> Companion | None:
        """Return what has a role."""
        return self._present.get(role)

    def follow(self, wanted: Mapping[Role, Wanted]) -> None:
        """Let go of what is not wanted any more, and begin to bring up what is."""
        before = dict(self._present)
        self._wanted = dict(wanted)
        for role, present in before.items():
            want = wanted.get(role)
            if want is None or want.version != present.wanted.version:
                del self._present[role]
            else:
                self._present[role] = Companion(want, present.fresh)
        for role in wanted:
            if role not in self._present and role not in self._tasks:
                self._tasks[role] = asyncio.create_task(self._bring(role))
        if self._present != before:
            self._changed()

    async def settle(self) -> None:
        """Return when what is wanted is there, or was refused, or cannot be had now."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self) -> None:
        """Give up what is being brought up."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _bring(self, role: Role) -> None:
        """Bring up what a role wants, and what it wants then, until the two are the same."""
        try:
            while (want := self._wanted.get(role)) is not None:
                try:
                    fresh = await self._bring_up(want.version)
                except VersionRefusedError as error:
                    self._refuse(want.version, error)
                    return
                except RegistryUnavailableError as error:
                    logger.warning("cannot bring up version %s: %s", want.version, error)
                    return
                still = self._wanted.get(role)
                if still is not None and still.version == want.version:
                    self._present[role] = Companion(still, fresh)
                    self._changed()
                    return
        finally:
            del self._tasks[role]
