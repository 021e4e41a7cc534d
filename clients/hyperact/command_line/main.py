"""The entry of `hyperact`. It imports next to nothing, so that a Ctrl-C finds us ready for it almost at once."""

interrupted = 130


def main() -> int:
    """Run what the command line says and return the exit code; 130 after Ctrl-C, quietly."""
    try:
        from hyperact.command_line.dispatch import dispatch

        return dispatch()
    except KeyboardInterrupt:
        return interrupted
