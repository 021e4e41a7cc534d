"""What people see of the contract's messages: rich tables, and one line per log entry."""

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from hyperact.service.shadow_report import ShadowRow
from hyperact.v1.decision_pb2 import Outcome
from hyperact.v1.deployment_pb2 import (
    Deployment,
    DeploymentRole,
    GetStatusResponse,
    ModelStatus,
    VersionState,
    VersionStatus,
)
from hyperact.v1.deployments import role_of
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
    VersionState.VERSION_STATE_SHADOWING: "blue",
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
    for name in ("version", "state", "role", "deployment", "since", "pinned", "steps", "errors", "note"):
        is_number = name in ("deployment", "pinned", "steps", "errors")
        table.add_column(name, justify="right" if is_number else "left")
    for version in model.versions:
        style = _style_of_state.get(version.state, "")
        state = VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower()
        table.add_row(
            version.version,
            f"[{style}]{state}[/]" if style else state,
            _role(version.role),
            str(version.deployment or ""),
            local_time(version.since),
            str(version.num_pinned_episodes or ""),
            str(version.num_steps or ""),
            str(version.num_errors or ""),
            escape(_note(version)),
        )
    body: RenderableType = table if model.versions else f"{escape(model.model)} @ {escape(model.alias)}: no version yet"
    problem = [f"[red]registry: {escape(model.registry_problem)}[/]"] if model.registry_problem else []
    kill = [f"[red]{escape(_kill_line(model.kill))}[/]"] if model.HasField("kill") else []
    return Group(*kill, body, *problem)


def _kill_line(kill: Deployment) -> str:
    baseline = f"version {kill.to_version}" if kill.to_version else "uniformly random actions"
    return f"the kill switch stands since {local_time(kill.time)}, by {kill.actor}: {baseline}: {kill.reason}"


def _role(role: "DeploymentRole.ValueType") -> str:
    return DeploymentRole.Name(role).removeprefix("DEPLOYMENT_ROLE_").lower() if role else ""


def _note(version: VersionStatus) -> str:
    if version.problem:
        return version.problem
    if version.share:
        return f"{version.share:.1%} of sessions"
    if version.state == VersionState.VERSION_STATE_SHADOWING:
        agreed = f"agreed with {version.num_agreed / version.num_steps:.1%}" if version.num_steps else "no scores yet"
        return f"{agreed}, {version.num_dropped} dropped"
    return f"until {local_time(version.drain_deadline)}" if version.HasField("drain_deadline") else ""


def deployments_table(model: str, ledger: Sequence[Deployment]) -> Table:
    """Return the ledger, the newest last."""
    table = Table(title=f"deployments of {escape(model)}", title_justify="left")
    for name in ("#", "time", "who", "role", "version", "transitions", "episodes", "mean return", "gates and reason"):
        table.add_column(name, justify="right" if name in ("#", "transitions", "episodes", "mean return") else "left")
    for entry in ledger:
        table.add_row(
            str(entry.number),
            local_time(entry.time),
            escape(entry.actor),
            _role(role_of(entry)),
            f"{entry.from_version or '-'} → {_target(entry)}",
            str(entry.num_transitions or ""),
            str(entry.num_episodes or ""),
            f"{entry.mean_return:.4g}" if entry.HasField("mean_return") else "",
            escape(_remark(entry)),
        )
    return table


def _target(entry: Deployment) -> str:
    if entry.is_immediate and not entry.to_version:
        return "uniform"
    return entry.to_version or "-"


def _remark(entry: Deployment) -> str:
    """Return the gates' verdict and why it was done, if anybody said so."""
    parts = [
        "kill switch" if entry.is_immediate else "",
        f"{entry.share:.1%} of sessions" if entry.share else "",
        "forced" if entry.is_forced else "",
        entry.gate_report,
        f"because {entry.reason}" if entry.reason else "",
    ]
    return "; ".join(part for part in parts if part)


def shadow_table(model: str, rows: Sequence[ShadowRow]) -> Table:
    """Return what shadows would have done beside what was done."""
    table = Table(title=f"shadows of {escape(model)}", title_justify="left")
    for name in ("version", "steps", "agreed", "mean propensity", "of what was served"):
        table.add_column(name, justify="right")
    for row in rows:
        num = max(1, row.num_found)
        table.add_row(
            row.version,
            str(row.num_steps),
            f"{row.num_agreed / num:.1%}" if row.num_found else "-",
            f"{row.sum_propensity / num:.3f}" if row.num_found else "-",
            f"{row.sum_served_propensity / num:.3f}" if row.num_found else "-",
        )
    return table


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
