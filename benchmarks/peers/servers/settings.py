"""What every server is told: the graph and the port."""

import argparse
import os
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
