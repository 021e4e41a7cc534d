"""OpenTelemetry: a span for every call, by gRPC's semantic conventions, and one for every batch that decided for them.

    hyperact.v1.DecisionService/Act     the call; who called with a trace of their own is its parent
        hyperact.step_id (of several rows: hyperact.rows), hyperact.version, hyperact.deployment
    batch                               linked to the calls whose rows it held
        queue                           from the oldest row's arrival until the model call
        decide                          the model call and the decision
        log                             until the log's append returned
        reply                           until the answers were handed out

Batches are recorded when they are over, from the times that the metrics take anyway: without tracing nothing is done.
What is sampled, and what the service is called, follow the standard variables (OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME). Source: opentelemetry.io, semantic conventions for RPC and for gRPC.
"""

import os
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from hyperact.service.traces import Times, Traced

default_service_name = "hyperact"
export_timeout_seconds = 2.0
_ignored_services = ("grpc.health.", "grpc.reflection.")


class OpenTelemetryTraces:
    """Makes spans and sends them away, in batches and from a thread of its own.

    Args:
        endpoint: where an OpenTelemetry collector takes OTLP over gRPC: "http://host:4317", "https://…" with TLS.
    """

    def __init__(self, endpoint: str) -> None:
        name = os.environ.get("OTEL_SERVICE_NAME") or default_service_name
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=export_timeout_seconds
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hyperact.service")

    def interceptors(self) -> list[Any]:
        """Return what makes the spans of calls; probes of health and reflection have none."""
        is_ours = lambda call: not call.method.lstrip("/").startswith(_ignored_services)  # noqa: E731
        return [
            aio_server_interceptor(  # type: ignore[no-untyped-call]
                tracer_provider=self._provider, filter_=is_ours
            )
        ]

    def current(self) -> Any:
        """Return the span of the call that is being answered."""
        return trace.get_current_span()

    def exemplar(self, span: Any) -> dict[str, str] | None:
        """Return the label by which a latency in the metrics names its trace; None if it is not sampled."""
        context = span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}"} if context.trace_flags.sampled else None

    def record_batch(self, rows: Sequence[Traced], model: str, version: str, times: Times) -> None:
        """Record a batch that is over, and what it decided."""
        calls: dict[int, list[Traced]] = {}
        for row in rows:
            context = row.span.get_span_context()
            if context.trace_flags.sampled:
                calls.setdefault(context.span_id, []).append(row)
        if not calls:
            return
        for told in calls.values():
            _tell(told, version)
        links = [trace.Link(told[0].span.get_span_context()) for told in calls.values()]
        attributes: dict[str, str | int] = {
            "hyperact.model": model,
            "hyperact.version": version,
            "hyperact.rows": len(rows),
        }
        since_epoch = time.time() - time.monotonic()
        arrived, begun, at_log, logged, done = (int((moment + since_epoch) * 1e9) for moment in times)
        batch = self._tracer.start_span("batch", Context(), links=links, start_time=arrived, attributes=attributes)
        within = trace.set_span_in_context(batch, Context())
        for name, start, end in (
            ("queue", arrived, begun),
            ("decide", begun, at_log),
            ("log", at_log, logged),
            ("reply", logged, done),
        ):
            self._tracer.start_span(name, within, start_time=start).end(end)
        batch.end(done)

    def close(self) -> None:
        """Send what is left, if anybody takes it within the timeout of one export."""
        self._provider.shutdown()


def _tell(rows: Sequence[Traced], version: str) -> None:
    """Write on a call's span what was decided; of a message of several rows, how many of them this batch held."""
    (first, *others), span = rows, rows[0].span
    span.set_attributes({"hyperact.version": version, "hyperact.deployment": first.deployment})
    if others:
        span.set_attribute("hyperact.rows", len(rows))
    else:
        span.set_attribute("hyperact.step_id", str(first.step))
