"""Work that is given up once nobody needs it any more."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def unless(superseded: Coroutine[Any, Any, None], work: Coroutine[Any, Any, _Result]) -> _Result | None:
    """Return what `work` returns, or None if `superseded` returns first; the other one is cancelled.

    `work` may not return None. What it raises is raised here.
    """
    working, waiting = asyncio.create_task(work), asyncio.create_task(superseded)
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
