"""The server under test: the one that HYPERACT_COMPLIANCE_ADDRESS names, else one of ours, started for these tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import toy_serve
from caller import Caller
from hyperact.v1.channels import ConnectionSettings, open_channel
from toy_worker import registry_with_version


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the contract that has a version to serve."""
    given = os.environ.get("HYPERACT_COMPLIANCE_ADDRESS", "")
    if given:
        yield given
        return
    data_dir: Path = tmp_path_factory.mktemp("compliance")
    registry_with_version(data_dir, num_actions=3)
    with toy_serve.serve(data_dir, "--max-batch", "16") as served:
        yield str(served.wait_for("serving")["address"])


@pytest.fixture(scope="session")
def channel(address: str) -> Iterator[grpc.Channel]:
    """A connection that all tests share."""
    given = {name: os.environ.get(f"HYPERACT_{name.upper()}") for name in ConnectionSettings.model_fields}
    settings = ConnectionSettings.model_validate({name: value for name, value in given.items() if value})
    with open_channel(address, settings) as channel:
        yield channel


@pytest.fixture
def caller(channel: grpc.Channel) -> Caller:
    """What makes requests that fit the model; its sessions are nobody else's."""
    return Caller(channel, os.environ.get("HYPERACT_COMPLIANCE_MODEL", ""))
