"""The runner of benchmarks/peers, with the peers that need no environment of their own."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.peers.catalogue import PEERS, SERVERS, Case, dependencies
from benchmarks.peers.http1 import whole_body
from benchmarks.peers.load import AskError, Found, ask_once, measure
from benchmarks.peers.processes import Server, StartError, free_port, running
from benchmarks.peers.questions import FixedAgent, Json, OpenInference, RawBytes, WrongAnswerError
from benchmarks.peers.results import Results, Row, median
from benchmarks.peers.tables import markdown, plot

ECHO = next(peer for peer in PEERS if peer.name == "echo")
HYPERACT = next(peer for peer in PEERS if peer.name == "hyperact")
FOUND = Found(messages_per_second=100.0, p50_ms=1.0, p99_ms=2.0, generator_share=0.5)


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    """Return the port of a bare echo."""
    port = free_port()
    command = [sys.executable, str(SERVERS / ECHO.script), "--graph", "none", "--port", str(port)]
    with running(command) as server:
        server.wait_until(lambda: complaint(port), 60)
        yield port


def complaint(port: int) -> str:
    try:
        ask_once(port, FixedAgent(RawBytes(), np.zeros(4, np.uint8), None), ECHO.ways["unary"].connect, 5)
    except AskError as error:
        return str(error)
    return ""


class TestLoad:
    @pytest.mark.parametrize("way", ["unary", "stream"])
    @pytest.mark.parametrize("num_bytes", [1, 16384, 900_000])
    def test_a_server_is_asked_by_calls_and_by_streams(self, echo_port: int, way: str, num_bytes: int) -> None:
        """Messages of any size reach a gRPC server, beyond what its windows take at once, and are answered."""
        agents = [FixedAgent(RawBytes(), np.zeros(num_bytes, np.uint8), None) for _ in range(3)]

        found = measure(echo_port, agents, ECHO.ways[way].connect, seconds=0.3)

        assert found.messages_per_second > 0
        assert 0 < found.p50_ms <= found.p99_ms

    def test_a_wrong_answer_is_not_measured(self, echo_port: int) -> None:
        """Whoever does not answer as the graph does gets no figure."""
        expected = np.zeros((5, 10), np.float32)
        agent = FixedAgent(RawBytes(), np.zeros(4, np.uint8), expected)

        with pytest.raises(WrongAnswerError, match="differs"):
            ask_once(echo_port, agent, ECHO.ways["unary"].connect, 5)
        with pytest.raises(AskError, match="WrongAnswerError"):
            measure(
                echo_port,
                [FixedAgent(RawBytes(), np.zeros(4, np.uint8), expected)],
                ECHO.ways["unary"].connect,
                seconds=0.2,
            )

    def test_a_method_that_is_not_there_is_told(self, echo_port: int) -> None:
        """A call that ends without a message is an error with the server's words."""
        agent = FixedAgent(OpenInference(), np.zeros((1, 4), np.uint8), None)
        triton = next(peer for peer in PEERS if peer.name == "triton")

        with pytest.raises(AskError, match="Method not found"):
            ask_once(echo_port, agent, triton.ways["unary"].connect, 5)

    def test_a_server_that_ends_says_its_last_words(self) -> None:
        """A peer that cannot start leaves its last line as the reason."""
        with running([sys.executable, "-c", "raise SystemExit('no such model')"]) as server:
            assert isinstance(server, Server)
            with pytest.raises(StartError, match="no such model"):
                server.wait_until(lambda: "not yet", 60)


class TestLanguages:
    def test_http_bodies_may_come_in_chunks(self) -> None:
        """A body is whole when its length or its last chunk says so."""
        assert whole_body(b"content-length: 3", b"ab") is None
        assert whole_body(b"content-length: 3", b"abc") == b"abc"
        assert whole_body(b"transfer-encoding: chunked", b"2\r\nab\r\n") is None
        assert whole_body(b"transfer-encoding: chunked", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n") == b"abc"

    def test_json_is_found_under_its_keys(self) -> None:
        """An array that stands deep in an answer is the one that is compared."""
        found = Json("inputs", "predictions.coefficients").decode(
            b'{"predictions": {"coefficients": [[1, 2]]}}', (1, 2)
        )

        np.testing.assert_array_equal(np.array([[1, 2]], np.float32), found)

    def test_packages_are_pinned(self) -> None:
        """Each peer is installed in the release that was measured."""
        for peer in PEERS:
            assert all("==" in requirement for requirement in peer.requirements), peer.name
        assert dependencies('# dependencies = ["a==1", "b[c]==2"]\n') == ["a==1", "b[c]==2"]


class TestResults:
    def test_what_was_measured_is_not_measured_again(self, tmp_path: Path) -> None:
        """A run that was interrupted goes on where it stood; a peer that failed is left alone."""
        cases = [Case("unary", 1, 1), Case("unary", 1, 16)]
        Results(tmp_path / "peers.csv").add(Row("deepsea", "echo", "").with_found(cases[0], 0, FOUND))
        results = Results(tmp_path / "peers.csv")
        results.add(Row("deepsea", "ray", "ray==1", note="no such package"))

        assert [(0, cases[1])] == results.missing("deepsea", "echo", cases, 1)
        assert [] == results.missing("deepsea", "ray", cases, 1)
        assert results.rows == Results(tmp_path / "peers.csv").rows

    def test_the_table_has_ratios_and_reasons(self, tmp_path: Path) -> None:
        """Hyperact stands beside each peer as a multiple, and a peer without figures says why."""
        results = Results(tmp_path / "peers.csv")
        for case in ECHO.cases():
            for repeat, factor in enumerate((1.0, 3.0, 2.0)):
                found = Found(100.0 * factor, 1.0, 2.0, 0.95)
                results.add(Row("deepsea", "echo", "").with_found(case, repeat, found))
                results.add(Row("deepsea", "hyperact", "").with_found(case, repeat, FOUND))
        results.add(Row("deepsea", "ray", "", note="no such package"))

        table = markdown(results.rows)
        plot(results.rows, tmp_path / "peers.png")

        echo = median(results.rows, "deepsea", "echo", Case("unary", 1, 1))
        assert echo is not None
        assert math.isclose(200.0, echo.decisions_per_second)
        assert "| bare grpc.aio echo | 0.50 | 0.50 |" in table
        assert "200*" in table
        assert "Ray Serve: no such package" in table
        assert (tmp_path / "peers.png").stat().st_size > 1000
