"""An evaluation for people: a table, a figure and one sentence."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hyperact.trainer.off_policy.evaluation import Evaluation, Row, headline


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return every estimator's value, interval, effective size and verdict."""
    title = f"version {evaluation.version}, from {evaluation.num_steps} logged steps"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("estimator", no_wrap=True)
    for name in ("value", f"{evaluation.confidence:.0%} from", "to", "eff. size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in evaluation.rows:
        table.add_row(*_cells(row, evaluation))
    table.caption = _caption(evaluation)
    return table


def verdict(evaluation: Evaluation) -> str:
    """Return one sentence on an evaluation that was not refused."""
    value, gain = evaluation.row(headline).interval, evaluation.gain
    assert gain is not None
    side = "more than" if gain.low > 0 else "less than" if gain.high < 0 else "which may be more or less than"
    return (
        f"version {evaluation.version} is worth {value.value:.4g} ({value.low:.4g} to {value.high:.4g}), "
        f"{side} the logged {evaluation.row('logged mean').interval.value:.4g}: "
        f"gain {gain.value:+.4g} ({gain.low:+.4g} to {gain.high:+.4g})"
    )


def evaluation_figure(evaluation: Evaluation) -> Figure:
    """Return the estimates with their intervals, and how the weight is spread over episodes."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot_estimates(left, evaluation)
    _plot_weights(right, evaluation)
    return figure


def _cells(row: Row, evaluation: Evaluation) -> tuple[str, ...]:
    interval = row.interval
    if row.is_weighted and evaluation.refusals:
        return row.estimator, "-", "-", "-", _effective(row, evaluation), "refused"
    if not row.has_interval:
        # Its interval would tell of the episodes' first steps, and nothing of how wrong the fit is.
        return row.estimator, f"{interval.value:.3g}", "-", "-", "-", "unproven"
    return (
        row.estimator,
        f"{interval.value:.3g}",
        f"{interval.low:.3g}",
        f"{interval.high:.3g}",
        _effective(row, evaluation),
        "stands",
    )


def _effective(row: Row, evaluation: Evaluation) -> str:
    assert evaluation.support is not None
    return f"{evaluation.support.effective_size if row.is_weighted else evaluation.support.num_episodes:.0f}"


def _caption(evaluation: Evaluation) -> str:
    lines = []
    if evaluation.support is not None:
        mean, support = evaluation.support.mean_weight, evaluation.support
        lines.append(
            f"{support.num_episodes} episodes, mean weight {mean.value:.3f} ({mean.low:.3f} to {mean.high:.3f}), "
            f"the heaviest holds {support.largest_share:.1%}"
        )
    if not evaluation.refusals:
        interval = evaluation.row(headline).interval
        lines.append(
            f"{headline}: standard error {interval.error:.2g}, "
            f"of it the bank's Monte Carlo error {interval.bank_error:.2g}"
        )
    lines += [f"{number} episodes left out: {reason}" for reason, number in evaluation.left_out.items()]
    lines += [f"refused: {reason}" for reason in evaluation.refusals]
    return "\n".join(lines)


def _plot_estimates(axis: Axes, evaluation: Evaluation) -> None:
    rows = [row for row in evaluation.rows if not (row.is_weighted and evaluation.refusals)]
    for place, row in enumerate(reversed(rows)):
        half = row.interval.high - row.interval.value if row.has_interval else 0.0
        axis.errorbar(row.interval.value, place, xerr=half, fmt="o", capsize=3)
    axis.set_yticks(range(len(rows)), [row.estimator for row in reversed(rows)])
    axis.set(title=f"value of version {evaluation.version}", xlabel=f"return, {evaluation.confidence:.0%} interval")


def _plot_weights(axis: Axes, evaluation: Evaluation) -> None:
    weights = np.sort(evaluation.weights)[::-1]
    total = weights.sum()
    if total > 0:
        axis.plot(np.arange(1, len(weights) + 1) / len(weights), np.cumsum(weights) / total)
    axis.plot([0, 1], [0, 1], ":", linewidth=1)
    axis.set(title="how many episodes carry the weight", xlabel="share of episodes", ylabel="share of weight")
