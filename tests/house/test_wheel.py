"""What the service image runs: the wheel with [service] alone, in an environment that holds nothing else."""

import os
import signal
import socket
import subprocess
import sys
import venv
from pathlib import Path

import grpc
import numpy as np
import pytest

from hyperact.v1.decision_pb2 import ActRequest, ActResponse
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.tensors import to_tensor

repository = Path(__file__).parents[2]
absent = ["torch", "gymnasium", "ale_py", "cv2", "matplotlib", "pytest"]


def run(*command: object, cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed; what it complained of is in the failure."""
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install_service(directory: Path) -> Path:
    """Build the wheel, install it with [service] into a new environment, and return the environment's programs."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, cwd=repository)
    (wheel,) = directory.glob("*.whl")
    venv.create(directory / "venv", with_pip=True)
    programs = directory / "venv" / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--constraint", repository / "constraints.txt", f"{wheel}[service]", cwd=directory)
    return programs


def free_address() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def act(address: str) -> ActResponse:
    with grpc.insecure_channel(address) as channel:
        request = ActRequest(session="agent", observation=to_tensor(np.zeros(3, np.float32)))
        answer: ActResponse = DecisionServiceStub(channel).Act(request, wait_for_ready=True, timeout=60)
        return answer


@pytest.mark.timeout(600)
def test_the_wheel_with_service_alone_serves(tmp_path: Path) -> None:
    """The image holds no torch and no environment, starts, says that it is healthy, answers, and stops when told to."""
    programs = install_service(tmp_path)
    # No variable of whoever runs the tests, and no checkout on the path.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONSAFEPATH": "1"}

    probe = f"import importlib.util as u; print([name for name in {absent} if u.find_spec(name)])"
    assert "[]\n" == run(programs / "python", "-c", probe, cwd=tmp_path, environment=environment)

    address = free_address()
    flags = [
        "--data-dir",
        tmp_path / "data",
        "--address",
        address,
        "--metrics-address",
        "",
        "--fallback-num-actions",
        2,
    ]
    words = list(map(str, [programs / "hyperact", "serve", *flags]))
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        service = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        answer = act(address)
        run(programs / "hyperact", "health", "--address", address, cwd=tmp_path, environment=environment)
        service.send_signal(signal.SIGTERM)
        exit_code = service.wait(timeout=60)
    finally:
        service.kill()
        service.wait()

    assert answer.fallback
    assert 0.5 == answer.propensity
    assert 0 == exit_code, log.read_text()
