"""What people see of the contract's messages: rich tables, and one line per log entry."""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from hyperact.v1.decision_pb2 import Outcome
from hyperact.v1.deployment_pb2 import Deployment, GetStatusResponse, ModelStatus, VersionState, VersionStatus
from hyperact.v1.gates import Outcome as GateOutcome
from hyperact.v1.gates import Verdict
from hyperact.v1.log_pb2 import GetRangeResponse, LogEntry
from hyperact.v1.steps import to_key

piped_width = 200
_style_of_state = {
    VersionState.VERSION_STATE_SERVING: "green",
    VersionState.VERSION_STATE_LOADING: "cyan",
    VersionState.VERSION_STATE_DRAINING: "yellow",
    VersionState.VERSION_STATE_REFUSED: "red",
}
_style_of_outcome = {GateOutcome.PASSED: "green", GateOutcome.HELD: "red", GateOutcome.NOT_MEASURED: "dim"}


def make_console() -> Console:
    """Return a console on standard output; wide where nobody watches, so that no cell is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=piped_width)


def status_view(address: str, status: GetStatusResponse) -> RenderableType:
    """Return readiness, log, and a table of versions per model."""
    ready = "[green]ready[/]" if status.is_ready else f"[red]not ready: {escape(status.problem)}[/]"
    log = f"[red]{escape(status.log_problem)}[/]" if status.log_problem else "writable"
    lines: list[RenderableType] = [
        f"{address} is {ready}",
        f"log {log}, {status.num_logged_steps} steps since the start; {status.num_sessions} sessions",
    ]
    lines += [f"[red]damaged and set aside: {escape(name)}[/]" for name in status.log_set_aside]
    return Group(*lines, *(_model_view(model) for model in status.models))


def _model_view(model: ModelStatus) -> RenderableType:
    table = Table(title=f"{escape(model.model)} @ {escape(model.alias)}", title_justify="left")
    for name in ("version", "state", "deployment", "since", "pinned", "steps", "note"):
        table.add_column(name, justify="right" if name in ("deployment", "pinned", "steps") else "left")
    for version in model.versions:
        style = _style_of_state.get(version.state, "")
        state = VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower()
        table.add_row(
            version.version,
            f"[{style}]{state}[/]" if style else state,
            str(version.deployment or ""),
            local_time(version.since),
            str(version.num_pinned_episodes or ""),
            str(version.num_steps or ""),
            escape(_note(version)),
        )
    body: RenderableType = table if model.versions else f"{escape(model.model)} @ {escape(model.alias)}: no version yet"
    problem = [f"[red]registry: {escape(model.registry_problem)}[/]"] if model.registry_problem else []
    return Group(body, *problem)


def _note(version: VersionStatus) -> str:
    if version.problem:
        return version.problem
    return f"until {local_time(version.drain_deadline)}" if version.HasField("drain_deadline") else ""


def deployments_table(model: str, ledger: Sequence[Deployment]) -> Table:
    """Return the ledger, the newest last."""
    table = Table(title=f"deployments of {escape(model)}", title_justify="left")
    for name in ("#", "time", "who", "version", "transitions", "episodes", "mean return", "gates and reason"):
        table.add_column(name, justify="right" if name in ("#", "transitions", "episodes", "mean return") else "left")
    for entry in ledger:
        table.add_row(
            str(entry.number),
            local_time(entry.time),
            escape(entry.actor),
            f"{entry.from_version or '-'} → {entry.to_version}",
            str(entry.num_transitions or ""),
            str(entry.num_episodes or ""),
            f"{entry.mean_return:.4g}" if entry.HasField("mean_return") else "",
            escape(_remark(entry)),
        )
    return table


def _remark(entry: Deployment) -> str:
    """Return the gates' verdict and why it was done, if anybody said so."""
    parts = ["forced" if entry.is_forced else "", entry.gate_report, f"because {entry.reason}" if entry.reason else ""]
    return "; ".join(part for part in parts if part)


def gates_table(version: str, verdict: Verdict) -> Table:
    """Return what each gate said of a version."""
    table = Table(title=f"gates of version {escape(version)}", title_justify="left")
    for name in ("gate", "measured", "limit", "outcome"):
        table.add_column(name)
    for gate in verdict.gates:
        style = _style_of_outcome[gate.outcome]
        table.add_row(gate.name, escape(gate.measured), gate.limit or "-", f"[{style}]{gate.outcome}[/]")
    return table


def range_view(found: GetRangeResponse) -> RenderableType:
    """Return the partitions and the counts."""
    table = Table(title="partitions", title_justify="left")
    for name in ("partition", "first offset", "next offset"):
        table.add_column(name, justify="left" if name == "partition" else "right")
    for extent in found.ranges:
        table.add_row(extent.partition, str(extent.begin_offset), str(extent.end_offset))
    readers = [
        f"kept for {escape(reader.name)} since {local_time(reader.time)}: "
        + (", ".join(f"{place.partition} from {place.offset}" for place in reader.positions) or "everything")
        for reader in found.readers
    ]
    return Group(
        table,
        f"{found.num_steps} steps, {found.num_training_steps} of them to learn from; {found.num_reports} reports; "
        f"{found.num_dropped} dropped, {found.num_removed_steps + found.num_removed_reports} removed by retention",
        *(f"[red]partition {escape(partition)} was damaged and is set aside[/]" for partition in found.set_aside),
        *readers,
    )


def entry_line(entry: LogEntry) -> str:
    """Return one line on an entry, plain text."""
    if entry.WhichOneof("entry") == "report":
        report = entry.report
        parts = [local_time(report.time), "report", str(to_key(report.step_id)), _outcome(report.outcome)]
        return "  ".join(parts)
    step = entry.step
    marks = [name for name in ("evaluation", "fallback", "repinned") if getattr(step, name)]
    parts = [
        local_time(step.time),
        "step",
        str(to_key(step.step_id)),
        f"action {step.action}",
        f"version {step.version or '-'}",
        f"propensity {step.propensity:.3g}",
    ]
    if step.previous_outcome.HasField("reward"):
        parts.append(f"previous reward {step.previous_outcome.reward:g}")
    return "  ".join(parts + marks)


def _outcome(outcome: Outcome) -> str:
    parts = [f"reward {outcome.reward:g}"] if outcome.HasField("reward") else []
    parts += [name for name in ("terminated", "truncated") if getattr(outcome, name)]
    return " ".join(parts)


def local_time(time: Timestamp) -> str:
    """Return a time of this machine's time zone, to the second."""
    return datetime.fromtimestamp(time.ToNanoseconds() / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")
