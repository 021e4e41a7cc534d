"""What Prometheus sees. One registry per worker; the hot path touches it once per batch, never per step."""

from collections.abc import Callable
from functools import lru_cache
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from hyperact.service.settings import split_address
from hyperact.service.traces import Times

_latency_buckets_seconds = tuple(step * 10.0**power for power in range(-5, 1) for step in (1, 2, 5))
_swap_buckets_seconds = tuple(step * 10.0**power for power in range(-3, 3) for step in (1, 3))
_row_buckets = tuple(2**power for power in range(13))


class Metrics:
    """All metrics of one worker.

    Latencies are those of a batch's oldest row: `queue` until its batch was closed, `model` in the model call and the
    decision, `log` in the append, `reply` until the answers were handed out, `total` all of these.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.decisions = self._counter(
            "decisions",
            "Answers by model, version (empty: uniform fallback) and gRPC code.",
            "model",
            "version",
            "code",
        )
        self.reports = self._counter("reports", "Reported outcomes by model and gRPC code.", "model", "code")
        self.replays = self._counter("replays", "Requests answered from an earlier decision of the same step.", "model")
        self.refused_calls = self._counter("refused_calls", "Calls refused for who made them, by reason.", "reason")
        self.seconds = Histogram(
            "hyperact_decision_seconds",
            "Latency of a batch's oldest row by stage, model and version.",
            ["stage", "model", "version"],
            registry=self.registry,
            buckets=_latency_buckets_seconds,
        )
        self.batch_rows = Histogram(
            "hyperact_batch_rows",
            "Rows of one model call, by model and version.",
            ["model", "version"],
            registry=self.registry,
            buckets=_row_buckets,
        )
        self.swap_seconds = Histogram(
            "hyperact_swap_seconds",
            "How long a version took to fetch, load and warm up, by model and phase.",
            ["model", "phase"],
            registry=self.registry,
            buckets=_swap_buckets_seconds,
        )
        self.swaps = self._counter("version_swaps", "Versions put into service.", "model")
        self.deployment = self._gauge("deployment", "The number of the deployment that serves.", "model")
        self.version_failures = self._counter(
            "version_load_failures", "Versions that were refused, by reason.", "model", "reason"
        )
        self.registry_problems = self._counter("registry_problems", "Looks at the registry that failed.", "model")
        self.registry_up = self._gauge("registry_up", "Whether the last look at the registry succeeded.", "model")
        self.pinned_episodes = self._gauge("pinned_episodes", "Episodes pinned to a version.", "model", "version")
        self.role_decisions = self._counter(
            "role_decisions",
            "Decisions by model and the deciding version's role: champion, challenger, draining or fallback.",
            "model",
            "role",
        )
        self.share = self._gauge("challenger_share", "The challenger's share of sessions; 0 without one.", "model")
        self.killed = self._gauge("killed", "Whether the kill switch stands.", "model")
        self.shadow_steps = self._counter(
            "shadow_steps", "Steps offered to the shadow: agreed, differed, failed or dropped.", "model", "result"
        )
        self.decision_child = lru_cache(maxsize=1024)(self.decisions.labels)
        self._batch_children = lru_cache(maxsize=1024)(self._make_batch_children)

    def count_batch(
        self, model: str, version: str, num_rows: int, times: Times, exemplar: dict[str, str] | None
    ) -> None:
        """Note that a batch was decided, logged and answered."""
        rows, stages = self._batch_children(model, version)
        self.decision_child(model, version, "OK").inc(num_rows)
        rows.observe(num_rows)
        for stage, begin, end in zip(stages, times, times[1:], strict=False):
            stage.observe(end - begin)
        stages[-1].observe(times.done - times.arrived, exemplar)

    def set_serving(self, model: str, version: str, deployment: int) -> None:
        """Note that a version came into service."""
        self.swaps.labels(model).inc()
        self.deployment.labels(model).set(deployment)
        self.decision_child(model, version, "OK")

    def count_refused_call(self, reason: str) -> None:
        """Count a call that was refused for who made it."""
        self.refused_calls.labels(reason).inc()

    def set_share(self, model: str, share: float) -> None:
        """Note the challenger's share of sessions."""
        self.share.labels(model).set(share)

    def set_killed(self, model: str, *, is_killed: bool) -> None:
        """Note whether the kill switch stands."""
        self.killed.labels(model).set(is_killed)

    def count_refused(self, model: str, reason: str) -> None:
        """Count a version that was refused."""
        self.version_failures.labels(model, reason).inc()

    def observe_swap_phase(self, model: str, phase: str, seconds: float) -> None:
        """Note how long a phase of loading a version took. For any thread."""
        self.swap_seconds.labels(model, phase).observe(max(0.0, seconds))

    def set_registry_up(self, model: str, is_up: bool) -> None:
        """Note whether a look at the registry succeeded."""
        self.registry_up.labels(model).set(is_up)
        if not is_up:
            self.registry_problems.labels(model).inc()

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when Prometheus asks."""
        Gauge(f"hyperact_{name}", help_text, registry=self.registry).set_function(read)

    def serve(self, address: str) -> "MetricsServer":
        """Answer Prometheus over HTTP from a thread. OSError if the address is taken."""
        host, port = split_address(address)
        return MetricsServer(*start_http_server(port, host, self.registry))

    def _make_batch_children(self, model: str, version: str) -> tuple[Histogram, list[Histogram]]:
        return self.batch_rows.labels(model, version), [
            self.seconds.labels(stage, model, version) for stage in ("queue", "model", "log", "reply", "total")
        ]

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"hyperact_{name}", help_text, labels, registry=self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"hyperact_{name}", help_text, labels, registry=self.registry)


class MetricsServer:
    """The running HTTP server."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
