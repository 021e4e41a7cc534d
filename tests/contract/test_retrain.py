"""`hyperact retrain` against the real service: two workers and their partitions, and a trainer that comes back."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hyperact.v1.deployment_pb2 import Deployment, GetStatusRequest, ReloadRequest
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.deployments import read_ledger
from hyperact.v1.log_pb2 import GetRangeRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub

limit_seconds = 120.0
_command = [sys.executable, "-m", "hyperact.command_line"]
_environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def hyperact(*arguments: str) -> None:
    """Run a command of `hyperact` to its end."""
    done = subprocess.run(
        [*_command, *arguments], env=_environment, capture_output=True, text=True, timeout=limit_seconds, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A service of two workers on an empty registry, which falls back on two actions."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    arguments = ["serve", "--address", address, "--data-dir", str(tmp_path), "--workers", "2"]
    flags = ["--metrics-address", "", "--fallback-num-actions", "2"]
    with (tmp_path / "serve.log").open("wb") as output:
        service = subprocess.Popen([*_command, *arguments, *flags], stdout=output, stderr=output, env=_environment)
    try:
        wait_until_ready(address)
        yield address
    finally:
        service.terminate()
        service.wait()


def wait_until_ready(address: str) -> None:
    """Return once both workers have a partition in the log."""
    deadline = time.monotonic() + limit_seconds
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(limit_seconds)
        while len(LogServiceStub(channel).GetRange(GetRangeRequest(), wait_for_ready=True).ranges) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def play(address: str, tmp_path: Path, times: int) -> None:
    """Play ten episodes of four steps, several times over: each connection finds a worker by chance."""
    for _ in range(times):
        flags = ["--size", "4", "--episodes", "10", "--sessions", "2", "--plot", str(tmp_path / "play.png")]
        hyperact("play", "deepsea", "--address", address, *flags)


def wait_for_version(address: str, version: str) -> None:
    """Return once a fresh connection reaches only workers that serve a version: several looks, for there are two."""
    num_right, deadline = 0, time.monotonic() + limit_seconds
    while num_right < 8:
        assert time.monotonic() < deadline
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = DeploymentServiceStub(channel)
            stub.Reload(ReloadRequest(), wait_for_ready=True)
            (model,) = stub.GetStatus(GetStatusRequest()).models
        num_right += model.deployment.to_version == version


def ledger(tmp_path: Path) -> list[Deployment]:
    """Return the deployments that the registry holds."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return read_ledger(MlflowClient(uri, uri).get_registered_model("default").tags)


@pytest.mark.timeout(300)
def test_a_trainer_that_comes_back_goes_on_where_it_stood(address: str, tmp_path: Path) -> None:
    """Version after version from one log: each transition once, each deployment with its number and its returns."""
    retrain = ["retrain", "--address", address, "--data-dir", str(tmp_path), "--max-versions", "1"]
    sea = ["--env", "hyperact/DeepSea-v0", "--env-kwargs", '{"size": 4}', "--poll-seconds", "0.1"]

    play(address, tmp_path, 2)
    hyperact(*retrain, *sea, "--min-new-steps", "80")
    wait_for_version(address, "1")
    play(address, tmp_path, 2)
    hyperact(*retrain, *sea, "--min-new-steps", "80")

    first, second = ledger(tmp_path)
    assert (1, "1", 80, 20) == (first.number, first.to_version, first.num_transitions, first.num_episodes)
    assert (2, "1", "2", 80) == (second.number, second.from_version, second.to_version, second.num_transitions)
    assert -0.01 <= first.mean_return <= 0.99
    assert "hyperact retrain" == first.actor
