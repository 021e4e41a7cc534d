"""Hyperact beside other model servers, all with the same graph, in one run.

    python -m benchmarks.peers --output benchmarks/results --plot docs/images/peers.png

Each peer gets an environment of its own under --cache, is started on one core, is asked until it answers as ONNX
Runtime does, and is then measured from another core. What stands in the results is not measured again; a peer that
cannot be installed or started is a row that says why (take the row away to try again). How and why: README.md beside
this file.
"""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.environments import InstallError
from benchmarks.peers.load import AskError
from benchmarks.peers.measuring import serving
from benchmarks.peers.models import TITLES, Model, make_model
from benchmarks.peers.processes import StartError
from benchmarks.peers.results import Results, Row
from benchmarks.peers.tables import markdown, plot


def main() -> None:
    arguments = make_parser().parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    results = Results(arguments.output / "peers.csv")
    peers = {peer.name: peer for peer in PEERS}
    for name in arguments.models:
        model = make_model(name, arguments.cache)
        for peer in arguments.peers:
            compare(peers[peer], model, results, arguments)
    print(markdown(results.rows))
    if arguments.plot:
        plot(results.rows, arguments.plot)


def interrupt(*_: object) -> None:
    """End as by Ctrl-C, which the event loop does not swallow; once, so that a server can be stopped in peace."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGINT)


def compare(peer: Peer, model: Model, results: Results, arguments: argparse.Namespace) -> None:
    """Measure what is missing of one peer and one model."""
    missing = results.missing(model.name, peer.name, peer.cases(), arguments.repeats)
    row = Row(model.name, peer.name, peer.requirements[0] if peer.requirements else "")
    if not missing:
        return
    try:
        with serving(peer, model, arguments.cache, arguments.log) as subject:
            for repeat, case in missing:
                found = subject.measure(case, arguments.seconds)
                results.add(row.with_found(case, repeat, found))
                rate = found.messages_per_second * case.num_rows
                print(
                    f"{model.name}: {peer.title}: {case}: {rate:,.0f}/s, {found.p50_ms:.2f} / {found.p99_ms:.2f} ms, "
                    f"load generator {found.generator_share:.0%}",
                    file=sys.stderr,
                )
    except (InstallError, StartError, AskError) as error:
        print(f"{model.name}: {peer.title}: {error}", file=sys.stderr)
        results.add(Row(row.model, row.peer, row.release, note=f"{type(error).__name__}: {error}"))


def make_parser() -> argparse.ArgumentParser:
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", choices=names, default=names)
    parser.add_argument("--models", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each repeat, after a quarter of it to warm up")
    parser.add_argument("--repeats", type=int, default=3, help="of each case; medians are shown")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hyperact-peers")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="the folder of peers.csv")
    parser.add_argument("--plot", type=Path, help="the plot's file")
    parser.add_argument("--log", help="a file for what the last server said")
    return parser


if __name__ == "__main__":
    main()
