"""Where a figure comes from: the commit of the code that made it."""

import subprocess
from pathlib import Path


def code_commit(directory: Path = Path(__file__).parent) -> str:
    """Return the short commit that a directory is checked out at, with "+" after it if files were changed since.

    Empty where there is no checkout, as in an installed wheel.
    """
    commit = _git(directory, "rev-parse", "--short", "HEAD")
    is_changed = bool(_git(directory, "status", "--porcelain", "--untracked-files=no"))
    return f"{commit}+" if commit and is_changed else commit


def _git(directory: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True)  # noqa: S607 -- the git of whoever works here
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
