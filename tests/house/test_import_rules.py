"""The rules about who imports whom hold, and would be noticed if they did not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

repository = Path(__file__).parents[2]
roots = ["protos", "service", "trainer", "clients"]
import_linter = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the source, in which a test may plant what it likes."""
    for root in roots:
        shutil.copytree(repository / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "pyproject.toml", tmp_path)
    return tmp_path


def lint(source: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": ":".join(str(source / root) for root in roots)}
    command = [str(import_linter), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)


def test_the_rules_hold(copy: Path) -> None:
    """The rooms as they stand know only the contract."""
    checked = lint(copy)

    assert 0 == checked.returncode, checked.stdout


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("service/hyperact/service/decision.py", "import hyperact.trainer", "The rooms do not import each other"),
        ("clients/hyperact/clients/policy.py", "from hyperact.service import decision", "The rooms do not import"),
        ("clients/hyperact/command_line/main.py", "import hyperact.clients.policy", "nor does the command line"),
        ("protos/hyperact/v1/indices.py", "import hyperact.service", "The contract knows no room"),
        ("service/hyperact/service/decision.py", "import torch.nn", "no torch elsewhere"),
        ("clients/hyperact/clients/policy.py", "from torch import nn", "no torch elsewhere"),
        ("trainer/hyperact/trainer/losses.py", "import mlflow", "MLflow has one door"),
        ("clients/hyperact/clients/policy.py", "import mlflow.tracking", "MLflow has one door"),
    ],
)
def test_a_planted_import_is_noticed(copy: Path, file: str, line: str, rule: str) -> None:
    """A room that reaches into another, or a library where it does not belong, fails the check by name."""
    with (copy / file).open("a") as source:
        source.write(f"\n{line}\n")

    checked = lint(copy)

    assert 1 == checked.returncode, checked.stdout + checked.stderr
    broken = [row for row in checked.stdout.splitlines() if " BROKEN" in row]
    assert [row for row in broken if rule in row], checked.stdout


@pytest.mark.parametrize("name", [*roots, "service.hyperact.service"])
def test_a_room_is_imported_only_by_its_full_name(tmp_path: Path, name: str) -> None:
    """From the root of a checkout `import service` would succeed and find nothing; style checking forbids it."""
    ruff = Path(sys.executable).with_name("ruff")
    planted = tmp_path / "planted.py"
    planted.write_text(f'"""A module."""\n\nimport {name}\n')
    command = [str(ruff), "check", "--config", str(repository / "pyproject.toml"), "--select", "TID251", str(planted)]

    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 1 == checked.returncode
    assert "Import hyperact." in checked.stdout
