"""An explanation as text: what a person reads in a terminal."""

import math
from typing import Any

from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hyperact.service.audit import Grade
from hyperact.service.audit_tables import style_of_grade
from hyperact.service.explanation import ActionView, Explanation
from hyperact.service.lineage import Ancestor
from hyperact.service.tables import local_time
from hyperact.service.thumbnails import to_brightness, to_planes, to_shade
from hyperact.v1.deployments import observed
from hyperact.v1.model_pb2 import ReferenceDistribution
from hyperact.v1.steps import to_key

max_actions_shown = 20
max_numbers_shown = 16
meaning_of_grade = {
    Grade.EXACT: "computed again, it is the same to the last bit",
    Grade.WITHIN_TOLERANCE: "computed again, it is the same but for rounding",
    Grade.TIE: "computed again, another action is as good but for rounding",
    Grade.MISMATCH: "computed again, it is not what was logged",
    Grade.NOT_REPRODUCIBLE: "it cannot be computed again",
}


def explanation_view(explanation: Explanation) -> RenderableType:
    """Return the whole explanation."""
    step, finding = explanation.step, explanation.finding
    style = style_of_grade[finding.grade]
    planes = to_planes(explanation.observation)
    parts: list[RenderableType] = [
        f"[bold]{escape(str(to_key(step.step_id)))}[/]",
        f"{local_time(step.time)}  {escape(decided_by(explanation))}",
        f"[{style}]{finding.grade}[/]: {meaning_of_grade[finding.grade]}"
        + (f" ({escape(finding.detail)})" if finding.detail else ""),
        "",
        escape(observation_line(explanation)),
        _framed(planes[-1]),
    ]
    if explanation.actions:
        parts += ["", _actions_table(explanation)]
    parts += ["", *(escape(line) for line in closeness_lines(explanation)), "", escape(index_line(explanation))]
    if explanation.lineage:
        parts += ["", _lineage_table(explanation)]
    return Group(*parts)


def decided_by(explanation: Explanation) -> str:
    """Return who decided, in a line."""
    step = explanation.step
    marks = [word for word, is_so in (("evaluation", step.evaluation), ("re-pinned here", step.repinned)) if is_so]
    who = f"version {step.version}, deployment {step.deployment}" if step.version else "the uniform fallback"
    entry = explanation.deployment
    actor = f" by {entry.actor}" if entry is not None and entry.actor != observed else ""
    by = f" (in service since {local_time(entry.time)}{actor})" if entry is not None else ""
    return ", ".join([f"action {step.action} by {who}{by}", *marks])


def observation_line(explanation: Explanation) -> str:
    """Return dtype, shape and range of the observation, and which part of it is shown."""
    array = explanation.observation
    num_planes = len(to_planes(array))
    shown = f"; shown: the last of {num_planes} planes" if num_planes > 1 else ""
    return f"observation {array.dtype.name} {list(array.shape)}, from {array.min():.6g} to {array.max():.6g}{shown}"


def closeness_lines(explanation: Explanation) -> list[str]:
    """Return how close the call was."""
    step, duel = explanation.step, explanation.duel
    if not explanation.actions:
        return [f"The log says: margin {step.margin:.6g}, propensity {step.propensity:.6g}."]
    if not step.version:
        return [f"Nothing was weighed: every allowed action had the same probability, {step.propensity:.3g}."]
    if duel is None:
        return ["Only one action was allowed."]
    if duel.margin < 0:
        verb = f"would have lost to action {duel.other} by {-duel.margin:.4g}"
    else:
        verb = f"beat action {duel.other} by {duel.margin:.4g}"
    spread = f", {abs(duel.num_deviations):.2g} standard deviations of their difference" if duel.deviation else ""
    action = step.action
    lines = [
        f"Under this index action {action} {verb}{spread}.",
        f"Over all indices they differ by {duel.mean:.4g} ± {duel.deviation:.4g},",
        f"and action {action} is the better of the two under {percent(duel.probability)} of them.",
    ]
    if sum(view.is_allowed for view in explanation.actions) > 2:
        lines.append(f"It is the best of all under {percent(explanation.actions[action].probability)}.")
    return lines


def index_line(explanation: Explanation) -> str:
    """Return the index, or the indices of a rule that takes several, or their beginning."""
    step, index = explanation.step, explanation.index
    if not index.size:
        return "no index" if explanation.actions else "the index was not computed"
    name = ReferenceDistribution.Name(step.reference_distribution).removeprefix("REFERENCE_DISTRIBUTION_").lower()
    num_indices, index_dim = index.shape
    numbers = " ".join(f"{value:.3f}" for value in index.ravel()[:max_numbers_shown])
    more = f" … ({index.size - max_numbers_shown} more)" if index.size > max_numbers_shown else ""
    what = "index" if num_indices == 1 else f"{num_indices} indices"
    where = f"episode {step.step_id.episode}, segment {step.segment}"
    return f"{what} of {where}, {name.replace('_', ' ')}, {index_dim} numbers: {numbers}{more}"


def percent(probability: float) -> str:
    """Return a probability in percent; what is not quite 0 or 1 does not look so."""
    if 0.0 < probability < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= probability < 1.0 else f"{probability:.1%}"


def lineage_facts(ancestor: Ancestor) -> list[str]:
    """Return what is known of a version: when it was made, how long and from how much of the log it learned."""
    manifest = ancestor.manifest
    if manifest is None:
        return ["not in the registry"]
    num_entries = sum(extent.end_offset - extent.begin_offset for extent in manifest.dataset)
    facts = [f"made {local_time(manifest.create_time)}"] if manifest.HasField("create_time") else []
    facts.append(f"{manifest.num_learner_steps:,} learner steps" if manifest.num_learner_steps else "untrained")
    if num_entries:
        facts.append(f"up to {num_entries:,} log entries")
    return facts


def _framed(plane: NDArray[Any]) -> RenderableType:
    """Return an image in a frame; a few numbers are better read than seen."""
    if plane.size <= max_numbers_shown:
        return "  ".join(f"{value:.4g}" for value in plane.ravel().tolist())
    frame = Table(show_header=False, padding=0)
    frame.add_column(no_wrap=True)
    for row in to_brightness(plane):
        frame.add_row(Text.assemble(*(_cell(brightness) for brightness in row.tolist())))
    return frame


def _cell(brightness: float) -> tuple[str, str]:
    """Return a cell and its style: a terminal with colours shows the grey alone, paper and files the character."""
    grey = round(255 * brightness)
    return to_shade(brightness) * 2, f"rgb({grey},{grey},{grey}) on rgb({grey},{grey},{grey})"


def _actions_table(explanation: Explanation) -> Table:
    table = Table()
    for name in ("action", "mean", "deviation", "probability", "value under this index", ""):
        table.add_column(name, justify="left" if not name else "right")
    shown = explanation.ranked(max_actions_shown)
    for view in shown:
        style = "bold" if view.action == explanation.step.action else None if view.is_allowed else "dim"
        mean, deviation, value = (_number(number) for number in (view.mean, view.deviation, view.value))
        mark = _mark(view, explanation)
        table.add_row(str(view.action), mean, deviation, percent(view.probability), value, mark, style=style)
    if len(shown) < len(explanation.actions):
        table.caption = f"{len(shown)} of {len(explanation.actions)} actions"
    return table


def _number(number: float) -> str:
    return "-" if math.isnan(number) else f"{number:.4g}"


def _mark(view: ActionView, explanation: Explanation) -> str:
    if view.action == explanation.step.action:
        return "taken"
    if not view.is_allowed:
        return "forbidden"
    return "second" if explanation.duel is not None and view.action == explanation.duel.other else ""


def _lineage_table(explanation: Explanation) -> Table:
    table = Table(title="lineage", title_justify="left")
    for name in ("version", "what is known of it"):
        table.add_column(name)
    for ancestor in explanation.lineage:
        table.add_row(ancestor.version, ", ".join(lineage_facts(ancestor)))
    return table
