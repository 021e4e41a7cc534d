"""`hyperact serve` as a process: started, stopped, killed, with one worker and with several."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from hyperact.service import supervisor
from hyperact.service.settings import ServeSettings
from hyperact.v1.decision_pb2 import Outcome, Position
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.log_pb2 import ReadRequest
from hyperact.v1.log_pb2_grpc import LogServiceStub
from toy_serve import serve
from toy_worker import make_request, registry_with_version


def test_sigterm_finishes_what_is_in_work_and_loses_nothing(tmp_path: Path) -> None:
    """A rolling update: acknowledged steps are in the log, late callers are sent elsewhere, the exit code is 0."""
    registry_with_version(tmp_path)
    with serve(tmp_path) as served:
        address = served.wait_for("serving")["address"]
        acknowledged, codes = 0, set()
        with grpc.insecure_channel(address) as channel:
            stub = DecisionServiceStub(channel)
            flights = [stub.Act.future(make_request(f"agent-{n}")) for n in range(200)]
            stub.Act(make_request("marker"), timeout=20)
            served.process.send_signal(signal.SIGTERM)
            for flight in flights:
                if flight.code() is grpc.StatusCode.OK:
                    acknowledged += 1
                codes.add(flight.code())
        exit_code = served.end()

    with serve(tmp_path) as served:
        address = served.wait_for("serving")["address"]
        with grpc.insecure_channel(address) as channel:
            entries = [entry for page in LogServiceStub(channel).Read(ReadRequest()) for entry in page.entries]

    assert 0 == exit_code
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert acknowledged + 1 <= len(entries) <= 201
    assert len(entries) == len({entry.step.step_id.session for entry in entries})


def test_sigterm_while_it_starts_is_heard(tmp_path: Path) -> None:
    """The handlers stand before any model is loaded: a stop is never answered by a traceback."""
    registry_with_version(tmp_path)
    with serve(tmp_path) as served:
        time.sleep(0.8)
        served.process.send_signal(signal.SIGTERM)
        code = served.end()

    # Before the interpreter has come to our code, the system's own handler ends the process.
    assert code in (0, -signal.SIGTERM)
    assert not any("exception" in line for line in served.lines)


def test_a_kill_loses_no_acknowledged_step(tmp_path: Path) -> None:
    """SIGKILL in the middle, a restart, and the session goes on: every acknowledged step is in the log once."""
    registry_with_version(tmp_path)
    token = b""
    with serve(tmp_path, "--durability", "process") as served:
        address = served.wait_for("serving")["address"]
        with grpc.insecure_channel(address) as channel:
            stub = DecisionServiceStub(channel)
            for number in range(20):
                answer = stub.Act(make_request(number=number, token=token, run="r"), timeout=20)
                token = answer.token
        served.process.kill()
        served.process.wait()

    with serve(tmp_path) as served:
        address = served.wait_for("serving")["address"]
        with grpc.insecure_channel(address) as channel:
            stub = DecisionServiceStub(channel)
            repeated = stub.Act(make_request(number=0, run="r", position=Position()), timeout=20)
            end = Outcome(reward=1, terminated=True)
            following = stub.Act(make_request(number=20, token=token, outcome=end), timeout=20)
            entries = [entry for page in LogServiceStub(channel).Read(ReadRequest()) for entry in page.entries]

    places = [(entry.step.step_id.episode, entry.step.step_id.number) for entry in entries]
    assert [(0, number) for number in range(20)] + [(1, 0)] == sorted(places)
    assert (0, 0) == (repeated.step_id.episode, repeated.step_id.number)
    assert (1, 0) == (following.step_id.episode, following.step_id.number)


def test_workers_share_the_address_and_are_restarted(tmp_path: Path) -> None:
    """One process per core behind one port; one that dies is replaced, and all of them stop at a signal."""
    registry_with_version(tmp_path)
    with serve(tmp_path, "--workers", "2") as served:
        supervising = served.wait_for("supervising")
        starts = [served.wait_for("serving") for _ in range(2)]
        os.kill(supervising["pids"][0], signal.SIGKILL)
        restarted = served.wait_for("serving")
        for number in range(8):
            options = (("grpc.use_local_subchannel_pool", 1),)
            with grpc.insecure_channel(supervising["address"], options) as channel:
                DecisionServiceStub(channel).Act(make_request(f"agent-{number}"), timeout=20, wait_for_ready=True)
        served.process.send_signal(signal.SIGTERM)
        code = served.end()

    assert {supervising["address"]} == {line["address"] for line in (*starts, restarted)}
    assert {0, 1} == {line["worker"] for line in starts}
    assert (0, starts[0]["partition"] if starts[0]["worker"] == 0 else starts[1]["partition"]) == (
        restarted["worker"],
        restarted["partition"],
    )
    assert 0 == code


def give_up(settings: ServeSettings, worker: int) -> int:
    """Be a worker that cannot start."""
    return 1


def test_a_worker_that_gives_up_ends_the_start_but_not_a_service_that_runs(tmp_path: Path) -> None:
    """Wrong settings stay wrong. A worker that comes back to a full disk must not take the healthy ones with it."""
    settings = ServeSettings.model_validate({"data_dir": tmp_path})
    first = supervisor._spawn(give_up, settings, 0)
    first.join()
    workers = {0: first}

    assert supervisor._restart_dead(workers, give_up, settings, [], is_starting=True)
    assert {0: first} == workers
    assert not supervisor._restart_dead(workers, give_up, settings, [], is_starting=False)
    assert workers[0] is not first
    workers[0].join()


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        (("--address", "0.0.0.0:0"), 2, "allow_remote"),
        (("--address", "nonsense"), 2, "HOST:PORT"),
        (("--index-key", "short"), 1, "index_key"),
        (("--no-such-setting", "1"), 2, "no-such-setting"),
    ],
)
def test_what_cannot_be_served_is_said_in_words(
    tmp_path: Path, arguments: tuple[str, ...], expected: int, words: str
) -> None:
    """A wrong setting ends the start with its name, not with a traceback."""
    found = subprocess.run(
        [sys.executable, "-m", "hyperact.service", "--data-dir", str(tmp_path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert expected == found.returncode
    assert words in found.stderr
    assert "Traceback" not in found.stderr
