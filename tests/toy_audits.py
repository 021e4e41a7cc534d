"""Logs to audit: a real worker's, and the same with something changed in it."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import toys
from hyperact.service.audit_settings import Bound
from hyperact.service.auditor import Auditor, Graded
from hyperact.service.keys import load_index_key
from hyperact.service.repository import Repository
from hyperact.service.step_log import Durability, StepLog
from hyperact.service.step_sources import LocalSteps
from hyperact.service.version_cache import VersionCache
from hyperact.v1.decision_pb2 import Outcome, Step
from hyperact.v1.log_pb2 import LogEntry
from toy_worker import make_request, play, running

num_actions, index_dim = 4, 3
Change = Callable[[list[Step]], None]


def play_for_audit(data_dir: Path, **spec: Any) -> None:
    """Let sessions act: by the fallback, by version 1, across a promotion of version 2 with a re-pin, and masked."""
    asyncio.run(_play(data_dir, {"num_actions": num_actions, "index_dim": index_dim, "hidden_sizes": (8,), **spec}))


async def _play(data_dir: Path, version: dict[str, Any]) -> None:
    uri = toys.make_registry(data_dir)
    for seed in (1, 2):
        toys.toy_version(data_dir / "toys" / f"v{seed}", seed=seed, **version)
    async with running(data_dir, drain_deadline_seconds=0.0, fallback_num_actions=version["num_actions"]) as service:
        await play(service, "early", [3])
        toys.register(uri, data_dir / "toys" / "v1", alias="champion")
        await service.reload()
        before = await asyncio.gather(*(play(service, f"agent-{number}", [6, 6]) for number in range(4)))
        toys.register(uri, data_dir / "toys" / "v2", alias="champion")
        await service.reload()
        for number, answers in enumerate(before):
            token = answers[-1].token
            for place in range(6):
                mask = b"" if place % 2 else b"\x01" * (version["num_actions"] - 1) + b"\x00"
                request = make_request(
                    f"agent-{number}", place, token=token, outcome=Outcome(reward=1.0), action_mask=mask
                )
                token = (await service.decision.Act(request)).token


def read_log(data_dir: Path) -> list[LogEntry]:
    """Return everything in a log."""

    async def read() -> list[LogEntry]:
        source = LocalSteps(data_dir)
        try:
            return [entry async for page in source.pages("default", {}) for entry in page]
        finally:
            await source.close()

    return asyncio.run(read())


def changed_copy(data_dir: Path, target: Path, change: Change) -> Path:
    """Return a copy of a data directory in whose log something was changed by somebody who can write files."""
    shutil.copytree(data_dir, target)
    shutil.rmtree(target / "log")
    steps = [entry.step for entry in read_log(data_dir) if entry.HasField("step")]
    change(steps)

    async def write() -> None:
        log = StepLog.open(target / "log", 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=10_000)
        for step in steps:
            await log.append([step])
        await log.close()

    asyncio.run(write())
    return target


def audited(data_dir: Path, begin: Bound | None = None, end: Bound | None = None) -> list[Graded]:
    """Return the findings on a log, by its own key and the registry that the copy was made with."""

    async def grade() -> list[Graded]:
        uri = f"sqlite:///{data_dir / 'mlflow.db'}"
        key = load_index_key("", "", data_dir)
        source = LocalSteps(data_dir)
        auditor = Auditor("default", source, Repository(uri, VersionCache(data_dir / "versions")), key)
        try:
            pages = auditor.audit(begin or Bound(), end or Bound())
            return [graded async for page in pages for graded in page]
        finally:
            auditor.close()
            await source.close()

    return asyncio.run(grade())


def not_exact(graded: Sequence[Graded]) -> list[Graded]:
    """Return the findings that are not exact."""
    return [one for one in graded if one.finding.grade != "exact"]
