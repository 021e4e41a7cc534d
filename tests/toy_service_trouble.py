"""Makes the disk under a whole service's log refuse for real, and checks what its callers see.

    toy_service_trouble.py full|read_only DIRECTORY

full: the log's file system of 2 MiB fills up while agents play, and is made larger. read_only: the log's directory
cannot be written when the service starts, and can a moment later. Both need a mount namespace of their own.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from hyperact.service.log_check import LogCheck
from hyperact.v1.steps import StepKey, to_key
from hyperact.v1.tensors import to_tensor
from toy_worker import Refusal, RunningWorker, make_request, read_refusal, running

_, trouble, directory_name = sys.argv
data_dir = Path(directory_name) / "data"
log_directory = data_dir / "log"
noise = to_tensor(np.random.default_rng(0).integers(0, 256, 16384, dtype=np.uint8))
codes = grpc.StatusCode


def mount(*options: str) -> None:
    subprocess.run(["mount", *options, str(log_directory)], check=True)


async def is_ready(service: RunningWorker) -> bool:
    answer = await service.health.Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def act_until_refused(service: RunningWorker, session: str, count: int) -> tuple[set[StepKey], Refusal | None]:
    """Return the steps that were acknowledged, and why they ended."""
    acknowledged: set[StepKey] = set()
    for _ in range(count):
        try:
            answer = await service.decision.Act(make_request(session, observation=noise))
        except grpc.aio.AioRpcError as error:
            return acknowledged, read_refusal(error)
        acknowledged.add(to_key(answer.step_id))
    return acknowledged, None


async def wait_until_ready(service: RunningWorker) -> None:
    async with asyncio.timeout(30):
        while not await is_ready(service):  # noqa: ASYNC110 readiness is a value, not an event
            await asyncio.sleep(0.05)


async def check_refused(service: RunningWorker, found: Refusal | None, code: grpc.StatusCode, reason: str) -> None:
    assert found is not None
    assert (code, reason) == (found.code, found.reason), found
    assert found.retry_seconds
    assert "step log" in found.message, found
    assert not await is_ready(service)


async def main() -> None:
    log_directory.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", "size=2m" if trouble == "full" else "size=64m,ro", "tmpfs")
    async with running(data_dir, fallback_num_actions=2, log_min_free_bytes=0, durability="disk") as service:
        acknowledged, found = await act_until_refused(service, "before", 500)
        if trouble == "full":
            assert acknowledged
            await check_refused(service, found, codes.RESOURCE_EXHAUSTED, "LOG_DISK_FULL")
            mount("-o", "remount,size=64m")
        else:
            await check_refused(service, found, codes.UNAVAILABLE, "LOG_NOT_WRITABLE")
            mount("-o", "remount,rw")
        await wait_until_ready(service)
        after, found = await act_until_refused(service, "after", 100)
        assert found is None, found
        logged = [to_key(step.step_id) for step in await service.steps()]
        assert acknowledged | after <= set(logged)
        assert len(logged) == len(set(logged))
        faults = [str(fault) for fault in LogCheck([log_directory]).run()]
        assert [] == faults, faults
    sys.stdout.write("survived\n")
    sys.stdout.flush()
    os._exit(0)


asyncio.run(main())
