"""What every server is told: the graph and the port."""

import argparse
import os
import socket
from pathlib import Path

from graph import PATH_VARIABLE


def read() -> tuple[Path, int]:
    """Return the graph's file and the port, and leave the former to child processes in the environment."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    os.environ[PATH_VARIABLE] = str(arguments.graph)
    return arguments.graph, arguments.port


def free_port() -> int:
    """Return a port that nobody listens on, for what a server wants besides."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
