"""What people see of an audit."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from hyperact.service.audit import Grade
from hyperact.service.audit_report import AuditReport
from hyperact.service.auditor import Graded
from hyperact.v1.steps import to_key

style_of_grade = {
    Grade.EXACT: "green",
    Grade.WITHIN_TOLERANCE: "green",
    Grade.TIE: "yellow",
    Grade.MISMATCH: "red",
    Grade.NOT_REPRODUCIBLE: "magenta",
}


def audit_table(model: str, report: AuditReport) -> Table:
    """Return how many steps of each version have which grade."""
    table = Table(title=f"decisions of {escape(model)}, computed again", title_justify="left")
    table.add_column("version")
    for name in ("steps", "re-pinned", *Grade):
        table.add_column(name, justify="right")
    for version in report.versions:
        counts = [report.counts[version, grade] for grade in Grade]
        table.add_row(version or "fallback", *_thousands(sum(counts), report.num_repinned[version]), *_coloured(counts))
    totals = [report.count(grade) for grade in Grade]
    table.add_section()
    table.add_row("all", *_thousands(sum(totals), report.num_repinned.total()), *_coloured(totals))
    return table


def finding_line(graded: Graded) -> str:
    """Return one line on a step that is not exact."""
    finding, step = graded.finding, to_key(graded.entry.step.step_id)
    return f"[{style_of_grade[finding.grade]}]{finding.grade}[/]  {escape(str(step))}  {escape(finding.detail)}"


def _thousands(*numbers: int) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _coloured(counts: Sequence[int]) -> list[str]:
    """Return counts by grade, each in its grade's colour unless it is zero."""
    return [
        f"[{style_of_grade[grade]}]{count:,}[/]" if count else "0" for grade, count in zip(Grade, counts, strict=True)
    ]
