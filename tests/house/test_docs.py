"""The documents say what is so.

For authors: what stands in README.md, CONTRIBUTING.md, docs/ and protos/README.md is held to the code.

- A ```python block is run, against a service that answers at 127.0.0.1:50051 (here another port stands in for it).
- In a ```sh block, `make` names a target, and `hyperact` a command with flags that it has; they are not run.
- A link within the repository leads to something.
- Tables of settings, metrics, error reasons and dependencies name what there is, and leave nothing out.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hyperact.service.settings import ServeSettings

repository = Path(__file__).parents[2]
hyperact = Path(sys.executable).with_name("hyperact")
documents = [repository / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "protos/README.md")]
documents += sorted((repository / "docs").rglob("*.md"))
documented_address = "127.0.0.1:50051"


class Block(NamedTuple):
    """One fenced block of a document."""

    document: str
    language: str
    text: str


def find_blocks() -> list[Block]:
    found = []
    for path in documents:
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            found.append(Block(str(path.relative_to(repository)), language, text))
    return found


def shell_lines(program: str) -> list[str]:
    """Return the documented lines of one program, without comments."""
    lines = [
        line.split(" #")[0].strip()
        for block in find_blocks()
        if block.language == "sh"
        for line in block.text.splitlines()
    ]
    return sorted({line for line in lines if line.split(" ")[0] == program})


def table_names(document: str, heading: str) -> list[str]:
    """Return the names in backticks that begin the rows of the tables under a heading."""
    text = (repository / document).read_text()
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^#{1,2} ", section, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)


def without_settings() -> dict[str, str]:
    """Return the environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HYPERACT_")}


def wait_until_listening(address: str, process: "subprocess.Popen[bytes]") -> None:
    """Return once a process listens; on a busy machine its start may take longer than an example waits."""
    host, _, port = address.rpartition(":")
    while process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """Return the address of a service that acts at random."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--address", address, "--metrics-address", "", "--data-dir", str(tmp_path), "--fallback-num-actions", "2"]
    with (tmp_path / "service.txt").open("w") as output:
        process = subprocess.Popen(
            [str(hyperact), "serve", *flags], cwd=tmp_path, env=without_settings(), stdout=output, stderr=output
        )
    wait_until_listening(address, process)
    yield address
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)


@pytest.mark.parametrize("block", [block for block in find_blocks() if block.language == "python"])
def test_a_python_example_runs(block: Block, service: str, tmp_path: Path) -> None:
    """What a newcomer copies works."""
    program = block.text.replace(documented_address, service)

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=without_settings(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, f"{block.document}\n{done.stderr}"


@pytest.mark.parametrize("line", shell_lines("hyperact"))
def test_a_documented_command_exists(line: str, tmp_path: Path) -> None:
    """What is to be typed is understood, to the last flag. Nothing is done: the settings are printed instead."""
    command = [str(hyperact), *shlex.split(line)[1:], "--print-config"]

    done = subprocess.run(command, cwd=tmp_path, env=without_settings(), capture_output=True, text=True, check=False)

    assert 0 == done.returncode, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("line", shell_lines("make"))
def test_a_documented_target_exists(line: str) -> None:
    """The Makefile has every verb that the documents promise."""
    words = [word for word in line.split()[1:] if "=" not in word]

    done = subprocess.run(["make", "--dry-run", *words], cwd=repository, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize("path", documents, ids=lambda path: str(path.relative_to(repository)))
def test_links_lead_somewhere(path: Path) -> None:
    """No reader ends at a file that is not there."""
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text())]
    local = [target for target in targets if target and "://" not in target]

    assert [] == [target for target in local if not (path.parent / target).exists()]


def test_every_setting_is_documented() -> None:
    """An operator finds all that can be set, and nothing that cannot."""
    assert sorted(ServeSettings.model_fields) == sorted(table_names("docs/operations.md", "Settings"))


def test_every_metric_is_documented(tmp_path: Path) -> None:
    """A dashboard can be made from the page: each name is one that Prometheus sees."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics_address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = ["--address", "127.0.0.1:0", "--metrics-address", metrics_address, "--data-dir", str(tmp_path)]
    process = subprocess.Popen(
        [str(hyperact), "serve", *flags], cwd=tmp_path, env=without_settings(), stderr=subprocess.DEVNULL
    )
    try:
        exposition = read_when_up(f"http://{metrics_address}/metrics", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)

    families = set(re.findall(r"^# TYPE (hyperact_\w+) (?!gauge.*_created)", exposition, re.MULTILINE))
    families = {name for name in families if not name.endswith("_created")}

    assert sorted(families) == sorted(table_names("docs/operations.md", "Metrics"))


def read_when_up(url: str, process: subprocess.Popen[bytes]) -> str:
    while True:
        assert process.poll() is None, "the service stopped"
        try:
            with urllib.request.urlopen(url) as response:
                return str(response.read().decode())
        except OSError:
            time.sleep(0.05)


def test_every_documented_error_reason_exists() -> None:
    """A program that looks for a reason from the page can find it."""
    table = (repository / "docs/contract.md").read_text().split("## Errors")[1].split("## ")[0]
    reasons = {
        reason for row in table.splitlines() if row.startswith("|") for reason in re.findall(r"`([A-Z_]+)`", row)
    }
    code = [*(repository / "service").rglob("*.py"), *(repository / "protos/hyperact/v1").glob("*.py")]
    known = {word for path in code for word in re.findall(r'"([A-Z_]+)"', path.read_text())}

    assert reasons <= known


def test_every_dependency_has_its_reason() -> None:
    """Nothing is installed of which nobody can say why."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    groups = {"Always": project["dependencies"]}
    groups |= {f"`[{extra}]`": names for extra, names in project["optional-dependencies"].items()}
    text = (repository / "docs/dependencies.md").read_text()

    for heading, requirements in groups.items():
        section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        alone = {"bsuite", "obp", "tritonclient"}
        documented = set(re.findall(r"^\| ([\w-]+) \|", section, re.MULTILINE)) - {"Package", *alone}
        declared = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in requirements} - {"hyperact"}

        assert declared == documented, heading
