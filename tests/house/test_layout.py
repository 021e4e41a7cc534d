"""How the four source roots become one package, and what must not happen to them."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

repository = Path(__file__).parents[2]
roots = ["protos", "service", "trainer", "clients"]
packages = ["protos/hyperact/v1", "service/hyperact/service", "trainer/hyperact/trainer", "clients/hyperact/clients"]
packages += ["clients/hyperact/command_line", "protos/hyperact/inference"]
max_file_bytes = 1 << 20


def tracked_files() -> list[Path]:
    """Return the files under version control; without Git (in an unpacked sdist) there are none to check."""
    listed = subprocess.run(["git", "ls-files"], cwd=repository, capture_output=True, text=True, check=False)
    return [repository / line for line in listed.stdout.splitlines()]


@pytest.mark.parametrize("root", roots)
def test_the_namespace_has_no_init(root: str) -> None:
    """One stray file would hide the other three rooms from Python."""
    assert not (repository / root / "hyperact" / "__init__.py").exists()
    assert not (repository / root / "__init__.py").exists()


@pytest.mark.parametrize("package", packages)
def test_every_room_ships_its_types(package: str) -> None:
    """Whoever imports a room can check types against it."""
    assert (repository / package / "py.typed").is_file()
    assert (repository / package / "__init__.py").is_file()


@pytest.mark.parametrize("root", roots)
def test_a_room_has_only_its_own_packages(root: str) -> None:
    """Nothing is installed that nobody has declared."""
    found = {f"{root}/hyperact/{path.parent.name}" for path in (repository / root / "hyperact").glob("*/__init__.py")}

    assert {package for package in packages if package.startswith(root)} == found


def test_the_wheel_holds_hyperact_and_nothing_else(tmp_path: Path) -> None:
    """No top-level name but ours appears in anybody's site-packages; every room and the licence are in it."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")

    names = zipfile.ZipFile(wheel).namelist()

    assert {"hyperact"} == {name.split("/")[0].partition("-")[0] for name in names}
    for package in packages:
        assert f"hyperact/{package.rpartition('/')[2]}/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_every_command_is_in_the_project_once() -> None:
    """What `hyperact --help` lists exists: each entry point names a function of a room."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]

    for target in project["entry-points"]["hyperact.commands"].values():
        module, function = target.split(":")
        paths = [repository / root / f"{module.replace('.', '/')}.py" for root in roots]
        sources = [path.read_text() for path in paths if path.is_file()]

        assert [source for source in sources if f"def {function}(" in source], target


def test_no_large_file_is_under_version_control() -> None:
    """A clone stays quick: results that large belong elsewhere."""
    large = [path for path in tracked_files() if path.is_file() and path.stat().st_size > max_file_bytes]

    assert [] == large
