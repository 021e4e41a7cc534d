"""Draws what `python -m benchmarks.serving` measured: rates beside their ceilings, one panel a model."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

SYSTEMS = {"hyperact": "Hyperact, everything on", "echo": "bare gRPC echo", "runtime": "ONNX Runtime alone"}


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write an image: decisions a second by case, logarithmic, and ONNX Runtime alone as a line."""
    measured = [row for row in rows if row["system"] in SYSTEMS]
    models = list(dict.fromkeys(row["model"] for row in measured))
    cases = list(dict.fromkeys(row["case"] for row in measured if row["system"] == "hyperact"))
    figure = Figure(figsize=(4.6 * len(models), 4.0), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False, sharey=True)[0], models, strict=True):
        for shift, system in ((-0.2, "echo"), (0.2, "hyperact")):
            rates = [_rate(measured, model, system, case) for case in cases]
            axes.bar([place + shift for place in range(len(cases))], rates, 0.4, label=SYSTEMS[system])
        (alone,) = {row["case"] for row in measured if row["system"] == "runtime"}
        axes.axhline(_rate(measured, model, "runtime", alone), color="0.4", ls="--", label=SYSTEMS["runtime"])
        axes.set(title=model, yscale="log", ylabel="decisions a second")
        axes.set_xticks(range(len(cases)), cases, rotation=60, ha="right", fontsize="small")
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _rate(rows: Sequence[dict[str, Any]], model: str, system: str, case: str) -> float:
    return median(
        float(row["decisions_per_second"])
        for row in rows
        if (row["model"], row["system"], row["case"]) == (model, system, case)
    )
