"""OpenTelemetry traces of a real worker, sent to a real collector."""

import asyncio
import urllib.request
from pathlib import Path

import pytest

from hyperact.service.app import Worker
from hyperact.service.settings import ServeSettings
from hyperact.v1.decision_pb2 import ActBatchRequest
from hyperact.v1.steps import to_key
from toy_collector import attributes_of, collecting
from toy_worker import make_request, play, refusal, registry_with_version, running

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def test_a_call_and_its_batch_are_traced(tmp_path: Path) -> None:
    """The caller's trace goes on in the service; the batch that decided links to it, with its stages below."""
    registry_with_version(tmp_path)
    with collecting() as collector:
        async with running(tmp_path, trace_endpoint=collector.endpoint) as worker:
            parent = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")
            answer = await worker.decision.Act(make_request(), metadata=(parent,))

        (call,) = collector.named("hyperact.v1.DecisionService/Act") or collector.named(
            "/hyperact.v1.DecisionService/Act"
        )
        (batch,) = collector.named("batch")
        stages = {name: collector.named(name)[0] for name in ("queue", "decide", "log", "reply")}
    told = attributes_of(call)
    assert (TRACE_ID, PARENT_ID) == (call.trace_id.hex(), call.parent_span_id.hex())
    assert ("grpc", "hyperact.v1.DecisionService", "Act") == (
        told["rpc.system"],
        told["rpc.service"],
        told["rpc.method"],
    )
    assert str(to_key(answer.step_id)) == told["hyperact.step_id"]
    assert ("1", 1) == (told["hyperact.version"], told["hyperact.deployment"])
    assert [call.span_id] == [link.span_id for link in batch.links]
    assert {batch.span_id} == {span.parent_span_id for span in stages.values()}
    assert batch.start_time_unix_nano == stages["queue"].start_time_unix_nano
    assert stages["queue"].end_time_unix_nano == stages["decide"].start_time_unix_nano
    assert batch.end_time_unix_nano == stages["reply"].end_time_unix_nano
    assert call.start_time_unix_nano <= stages["decide"].start_time_unix_nano <= call.end_time_unix_nano
    assert {"hyperact"} == collector.services


async def test_the_rows_of_a_message_share_its_span(tmp_path: Path) -> None:
    """A batch names each call once, however many rows it brought."""
    registry_with_version(tmp_path)
    with collecting() as collector:
        async with running(tmp_path, trace_endpoint=collector.endpoint) as worker:
            await worker.decision.ActBatch(ActBatchRequest(requests=[make_request(f"a{n}") for n in range(5)]))

        (batch,) = collector.named("batch")
        (call,) = collector.named("/hyperact.v1.DecisionService/ActBatch")
    assert 5 == attributes_of(call)["hyperact.rows"]
    assert (1, 5) == (len(batch.links), attributes_of(batch)["hyperact.rows"])


async def test_a_refused_call_says_why(tmp_path: Path) -> None:
    """The span carries gRPC's status code; probes of health have no spans."""
    registry_with_version(tmp_path)
    with collecting() as collector:
        async with running(tmp_path, trace_endpoint=collector.endpoint) as worker:
            await refusal(worker.decision.Act(make_request("\n")))

        (call,) = collector.spans
    assert 3 == attributes_of(call)["rpc.grpc.status_code"]


async def test_a_slow_answer_in_the_metrics_names_its_trace(tmp_path: Path) -> None:
    """Latencies have the trace as their exemplar, for whoever asks in OpenMetrics."""
    registry_with_version(tmp_path)
    with collecting() as collector:
        endpoint = collector.endpoint
        async with running(tmp_path, trace_endpoint=endpoint, metrics_address="127.0.0.1:0") as worker:
            await worker.decision.Act(make_request(), metadata=(("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"),))
            text = await asyncio.to_thread(read_metrics, worker.worker.metrics_port)

    assert f'# {{trace_id="{TRACE_ID}"}}' in text


async def test_nobody_who_takes_traces_harms_nobody(tmp_path: Path) -> None:
    """Decisions are made and the service stops, when the collector is away."""
    registry_with_version(tmp_path)
    async with running(tmp_path, trace_endpoint="http://127.0.0.1:1") as worker:
        assert 5 == len(await play(worker, "agent", [5]))


def test_without_the_libraries_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is one line."""
    monkeypatch.setitem(__import__("sys").modules, "hyperact.service.tracing", None)

    with pytest.raises(RuntimeError, match=r"hyperact\[tracing\]"):
        Worker(ServeSettings.model_validate({"data_dir": tmp_path, "trace_endpoint": "http://127.0.0.1:4317"}), 0)


def read_metrics(port: int) -> str:
    """Return the metrics as a scraper that speaks OpenMetrics gets them."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request) as response:
        return str(response.read().decode())
