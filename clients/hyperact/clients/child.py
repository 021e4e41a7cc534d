"""`python -m hyperact.clients.child COMMAND…`: as `hyperact COMMAND…`, and ended with the process that started it.

Whoever kills a demo outright leaves no service and no trainer behind. On Linux only: elsewhere it is just the command.
"""

import ctypes
import os
import runpy
import signal
import sys

set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> None:
    """Have this process told to end when the thread that started it does."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(143)


if __name__ == "__main__":
    end_with_parent()
    sys.argv[0] = "hyperact"
    runpy.run_module("hyperact.command_line", run_name="__main__")
