"""The commit that a figure was made by."""

import subprocess
from pathlib import Path

from hyperact.trainer.bench.provenance import code_commit


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class TestCodeCommit:
    def test_a_clean_checkout_is_named_by_its_commit_and_a_changed_one_is_marked(self, tmp_path: Path) -> None:
        """A figure made by code that was never committed says so."""
        git(tmp_path, "init", "--quiet")
        (tmp_path / "code.py").write_text("1\n")
        git(tmp_path, "add", "code.py")
        git(tmp_path, "commit", "--quiet", "-m", "Begin")
        commit = git(tmp_path, "rev-parse", "--short", "HEAD")

        assert commit == code_commit(tmp_path)
        (tmp_path / "results.csv").write_text("not code under version control\n")
        assert commit == code_commit(tmp_path)
        (tmp_path / "code.py").write_text("2\n")
        assert f"{commit}+" == code_commit(tmp_path)

    def test_an_installed_wheel_has_none(self, tmp_path: Path) -> None:
        """There is no checkout to name."""
        assert "" == code_commit(tmp_path)
