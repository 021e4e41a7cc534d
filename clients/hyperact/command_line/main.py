"""The entry of `hyperact`. It imports next to nothing, so that a Ctrl-C finds us ready for it almost at once."""

import os
import sys

interrupted, broken_pipe = 130, 141


def main() -> int:
    """Run what the command line says and return the exit code.

    130 after Ctrl-C and 141 when whoever read our output has gone (`… | head`), both quietly.
    """
    try:
        from hyperact.command_line.dispatch import dispatch

        code = dispatch()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return interrupted
    except BrokenPipeError:
        # Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return broken_pipe
    else:
        return code
