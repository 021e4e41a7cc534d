"""`hyperact audit`: table, exit code and CSV; one step explained in text and picture; from files and over gRPC."""

import asyncio
import csv
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pydantic import SecretStr

import toys
from hyperact.service.audit_command import audit
from hyperact.service.audit_settings import AuditSettings
from hyperact.v1.decision_pb2 import ActRequest, Outcome, Step
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.deployment_pb2 import ReloadRequest
from hyperact.v1.deployment_pb2_grpc import DeploymentServiceStub
from hyperact.v1.steps import to_key
from hyperact.v1.tensors import to_tensor
from toy_audits import changed_copy, play_for_audit, read_log
from toy_serve import serve
from toy_worker import make_request, registry_with_version, running

png_signature = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A worker's log of 75 steps."""
    made = tmp_path_factory.mktemp("audit") / "data"
    play_for_audit(made)
    return made


def tampered(data_dir: Path, target: Path) -> Path:
    """Return a copy of a log in which the action of one step of version 1 is another."""

    def flip(steps: list[Step]) -> None:
        step = next(step for step in steps if step.version == "1" and step.step_id.number == 3)
        step.action = (step.action + 1) % 4

    return changed_copy(data_dir, target, flip)


class TestGrading:
    def test_a_clean_log_is_a_table_and_exit_code_0(
        self, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One row a version, and nothing to look at in the CSV."""
        code = audit(AuditSettings(data_dir=data_dir, csv=tmp_path / "a.csv"))

        out = capsys.readouterr().out
        rows = [line.replace("│", " ").split() for line in out.splitlines() if "│" in line]
        assert 0 == code
        assert ["fallback", "3", "0", "3", "0", "0", "0", "0"] in rows
        assert ["all", "75", "4", "75", "0", "0", "0", "0"] in rows
        assert 1 == len((tmp_path / "a.csv").read_text().splitlines())

    def test_a_tampered_step_is_told_and_exit_code_1(
        self, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """On the screen in words, in the CSV with both decisions, and for a script by the code."""
        copy = tampered(data_dir, tmp_path / "copy")

        code = audit(AuditSettings(data_dir=copy))

        out = capsys.readouterr().out
        with (copy / "audits" / "audit.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert 1 == code
        assert f"mismatch  {row['step_id']}  action: logged {row['logged_action']}" in out
        assert ("1", "mismatch") == (row["version"], row["grade"])
        assert row["logged_action"] != row["computed_action"]

    def test_what_cannot_be_computed_is_exit_code_4(self, data_dir: Path, tmp_path: Path) -> None:
        """A script that guards a log must not take silence for agreement."""
        assert 4 == audit(AuditSettings(data_dir=data_dir, index_key=SecretStr("ab" * 32), csv=tmp_path / "a.csv"))

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"model": "other"}, "there are no steps of model 'other'"),
            ({"index_key_file": "nowhere.key"}, "there is no nowhere.key: name the index key"),
            ({"index_key": "short"}, "index_key: expected hexadecimal digits"),
            ({"tracking_uri": "sqlite:////nowhere/at/all.db"}, "there is no registry"),
            ({"address": "127.0.0.1:1"}, "127.0.0.1:1: UNAVAILABLE"),
            ({"step_id": "nonsense"}, "expected model/session/run/episode/number"),
            ({"step_id": "default/nobody/r/0/0"}, "is not in the log"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(
        self, data_dir: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], words: str
    ) -> None:
        """No traceback, and nothing is made in passing."""
        code = audit(AuditSettings(**{"data_dir": data_dir, **settings}))

        error = capsys.readouterr().err
        assert 1 == code
        assert words in error
        assert 1 == error.count("\n")

    def test_without_a_key_none_is_made(self, data_dir: Path, tmp_path: Path) -> None:
        """A new key would make every decision look wrong."""
        copy = changed_copy(data_dir, tmp_path / "copy", lambda steps: None)
        (copy / "keys" / "index.key").unlink()

        code = audit(AuditSettings(data_dir=copy))

        assert 1 == code
        assert not (copy / "keys" / "index.key").exists()


class TestOverGrpc:
    async def test_a_services_log_is_read_where_it_is(self, data_dir: Path, tmp_path: Path) -> None:
        """An auditor with the key and the registry needs no shared disk."""
        copy = await asyncio.to_thread(changed_copy, data_dir, tmp_path / "copy", lambda steps: None)
        entries = await asyncio.to_thread(read_log, copy)
        step = str(to_key(entries[-1].step.step_id))
        async with running(copy) as service:
            settings: dict[str, Any] = {
                "address": service.address,
                "data_dir": tmp_path / "auditor",
                "tracking_uri": f"sqlite:///{copy / 'mlflow.db'}",
                "index_key_file": str(copy / "keys" / "index.key"),
            }
            graded = await asyncio.to_thread(audit, AuditSettings(**settings, from_="5"))
            explained = await asyncio.to_thread(audit, AuditSettings(**settings, step_id=step))

        assert (0, 0) == (graded, explained)


class TestExplaining:
    def test_a_decision_is_told_in_numbers_and_drawn(
        self, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What was seen, how each action stood, the index, how close the call was, and where the version is from."""
        step = next(entry.step for entry in read_log(data_dir) if entry.step.version == "2" and not entry.step.repinned)
        picture = tmp_path / "folder" / "step.png"

        code = audit(AuditSettings(data_dir=data_dir, step_id=str(to_key(step.step_id)), picture=picture))

        out = capsys.readouterr().out
        table = [line.replace("│", " ").split() for line in out.splitlines() if "│" in line]
        taken = next(row for row in table if "taken" in row)
        second = next(row for row in table if "second" in row)
        assert 0 == code
        assert "exact: computed again, it is the same to the last bit" in out
        assert "observation float32 [3]" in out
        assert f"Under this index action {step.action} beat action {second[0]} by {step.margin:.4g}" in out
        assert [str(step.action), f"{step.propensity:.1%}"] == [taken[0], taken[3]]
        assert pytest.approx(step.margin, abs=2e-3) == float(taken[4]) - float(second[4])
        assert "gaussian, 3 numbers:" in out
        assert ["2", "untrained"] in table
        assert picture.read_bytes().startswith(png_signature)

    def test_one_that_was_tampered_with_says_so(
        self, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The action that the version would have taken is there to compare."""
        copy = tampered(data_dir, tmp_path / "copy")
        step = next(
            entry.step for entry in read_log(copy) if entry.step.version == "1" and entry.step.step_id.number == 3
        )

        code = audit(AuditSettings(data_dir=copy, step_id=str(to_key(step.step_id))))

        out = capsys.readouterr().out
        assert 1 == code
        assert "mismatch: computed again, it is not what was logged" in out
        assert "would have lost to action" in out

    def test_the_fallbacks_says_that_nothing_was_weighed(
        self, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """There is no version, no index and no value."""
        step = next(entry.step for entry in read_log(data_dir) if entry.step.fallback)

        code = audit(AuditSettings(data_dir=data_dir, step_id=str(to_key(step.step_id))))

        out = capsys.readouterr().out
        assert 0 == code
        assert "by the uniform fallback" in out
        assert "Nothing was weighed: every allowed action had the same probability, 0.25." in out

    def test_one_of_another_key_tells_what_the_log_says(
        self, data_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What cannot be computed is not shown as if it were."""
        step = next(entry.step for entry in read_log(data_dir) if entry.step.version == "1")

        other_key = SecretStr("ab" * 32)
        code = audit(AuditSettings(data_dir=data_dir, step_id=str(to_key(step.step_id)), index_key=other_key))

        out = capsys.readouterr().out
        assert 4 == code
        assert f"The log says: margin {step.margin:.6g}, propensity {step.propensity:.6g}." in out
        assert "value under this index" not in out

    def test_without_matplotlib_the_text_stands_alone(
        self, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A service image explains too, and says what a picture would need."""
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        step = read_log(data_dir)[-1].step

        code = audit(AuditSettings(data_dir=data_dir, step_id=str(to_key(step.step_id))))

        out = capsys.readouterr().out
        assert 0 == code
        assert "no picture, for it needs matplotlib.figure: pip install 'hyperact[audit]'" in out

    @pytest.mark.parametrize(
        ("shape", "dtype", "num_actions", "words"),
        [
            ((), np.float64, 2, "observation float64 []"),
            ((40,), np.float32, 1, "Only one action was allowed."),
            ((20, 20), np.uint8, 2, "observation uint8 [20, 20]"),
            ((4, 84, 84), np.uint8, 30, "shown: the last of 4 planes"),
            ((64, 48, 3), np.float32, 3, "observation float32 [64, 48, 3]"),
            ((2, 3, 4, 5), np.int32, 3, "observation int32 [2, 3, 4, 5]"),
            ((6, 7), np.bool_, 3, "observation bool [6, 7]"),
        ],
    )
    async def test_observations_of_any_shape_can_be_looked_at(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        shape: tuple[int, ...],
        dtype: Any,
        num_actions: int,
        words: str,
    ) -> None:
        """Scalars, vectors, grids, stacks of frames, colours, and what is none of these."""
        registry_with_version(tmp_path, observation_shape=shape, observation_dtype=dtype, num_actions=num_actions)
        observation = (np.random.default_rng(0).random(shape) * 5).astype(dtype)
        async with running(tmp_path) as service:
            request = ActRequest(session="$a_b$", run="r", observation=to_tensor(np.asarray(observation)))
            answer = await service.decision.Act(request)
        step = str(to_key(answer.step_id))

        code = await asyncio.to_thread(
            audit, AuditSettings(data_dir=tmp_path, step_id=step, picture=tmp_path / "p.png")
        )

        assert 0 == code
        assert words in capsys.readouterr().out
        assert (tmp_path / "p.png").read_bytes().startswith(png_signature)


def test_a_real_service_with_a_kill_and_a_re_pin_audits_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three versions, SIGKILL in mid-episode and episodes that outlive their version: every decision is exact."""
    uri = registry_with_version(tmp_path, num_actions=3, hidden_sizes=(16,))
    tokens = dict.fromkeys([f"agent-{number}" for number in range(6)], b"")

    def act(address: str, num_steps: int) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = DecisionServiceStub(channel)
            for number in range(num_steps):
                for session, token in tokens.items():
                    outcome = Outcome(reward=1, terminated=number == 5) if token else None
                    request = make_request(session, number, token=token, outcome=outcome)
                    tokens[session] = stub.Act(request, timeout=20, wait_for_ready=True).token

    def deploy(seed: int, address: str) -> None:
        toys.toy_version(tmp_path / "toys" / str(seed), seed=seed, num_actions=3, hidden_sizes=(16,))
        toys.register(uri, tmp_path / "toys" / str(seed), alias="champion")
        with grpc.insecure_channel(address) as channel:
            DeploymentServiceStub(channel).Reload(ReloadRequest(), timeout=20)

    flags = ("--durability", "process", "--poll-seconds", "600")
    with serve(tmp_path, *flags) as served:
        address = served.wait_for("serving")["address"]
        act(address, 8)
        deploy(11, address)
        act(address, 8)
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
    with serve(tmp_path, *flags, "--drain-deadline-seconds", "0") as served:
        address = served.wait_for("serving")["address"]
        act(address, 3)
        deploy(12, address)
        act(address, 8)

    code = audit(AuditSettings(data_dir=tmp_path))

    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert 0 == code
    assert {"1", "2", "3", "all"} == {row[0] for row in rows}
    assert ["all", "162", "6", "162", "0", "0", "0", "0"] in rows
