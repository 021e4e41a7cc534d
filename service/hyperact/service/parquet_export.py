"""The log as Parquet: `steps.parquet` and `reports.parquet`, one row an entry, for any tool that reads tables.

A tensor is three columns: its bytes (row-major, little-endian), its dtype in NumPy's words, and its shape. What was
absent is null. Times are UTC, to the microsecond.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from hyperact.v1.decision_pb2 import Outcome, Report, Step, StepId
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.tensor_pb2 import Tensor
from hyperact.v1.tensors import to_array

row_group_bytes = 32 << 20
row_group_rows = 65536
_time = pa.timestamp("us", tz="UTC")
_shape = pa.list_(pa.uint32())
_id_fields = [
    ("partition", pa.string()),
    ("offset", pa.uint64()),
    ("model", pa.string()),
    ("session", pa.string()),
    ("run", pa.string()),
    ("episode", pa.uint64()),
    ("number", pa.uint64()),
    ("time", _time),
]


def _tensor_fields(name: str) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.binary()), (f"{name}_dtype", pa.string()), (f"{name}_shape", _shape)]


def _outcome_fields(prefix: str) -> list[tuple[str, pa.DataType]]:
    return [
        (f"{prefix}reward", pa.float64()),
        (f"{prefix}terminated", pa.bool_()),
        (f"{prefix}truncated", pa.bool_()),
        *_tensor_fields(f"{prefix}final_observation"),
    ]


step_schema = pa.schema(
    [
        *_id_fields,
        *_tensor_fields("observation"),
        ("action", pa.uint32()),
        ("action_mask", pa.binary()),
        ("version", pa.string()),
        ("deployment", pa.uint64()),
        ("propensity", pa.float32()),
        ("margin", pa.float32()),
        ("segment", pa.uint64()),
        ("evaluation", pa.bool_()),
        ("fallback", pa.bool_()),
        ("repinned", pa.bool_()),
        ("previous_episode", pa.uint64()),
        ("previous_number", pa.uint64()),
        *_outcome_fields("previous_"),
    ]
)
report_schema = pa.schema([*_id_fields, ("report_id", pa.string()), *_outcome_fields("")])


@dataclass(slots=True)
class _TableFile:
    """One file that takes rows and writes them in groups. It has its name only when it is whole."""

    path: Path
    schema: pa.Schema
    num_rows: int = 0
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _num_bytes: int = 0
    _writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], num_bytes: int) -> None:
        """Take a row of about so many bytes."""
        self._rows.append(row)
        self._num_bytes += num_bytes
        self.num_rows += 1
        if len(self._rows) >= row_group_rows or self._num_bytes >= row_group_bytes:
            self._flush()

    def _flush(self) -> None:
        assert self._writer is not None
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self.schema))
        self._rows, self._num_bytes = [], 0

    @property
    def _partial(self) -> Path:
        return self.path.with_suffix(".partial")

    def __enter__(self) -> Self:
        self._writer = pq.ParquetWriter(self._partial, self.schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        if kind is None:
            self._flush()
        self._writer.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink()


def write_parquet(
    messages: Iterable[Sequence[LogEntry]], directory: Path, advance: Callable[[int], None] = lambda _: None
) -> tuple[int, int]:
    """Write entries as tables under a directory; return the numbers of steps and reports."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        _TableFile(directory / "steps.parquet", step_schema) as steps,
        _TableFile(directory / "reports.parquet", report_schema) as reports,
    ):
        for entries in messages:
            for entry in entries:
                if entry.HasField("step"):
                    steps.add(_step_row(entry, entry.step), len(entry.step.observation.data) + 256)
                else:
                    reports.add(_report_row(entry, entry.report), 256)
            advance(len(entries))
    return steps.num_rows, reports.num_rows


def _step_row(entry: LogEntry, step: Step) -> dict[str, Any]:
    has_previous = step.HasField("previous_position")
    return {
        **_ids(entry, step.step_id, step.time.ToMicroseconds()),
        **_tensor("observation", step.observation),
        "action": step.action,
        "action_mask": step.action_mask or None,
        "version": step.version or None,
        "deployment": step.deployment or None,
        "propensity": step.propensity,
        "margin": step.margin,
        "segment": step.segment,
        "evaluation": step.evaluation,
        "fallback": step.fallback,
        "repinned": step.repinned,
        "previous_episode": step.previous_position.episode if has_previous else None,
        "previous_number": step.previous_position.number if has_previous else None,
        **(_outcome("previous_", step.previous_outcome) if has_previous else {}),
    }


def _report_row(entry: LogEntry, report: Report) -> dict[str, Any]:
    return {
        **_ids(entry, report.step_id, report.time.ToMicroseconds()),
        "report_id": report.report_id,
        **_outcome("", report.outcome),
    }


def _ids(entry: LogEntry, step_id: StepId, time_us: int) -> dict[str, Any]:
    return {
        "partition": entry.partition,
        "offset": entry.offset,
        "model": step_id.model,
        "session": step_id.session,
        "run": step_id.run,
        "episode": step_id.episode,
        "number": step_id.number,
        "time": time_us,
    }


def _outcome(prefix: str, outcome: Outcome) -> dict[str, Any]:
    row = {
        f"{prefix}reward": outcome.reward if outcome.HasField("reward") else None,
        f"{prefix}terminated": outcome.terminated,
        f"{prefix}truncated": outcome.truncated,
    }
    if outcome.HasField("final_observation"):
        row |= _tensor(f"{prefix}final_observation", outcome.final_observation)
    return row


def _tensor(name: str, tensor: Tensor) -> dict[str, Any]:
    return {name: tensor.data, f"{name}_dtype": str(to_array(tensor).dtype), f"{name}_shape": list(tensor.shape)}
