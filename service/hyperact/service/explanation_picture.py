"""An explanation as a picture: what the agent saw, how each action stood, the index, and where the version comes from.

matplotlib is imported only when a picture is drawn.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperact.service.audit import Grade
from hyperact.service.explanation import ActionView, Explanation
from hyperact.service.explanation_text import (
    closeness_lines,
    decided_by,
    lineage_facts,
    meaning_of_grade,
    observation_line,
    percent,
)
from hyperact.service.thumbnails import to_planes
from hyperact.v1.steps import to_key

max_actions_drawn = 12
max_planes_drawn = 4
max_ancestors_drawn = 6
line_inches = 0.25
taken_colour, second_colour, other_colour, forbidden_colour = "#1b6ca8", "#e08214", "#8c8c8c", "#d9d9d9"
_colour_of_grade = {
    Grade.EXACT: "#2a7f3e",
    Grade.WITHIN_TOLERANCE: "#2a7f3e",
    Grade.TIE: "#b8860b",
    Grade.MISMATCH: "#b22222",
    Grade.NOT_REPRODUCIBLE: "#7b3294",
}


def draw_explanation(path: Path, explanation: Explanation) -> None:
    """Write the picture. ModuleNotFoundError if matplotlib is not installed, OSError if it cannot be written."""
    from matplotlib.figure import Figure

    shown = explanation.ranked(max_actions_drawn)
    lines = _foot_lines(explanation)
    heights = [1.0, 3.4 + 0.24 * max(0, len(shown) - 4), max(2.2, line_inches * (len(lines) + 0.5))]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=heights)
    head, body, foot = (figure.add_subfigure(grid[place]) for place in range(3))
    _draw_head(head, explanation)
    left, right = _halves(body)
    _draw_observation(left, explanation)
    _draw_actions(right, explanation, shown)
    left, right = _halves(foot)
    _draw_index(left, explanation)
    _draw_lines(right, lines, heights[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140, facecolor="white")


def _halves(figure: Any) -> tuple[Any, Any]:
    """Return a figure's left and right part."""
    grid = figure.add_gridspec(1, 2, width_ratios=[1.0, 1.9])
    return figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])


def _draw_head(figure: Any, explanation: Explanation) -> None:
    grade = explanation.finding.grade
    name = _cut(str(to_key(explanation.step.step_id)), 88)
    figure.text(0.012, 0.74, _plain(name), fontsize=13, fontweight="bold", va="center")
    figure.text(0.012, 0.40, _plain(_cut(decided_by(explanation), 130)), fontsize=10, va="center")
    colour = _colour_of_grade[grade]
    figure.text(0.012, 0.10, f"{grade}: {meaning_of_grade[grade]}", fontsize=10, va="center", color=colour)


def _draw_observation(figure: Any, explanation: Explanation) -> None:
    planes = to_planes(explanation.observation)[-max_planes_drawn:]
    figure.suptitle(textwrap.fill(observation_line(explanation).split(";")[0], 56), fontsize=9)
    if explanation.observation.ndim <= 1:
        axes = figure.subplots()
        values = np.atleast_1d(explanation.observation).astype(np.float64)
        axes.bar(range(len(values)), values, color=taken_colour, width=0.8)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xlabel("component", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _plain_axes(axes)
        return
    num_columns = min(2, len(planes))
    grid = figure.subplots(-(-len(planes) // num_columns), num_columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for place, plane in enumerate(planes):
        axes = grid[place]
        axes.set_axis_on()
        axes.imshow(_to_image(plane), cmap="gray", interpolation="nearest", aspect="equal")
        axes.set(xticks=[], yticks=[])
        if len(planes) > 1:
            axes.set_title("newest" if place == len(planes) - 1 else f"{len(planes) - 1 - place} before", fontsize=8)


def _draw_actions(figure: Any, explanation: Explanation, shown: Sequence[ActionView]) -> None:
    """Draw each action's value over all indices and under this one, and its probability beside it."""
    if not shown:
        message = "\n".join(textwrap.wrap(f"not reproducible: {explanation.finding.detail}", 60))
        figure.text(0.5, 0.5, _plain(message), ha="center", va="center", fontsize=10)
        return
    places = np.arange(len(shown))
    colours = [_colour(view, explanation) for view in shown]
    has_values = bool(explanation.step.version)
    widths = [2, 1] if has_values else [1]
    grid = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)
    if has_values:
        _draw_values(grid[0, 0], shown, places, colours)
    axes = grid[0, -1]
    axes.barh(places, [view.probability for view in shown], color=colours, height=0.6)
    for place, view in zip(places, shown, strict=True):
        axes.text(view.probability + 0.02, place, percent(view.probability), va="center", fontsize=8)
    axes.set_xlim(0, 1.22)
    axes.set_xticks([0, 0.5, 1])
    axes.set_title("probability over all indices", fontsize=9)
    first = grid[0, 0]
    first.set_yticks(places, [_label(view, explanation) for view in shown], fontsize=9)
    first.set_ylim(len(shown) - 0.5, -0.5)
    for one in grid[0]:
        _plain_axes(one)
    if len(shown) < len(explanation.actions):
        axes.set_xlabel(f"{len(shown)} of {len(explanation.actions)} actions", fontsize=8)


def _draw_values(axes: Any, shown: Sequence[ActionView], places: Any, colours: list[str]) -> None:
    means, deviations = (np.array([getattr(view, name) for view in shown]) for name in ("mean", "deviation"))
    axes.hlines(places, means - 2 * deviations, means + 2 * deviations, color=colours, linewidth=1.4, alpha=0.7)
    axes.hlines(places, means - deviations, means + deviations, color=colours, linewidth=7, alpha=0.45)
    axes.scatter(means, places, marker="|", s=150, color="black", linewidth=1.4, zorder=3, label="mean")
    values = [view.value for view in shown]
    axes.scatter(values, places, marker="D", s=42, c=colours, edgecolor="black", zorder=4, label="under this index")
    axes.set_title("value: mean ± one and two deviations over all indices", fontsize=9)
    legend = axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    for handle in legend.legend_handles:
        handle.set_color("black")


def _foot_lines(explanation: Explanation) -> list[str]:
    """Return what is said beside the index: titles, and indented lines under them."""
    lines = ["How close it was", *_wrapped(closeness_lines(explanation))]
    if explanation.lineage:
        shown = explanation.lineage[:max_ancestors_drawn]
        lines += ["", "Lineage"]
        lines += [f"   version {ancestor.version}: {', '.join(lineage_facts(ancestor))}" for ancestor in shown]
        lines += ["   …"] if len(shown) < len(explanation.lineage) else []
    return lines


def _draw_lines(figure: Any, lines: Sequence[str], height_inches: float) -> None:
    for place, line in enumerate(lines):
        weight = "normal" if line.startswith(" ") else "bold"
        top = 1.0 - line_inches * (place + 0.2) / height_inches
        figure.text(0.02, top, _plain(line), fontsize=9.5, va="top", fontweight=weight)


def _draw_index(figure: Any, explanation: Explanation) -> None:
    index, step = explanation.index.ravel(), explanation.step
    if not index.size:
        figure.text(0.5, 0.5, "no index", ha="center", va="center", fontsize=9, color="0.4")
        return
    axes = figure.subplots()
    axes.bar(range(index.size), index, color="0.35", width=0.7)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_title(f"the index: episode {step.step_id.episode}, segment {step.segment}", fontsize=9)
    axes.set_xticks(range(index.size) if index.size <= 16 else [0, index.size - 1])
    _plain_axes(axes)


def _to_image(plane: Any) -> Any:
    """Return an image that imshow takes: colours as bytes or from 0 to 1."""
    if plane.ndim == 2:
        return plane.astype(np.float64)
    if plane.dtype == np.uint8:
        return plane
    low, high = float(plane.min()), float(plane.max())
    return (plane.astype(np.float64) - low) / ((high - low) or 1.0)


def _label(view: ActionView, explanation: Explanation) -> str:
    if view.action == explanation.step.action:
        return f"taken: action {view.action}"
    return f"action {view.action}" if view.is_allowed else f"forbidden: action {view.action}"


def _colour(view: ActionView, explanation: Explanation) -> str:
    if view.action == explanation.step.action:
        return taken_colour
    if not view.is_allowed:
        return forbidden_colour
    is_second = explanation.duel is not None and view.action == explanation.duel.other
    return second_colour if is_second else other_colour


def _wrapped(lines: Sequence[str]) -> list[str]:
    return [f"   {part}" for part in textwrap.wrap(" ".join(lines), 92)]


def _plain_axes(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(text: str) -> str:
    r"""Return text in which matplotlib finds no formulas: a dollar sign in a name is a dollar sign."""
    return text.replace("$", r"\$")
