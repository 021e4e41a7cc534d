"""A gate report as a picture. Data in, figure out: nothing is shown or saved here."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperact.v1.gates import Evidence, GateLimits, Outcome, Verdict

_colours = {Outcome.PASSED: "tab:green", Outcome.HELD: "tab:red", Outcome.NOT_MEASURED: "lightgrey"}


def gate_figure(title: str, evidence: Evidence, limits: GateLimits, verdict: Verdict) -> Figure:
    """Return what each gate said, where the policy changed, and what the log says of the candidate's worth."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    figure.suptitle(f"{title}: {'promoted' if verdict.is_promotion else 'held back'}" if verdict.gates else title)
    gates, changes, worth = figure.subplots(1, 3)
    _plot_gates(gates, verdict)
    _plot_changes(changes, evidence, limits)
    _plot_worth(worth, evidence)
    return figure


def _plot_gates(axis: Axes, verdict: Verdict) -> None:
    for place, gate in enumerate(reversed(verdict.gates)):
        axis.barh(place, 1.0, color=_colours[gate.outcome])
        axis.text(0.02, place, f"{gate.name}: {gate.measured[:40]}", va="center", fontsize=8)
    axis.set(title="gates (red: held back, grey: not measured)", xticks=[], yticks=[], xlim=(0, 1))


def _plot_changes(axis: Axes, evidence: Evidence, limits: GateLimits) -> None:
    if evidence.change is not None and len(evidence.change.divergences):
        axis.hist(evidence.change.divergences, bins=np.linspace(0, 1, 21).tolist())
        axis.axvline(evidence.change.divergence, color="black", label="mean")
    if limits.max_divergence < 1.0:
        axis.axvline(limits.max_divergence, color="tab:red", linestyle=":", label="limit of the mean")
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    axis.set(title="divergence from what serves", xlabel="total variation", ylabel="recent observations", xlim=(0, 1))


def _plot_worth(axis: Axes, evidence: Evidence) -> None:
    found = evidence.off_policy
    axis.set(title="off-policy estimate", xlabel="gain over what was logged, 95 % interval", yticks=[])
    if found is None or found.refusals:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes)
        return
    axis.errorbar(found.gain.value, 0.0, xerr=found.gain.high - found.gain.value, fmt="o", capsize=4)
    axis.axvline(0.0, color="black", linewidth=1)
