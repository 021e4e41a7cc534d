"""A virtual environment for each peer, made once and kept."""

import hashlib
import subprocess
import sys
from pathlib import Path

MARK = "installed"


class InstallError(Exception):
    """A peer's packages could not be installed."""


def interpreter(requirements: list[str], cache: Path) -> Path:
    """Return the Python of an environment with these packages; without any, this one.

    Peers that need the same packages share an environment.

    Raises:
        InstallError: they cannot be had.
    """
    if not requirements:
        return Path(sys.executable)
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    folder = cache / f"{requirements[0].partition('==')[0].partition('[')[0]}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / MARK).exists():
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
        (folder / MARK).write_text("\n".join(requirements) + "\n")
    return python


def run(command: list[str]) -> None:
    """Run a command of an installation."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise InstallError(last_line(done.stderr))


def last_line(text: str) -> str:
    """Return the last line that names an error, or else the last one that says something."""
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalpha, line))]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "")
