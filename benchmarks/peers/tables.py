"""The table of docs/performance.md and its plot, from the rows of the results."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.catalogue import BATCHES_IN_FLIGHT, HYPERACT, IN_FLIGHT, PEERS, ROWS, Case, Peer
from benchmarks.peers.models import TITLES
from benchmarks.peers.results import Row, median, note

LIMITED = 0.9
SINGLE = [Case(way, 1, number) for way in ("unary", "stream") for number in IN_FLIGHT]
BATCH = [Case(way, ROWS, BATCHES_IN_FLIGHT) for way in ("unary", "stream")]


def markdown(rows: Sequence[Row]) -> str:
    """Return a table for each model and way that was measured, and what Hyperact does beside each peer."""
    parts = []
    for model in [name for name in TITLES if any(row.model == name for row in rows)]:
        parts += [f"**{TITLES[model]}**, decisions a second", _rates(rows, model), _latencies(rows, model)]
        parts += [f"Hyperact as a multiple of each ({TITLES[model]})", _ratios(rows, model)]
        parts += [f"{peer.title}: {why}" for peer in PEERS if (why := note(rows, model, peer.name))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rates(rows: Sequence[Row], model: str) -> str:
    heads = ["", *(_head(case) for case in SINGLE + BATCH), "asked by"]
    lines = []
    for peer in _measured(rows, model):
        found = [median(rows, model, peer.name, case) for case in SINGLE + BATCH]
        lines.append([peer.title, *(_rate(row) for row in found), peer.protocol])
    return _table(heads, lines)


def _latencies(rows: Sequence[Row], model: str) -> str:
    heads = ["p50 / p99 of a message, ms", *(_head(case) for case in SINGLE + BATCH)]
    lines = []
    for peer in _measured(rows, model):
        found = [median(rows, model, peer.name, case) for case in SINGLE + BATCH]
        lines.append([peer.title, *(f"{row.p50_ms:.2f} / {row.p99_ms:.2f}" if row else "" for row in found)])
    return _table(heads, lines)


def _ratios(rows: Sequence[Row], model: str) -> str:
    """Return Hyperact's rates over each peer's, and its stream's over each peer's unary calls."""
    heads = ["", *(_head(case) for case in SINGLE + BATCH), *(f"stream over its unary, {n}" for n in IN_FLIGHT)]
    lines = []
    for peer in _measured(rows, model):
        if peer is HYPERACT:
            continue
        same = [_ratio(rows, model, peer, case, case) for case in SINGLE + BATCH]
        over = [_ratio(rows, model, peer, Case("stream", 1, n), Case("unary", 1, n)) for n in IN_FLIGHT]
        lines.append([peer.title, *same, *over])
    return _table(heads, lines) if median(rows, model, HYPERACT.name, SINGLE[0]) else ""


def _ratio(rows: Sequence[Row], model: str, peer: Peer, ours: Case, theirs: Case) -> str:
    one, other = median(rows, model, HYPERACT.name, ours), median(rows, model, peer.name, theirs)
    return f"{one.decisions_per_second / other.decisions_per_second:.2f}" if one and other else ""


def _measured(rows: Sequence[Row], model: str) -> list[Peer]:
    return [peer for peer in PEERS if any((row.model, row.peer, row.note) == (model, peer.name, "") for row in rows)]


def _head(case: Case) -> str:
    size = f" of {case.num_rows} rows" if case.num_rows > 1 else ""
    return f"{case.way}{size}, {case.in_flight}"


def _rate(row: Row | None) -> str:
    """Return a rate; with a star where the load generator had little of its core left."""
    if row is None:
        return ""
    return f"{row.decisions_per_second:,.0f}{'*' if row.generator_share >= LIMITED else ''}"


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in heads[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [heads, rule, *lines])


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write an image: each peer's decisions a second at the most in flight, a panel for each model."""
    from matplotlib.figure import Figure

    models = [name for name in TITLES if any(row.model == name for row in rows)]
    figure = Figure(figsize=(5.6 * len(models), 4.6), layout="constrained")
    figure.suptitle(f"Decisions a second, {IN_FLIGHT[-1]} in flight")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        bars = [
            (f"{peer.title}, {way}", found.decisions_per_second, peer is HYPERACT)
            for peer in PEERS
            for way in peer.ways
            if (found := median(rows, model, peer.name, Case(way, 1, IN_FLIGHT[-1])))
        ]
        bars.sort(key=lambda bar: bar[1])
        drawn = axes.barh(
            [name for name, _, _ in bars],
            [rate for _, rate, _ in bars],
            color=["C1" if is_ours else "C0" for _, _, is_ours in bars],
        )
        axes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize="small")
        axes.set(title=TITLES[model], xscale="log", xlabel="decisions/s")
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", labelsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
