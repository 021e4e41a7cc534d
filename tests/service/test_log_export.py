"""Exports of the log: other people's tools read back what was logged."""

import asyncio
import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

import toy_entries
from hyperact.service.log_partition import removed_at_once
from hyperact.service.operation_settings import ExportFormat, LogAction, LogSettings
from hyperact.service.operations import log
from hyperact.service.step_log import Durability, StepLog
from hyperact.v1.decision_pb2 import Report, Step
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.tensors import to_tensor
from toy_steps import toy_report, toy_step


def write(data_dir: Path, records: Sequence[Step | Report]) -> None:
    async def append() -> None:
        step_log = StepLog.open(data_dir / "log", 0, Durability.PROCESS, min_free_bytes=0, max_queued_records=16384)
        await step_log.append(records)
        await step_log.close()

    asyncio.run(append())


def write_entries(data_dir: Path, entries: Sequence[LogEntry]) -> None:
    write(data_dir, [entry.step if entry.HasField("step") else entry.report for entry in entries])


def export(data_dir: Path, kind: ExportFormat, **settings: Any) -> int:
    return log(
        LogSettings(action=LogAction.EXPORT, data_dir=data_dir, format=kind, output=data_dir / "out", **settings)
    )


def episode(number: int, length: int, *, session: str = "agent", is_truncated: bool = False) -> list[LogEntry]:
    """Return an episode whose rewards count up from 1, with its end as a report."""
    later = [
        toy_entries.step(number, step, toy_entries.outcome(float(step)), session=session) for step in range(1, length)
    ]
    told = toy_entries.outcome(float(length), terminated=not is_truncated, truncated=is_truncated, final=-1.0)
    return [
        toy_entries.step(number, 0, session=session),
        *later,
        toy_entries.report(number, length - 1, told, session=session),
    ]


class TestParquet:
    def test_every_entry_is_a_row(self, tmp_path: Path) -> None:
        """With its observation, its time, and null for what was absent."""
        image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        steps = [toy_step(number, observation=image, evaluation=number == 2) for number in range(3)]
        steps[1].previous_outcome.reward = 0.5
        steps[1].previous_position.number = 0
        write(tmp_path, [*steps, toy_report(steps[2], reward=2.0)])

        assert 0 == export(tmp_path, ExportFormat.PARQUET)

        rows = pq.read_table(tmp_path / "out" / "steps.parquet").to_pylist()
        assert [0, 1, 2] == [row["number"] for row in rows]
        assert [False, False, True] == [row["evaluation"] for row in rows]
        assert [None, 0.5, None] == [row["previous_reward"] for row in rows]
        assert ["uint8"] * 3 == [row["observation_dtype"] for row in rows]
        observation = np.frombuffer(rows[0]["observation"], np.uint8).reshape(rows[0]["observation_shape"])
        np.testing.assert_array_equal(image, observation)
        assert [1_700_000_000, 1_700_000_001, 1_700_000_002] == [int(row["time"].timestamp()) for row in rows]
        (report,) = pq.read_table(tmp_path / "out" / "reports.parquet").to_pylist()
        assert (2, 2.0, "first", None) == (
            report["number"],
            report["reward"],
            report["report_id"],
            report["final_observation"],
        )

    def test_one_model_is_chosen(self, tmp_path: Path) -> None:
        """Of several that share a log."""
        write(tmp_path, [toy_step(0, model="a"), toy_step(1, model="b"), toy_step(2, model="a")])

        assert 0 == export(tmp_path, ExportFormat.PARQUET, model="a")

        assert [0, 2] == pq.read_table(tmp_path / "out" / "steps.parquet")["number"].to_pylist()

    def test_large_logs_are_written_in_groups(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Memory does not grow with the log."""
        monkeypatch.setattr("hyperact.service.parquet_export.row_group_rows", 100)
        write(tmp_path, [toy_step(number) for number in range(3 * removed_at_once)])

        export(tmp_path, ExportFormat.PARQUET)

        file = pq.ParquetFile(tmp_path / "out" / "steps.parquet")
        assert 3 * removed_at_once == file.metadata.num_rows
        assert file.num_row_groups > 10

    def test_an_export_that_fails_leaves_no_half_table(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A damaged log is not taken for a shorter one."""
        write(tmp_path, [toy_step(number) for number in range(10)])
        (tmp_path / "log" / "steps-0.sqlite").write_bytes(b"not a database" * 1000)

        assert 1 == export(tmp_path, ExportFormat.PARQUET)

        assert "not a database" in capsys.readouterr().err
        assert [] == list((tmp_path / "out").iterdir())


class TestMinari:
    @pytest.fixture(autouse=True)
    def _datasets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Minari looks for datasets where they were written."""
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))

    def test_minari_loads_the_ended_episodes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Observations with the true last one, actions, raw rewards and ends; all within the declared spaces."""
        write_entries(tmp_path, [*episode(0, 3), *episode(1, 5, is_truncated=True), *episode(2, 4)[:2]])

        assert 0 == export(tmp_path, ExportFormat.MINARI)

        dataset = minari.load_dataset("hyperact/default-v0")
        first, second = dataset.iterate_episodes()
        assert (2, 8) == (dataset.total_episodes, dataset.total_steps)
        assert "2 episodes, 8 steps" in capsys.readouterr().out
        np.testing.assert_array_equal([[0], [1], [2], [-1]], first.observations)
        np.testing.assert_array_equal([0, 1, 0], first.actions)
        np.testing.assert_array_equal([1.0, 2.0, 3.0], first.rewards)
        np.testing.assert_array_equal([False, False, True], first.terminations)
        np.testing.assert_array_equal([False] * 4 + [True], second.truncations)
        for found in (first, second):
            assert all(dataset.observation_space.contains(observation) for observation in found.observations)
            assert all(dataset.action_space.contains(int(action)) for action in found.actions)

    def test_propensities_and_names_come_along(self, tmp_path: Path) -> None:
        """What off-policy estimates need, and where an episode came from."""
        write_entries(tmp_path, episode(0, 3, session="diver"))

        export(tmp_path, ExportFormat.MINARI, dataset_id="mine/toy-v1")

        dataset = minari.load_dataset("mine/toy-v1")
        np.testing.assert_array_equal([[0.5], [0.5], [0.5], [0.0]], dataset[0].infos["propensity"])
        (metadata,) = dataset.storage.get_episode_metadata([0])
        assert {"session": "diver", "run": "run", "episode": 0, "version": "1"} == metadata["options"]

    def test_evaluation_and_unusable_episodes_are_left_out(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Another shape of observations (a fallback takes any) cannot stand in the same dataset, and is counted."""
        odd = episode(1, 2)
        for entry in odd[:2]:
            entry.step.observation.CopyFrom(to_tensor(np.zeros(7, np.float32)))
        measured = episode(2, 2)
        for entry in measured[:2]:
            entry.step.evaluation = True
        write_entries(tmp_path, [*episode(0, 2), *odd, *measured])

        export(tmp_path, ExportFormat.MINARI)

        assert 1 == minari.load_dataset("hyperact/default-v0").total_episodes
        assert "1 ended episodes left out" in capsys.readouterr().out

    def test_a_spec_decides_what_is_learned_from(self, tmp_path: Path) -> None:
        """One-shot agents with a reward window: every step is an episode, its rewards add up, a default stands."""
        spec = toy_entries.model_spec(toy_entries.one_shot, window_seconds=60, default_reward=-1.0)
        (tmp_path / "spec.json").write_text(json_format.MessageToJson(spec))
        reports = [
            toy_entries.report(0, 0, toy_entries.outcome(reward), f"r{reward}", seconds=1.0) for reward in (1.0, 2.0)
        ]
        write_entries(tmp_path, [toy_entries.step(0, 0), toy_entries.step(1, 0), *reports])

        export(tmp_path, ExportFormat.MINARI, spec=tmp_path / "spec.json")

        dataset = minari.load_dataset("hyperact/default-v0")
        assert [3.0, -1.0] == [float(found.rewards.sum()) for found in dataset.iterate_episodes()]
        assert 2 == dataset.action_space.n

    def test_images_come_back_as_they_were(self, tmp_path: Path) -> None:
        """No lossy compression."""
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(2)]
        entries = episode(0, 2)
        for entry, image in zip(entries[:2], images, strict=True):
            entry.step.observation.CopyFrom(to_tensor(image))
        entries[2].report.outcome.final_observation.CopyFrom(to_tensor(images[0]))
        write_entries(tmp_path, entries)

        export(tmp_path, ExportFormat.MINARI)

        np.testing.assert_array_equal([*images, images[0]], minari.load_dataset("hyperact/default-v0")[0].observations)

    @pytest.mark.parametrize(("model", "expected"), [("default", "there is a dataset"), ("none", "no step of model")])
    def test_what_cannot_be_written_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, expected: str
    ) -> None:
        """A dataset is not written over, and a wrong model makes no empty one."""
        write_entries(tmp_path, episode(0, 2))
        export(tmp_path, ExportFormat.MINARI)

        assert 1 == export(tmp_path, ExportFormat.MINARI, model=model)
        assert expected in capsys.readouterr().err


class TestWithoutTheExtra:
    def test_one_line_says_what_to_install(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The service's image has no Minari."""
        write(tmp_path, [toy_step(0)])
        real_import = builtins.__import__

        def without(name: str, *given: Any) -> Any:
            if name.startswith("hyperact.service.minari_export"):
                raise ModuleNotFoundError("No module named 'minari'", name="minari")
            return real_import(name, *given)

        monkeypatch.setattr(builtins, "__import__", without)

        assert 3 == export(tmp_path, ExportFormat.MINARI)
        assert "pip install 'hyperact[export]'" in capsys.readouterr().err
