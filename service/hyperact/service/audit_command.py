"""The command `hyperact audit`: every decision in a range graded, or one explained.

Answers go to standard output, progress and what went wrong to standard error. Exit codes: 0 if everything could be
computed again and agrees; 1 if something does not agree, or the audit could not be made; 4 if nothing disagrees but
something could not be computed again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyperact.service.audit import Grade, VersionJudge
from hyperact.service.audit_report import AuditReport
from hyperact.service.audit_settings import AuditSettings, parse_bound
from hyperact.service.audit_tables import audit_table, finding_line
from hyperact.service.auditor import Auditor
from hyperact.service.errors import DecisionError, RegistryUnavailableError
from hyperact.service.explanation import Explanation, explain
from hyperact.service.explanation_picture import draw_explanation
from hyperact.service.explanation_text import explanation_view
from hyperact.service.keys import load_index_key
from hyperact.service.lineage import trace
from hyperact.service.operations import fail, open_repository
from hyperact.service.repository import Repository
from hyperact.service.step_sources import LocalSteps, RemoteSteps, StepSource
from hyperact.service.tables import make_console
from hyperact.v1.errors import FieldError
from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.steps import StepKey, parse_step_id, step_digest

disagrees, not_computable = 1, 4


def audit(settings: AuditSettings) -> int:
    """Compute logged decisions again and grade each, or explain one."""
    try:
        return asyncio.run(_explain(settings)) if settings.step_id else _show(asyncio.run(grade(settings)), settings)
    except (DecisionError, RegistryUnavailableError, FieldError, OSError, ValueError) as error:
        return fail(str(error))


@contextlib.asynccontextmanager
async def _opened(settings: AuditSettings, model: str) -> AsyncIterator[tuple[Auditor, StepSource, Repository]]:
    """Give an auditor with what it reads from."""
    key = _load_key(settings)
    repository = open_repository(settings)
    source: StepSource = RemoteSteps(settings.address, settings) if settings.address else LocalSteps(settings.data_dir)
    auditor = Auditor(
        model,
        source,
        repository,
        key,
        tolerance=settings.tolerance,
        max_version_bytes=settings.max_version_bytes,
    )
    try:
        yield auditor, source, repository
    finally:
        auditor.close()
        await source.close()


def _load_key(settings: AuditSettings) -> bytes:
    try:
        return load_index_key(settings.index_key.get_secret_value(), settings.index_key_file, settings.data_dir)
    except FileNotFoundError as error:
        hint = "name the index key's file with --index-key-file, or set HYPERACT_INDEX_KEY"
        raise ValueError(f"there is no {error.filename}: {hint}") from error


async def grade(settings: AuditSettings) -> AuditReport:
    """Grade all steps in the range.

    Raises:
        ValueError: there are no steps, or the key is none.
        OSError: the key cannot be read, or the CSV not be written.
        UnavailableError: the log cannot be read, and RegistryUnavailableError: the registry.
    """
    report = AuditReport(settings.csv or settings.data_dir / "audits" / "audit.csv", settings.max_shown)
    begin, end = parse_bound(settings.from_), parse_bound(settings.to)
    async with _opened(settings, settings.model) as (auditor, source, _):
        found = await source.get_range(settings.model)
        if not found.num_steps:
            raise ValueError(f"there are no steps of model {settings.model!r} in the log")
        with report, _progress() as progress:
            task = progress.add_task("grading", total=found.num_steps)
            async for page in auditor.audit(begin, end):
                report.add(page)
                progress.advance(task, len(page))
    return report


def _show(report: AuditReport, settings: AuditSettings) -> int:
    """Print what came of an audit and return the exit code."""
    console = make_console()
    console.print(audit_table(settings.model, report))
    for graded in report.worst:
        console.print(finding_line(graded), soft_wrap=True)
    if report.count(Grade.EXACT) < report.counts.total():
        console.print(f"everything that is not exact: {escape(str(report.path))}", soft_wrap=True)
    if report.count(Grade.MISMATCH):
        return disagrees
    return not_computable if report.count(Grade.NOT_REPRODUCIBLE) else 0


async def _explain(settings: AuditSettings) -> int:
    step = parse_step_id(settings.step_id)
    async with _opened(settings, step.model) as (auditor, source, repository):
        entries = await source.find(step)
        if not entries:
            return fail(f"step {step} is not in the log")
        explanations = [await _explain_entry(entry, step, auditor, repository) for entry in entries]
    console = make_console()
    for explanation in explanations:
        console.print(explanation_view(explanation))
    console.print(_draw(settings, step, explanations[0]), soft_wrap=True)
    grades = {explanation.finding.grade for explanation in explanations}
    if Grade.MISMATCH in grades:
        return disagrees
    return not_computable if Grade.NOT_REPRODUCIBLE in grades else 0


async def _explain_entry(entry: LogEntry, step: StepKey, auditor: Auditor, repository: Repository) -> Explanation:
    version = entry.step.version
    graded = await auditor.examine(entry)
    judge = await auditor.find_judge(version) if version else None
    is_same = isinstance(judge, VersionJudge) and entry.step.version_digest in (b"", judge.hypermodel.digest)
    lineage = await trace(repository, step.model, version) if is_same else []
    ledger = (await repository.look(step.model)).ledger if version else []
    deployment = next((found for found in ledger if found.number == entry.step.deployment), None)
    return explain(entry, graded.finding, judge if isinstance(judge, VersionJudge) else None, lineage, deployment)


def _draw(settings: AuditSettings, step: StepKey, explanation: Explanation) -> str:
    """Draw the picture and return a line on it: where it is, or why there is none."""
    path = settings.picture or settings.data_dir / "audits" / f"{step_digest(step).hex()}.png"
    try:
        draw_explanation(path, explanation)
    except ModuleNotFoundError as error:
        return escape(f"no picture, for it needs {error.name}: pip install 'hyperact[audit]'")
    return f"picture: {escape(str(path))}"


def _progress() -> Progress:
    """Return a bar on standard error; none where nobody watches."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
