"""The registry of one machine, made by whoever comes first, whatever becomes of it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

OPENING = {
    "service": """
import asyncio, sys
from pathlib import Path
from hyperact.service.repository import Repository
from hyperact.service.version_cache import VersionCache
data_dir = Path(sys.argv[1])
repository = Repository(f"sqlite:///{data_dir / 'mlflow.db'}", VersionCache(data_dir / "versions"), call_seconds=100)
asyncio.run(repository.look("default"))
""",
    "trainer": """
import sys
from pathlib import Path
from hyperact.trainer.tracking import Tracking
Tracking("", Path(sys.argv[1]), "default", "champion").start_run("train", {}, {})
""",
}


def start(room: str, data_dir: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", OPENING[room], str(data_dir)], stderr=subprocess.DEVNULL)


def databases(data_dir: Path) -> list[Path]:
    return [path for path in data_dir.glob("mlflow.db*") if path.stat().st_size]


@pytest.mark.parametrize("room", OPENING)
def test_a_kill_while_the_store_is_made_does_no_harm(tmp_path: Path, room: str) -> None:
    """A machine that goes down in the first second of its first start starts again as if nothing had been."""
    process = start(room, tmp_path)
    while process.poll() is None and not databases(tmp_path):
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert databases(tmp_path), "nothing was begun, so nothing was interrupted"
    assert not (tmp_path / "mlflow.db").exists()

    assert 0 == start(room, tmp_path).wait()

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert 0 == len(MlflowClient(uri, uri).search_registered_models())
    assert [tmp_path / "mlflow.db"] == databases(tmp_path)
