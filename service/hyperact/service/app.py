"""One worker, composed: reads the settings, makes everything, and takes it down in order."""

import asyncio
import contextlib
import gc
import math
import signal
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from prometheus_client import Gauge

from hyperact.service.callers import CallerLimits, unlimited
from hyperact.service.data_plane import DataPlane
from hyperact.service.deployment_servicer import DeploymentServicer
from hyperact.service.errors import DecisionError
from hyperact.service.guard import Guard
from hyperact.service.hypermodel import Hypermodel
from hyperact.service.inference_servicer import InferenceServicer
from hyperact.service.keys import load_keys
from hyperact.service.limits import Limits
from hyperact.service.log_reader import LogReader
from hyperact.service.log_servicer import LogServicer
from hyperact.service.logs import configure_logs
from hyperact.service.metrics import Metrics
from hyperact.service.priorities import hand_over_quickly
from hyperact.service.readiness import Readiness
from hyperact.service.repository import Repository
from hyperact.service.retention import RetentionLimits
from hyperact.service.server import Listening, Servicers, make_server
from hyperact.service.servicer import DecisionServicer
from hyperact.service.settings import ExecutionProvider, ServeSettings, split_address
from hyperact.service.shadow import ShadowScorer
from hyperact.service.step_log import Durability, StepLog
from hyperact.service.tls import TlsFiles, make_credentials
from hyperact.service.traces import Traces
from hyperact.service.version_cache import VersionCache
from hyperact.service.versions import Versions
from hyperact.v1.streams import StreamAccess, parse_stream_address

if TYPE_CHECKING:
    from hyperact.service.shipping import Shipper

logger = structlog.stdlib.get_logger("hyperact.service")
housekeeping_period_seconds = 1.0
stream_grace_seconds = 0.5
_providers = {
    ExecutionProvider.CPU: ("CPUExecutionProvider",),
    ExecutionProvider.CUDA: ("CUDAExecutionProvider", "CPUExecutionProvider"),
}


def run_worker(settings: ServeSettings, worker: int = 0) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code."""
    configure_logs(settings.log_format, settings.log_level)
    structlog.contextvars.bind_contextvars(worker=worker)
    hand_over_quickly()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(settings, worker))
    except (DecisionError, OSError, RuntimeError, ValueError) as error:
        logger.error("cannot serve", problem=str(error))  # noqa: TRY400 - what to mend is in the message
        return 1


async def _serve(settings: ServeSettings, worker: int) -> int:
    stop = asyncio.Event()
    with _stop_signals(stop):
        served = Worker(settings, worker)
        _spare_collections()
        await served.serve(stop)
    logger.info("stopped")
    return 0


def _spare_collections() -> None:
    """Have Python look for cycles less often, and not among what was made until now: a process holds it to its end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


class Worker:
    """What one process runs: everything, made from the settings.

    Attributes:
        metrics: what Prometheus sees.
        listening: set when requests are taken in.
        port: the port that it listens on; 0 before.
        metrics_port: that of the metrics; 0 if there are none.
    """

    def __init__(self, settings: ServeSettings, worker: int) -> None:
        self._settings = settings
        self._worker = worker
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        keys = load_keys(settings)
        self.metrics = Metrics()
        self.listening = asyncio.Event()
        self.port = self.metrics_port = 0
        self._log = StepLog.open(
            settings.data_dir / "log",
            worker,
            Durability(settings.durability.value),
            min_free_bytes=settings.log_min_free_bytes,
            max_queued_records=settings.log_max_queued_records,
            retention=RetentionLimits(settings.log_retention_seconds, settings.log_retention_bytes // settings.workers),
        )
        self._reader = LogReader(settings.data_dir / "log", self._log)
        self._shipping_reader = LogReader(settings.data_dir / "log", self._log)
        self._shipper = _make_shipper(settings, self._shipping_reader) if settings.log and worker == 0 else None
        self._versions = _make_versions(settings, self.metrics)
        self._traces = _make_traces(settings.trace_endpoint)
        self._shadow = ShadowScorer(keys.index, self.metrics, partial(_open_shadow_log, settings, worker))
        limits = _make_limits(settings)
        self._data_plane = DataPlane(self._versions, self._log, keys, limits, self.metrics, self._traces, self._shadow)
        is_fallback_enough = settings.fallback_num_actions > 0 and not settings.require_version
        self._guard = _make_guard(settings, self.metrics)
        self._readiness = Readiness(self._versions, self._log, is_fallback_enough=is_fallback_enough)
        self._watch()

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what is in work and leave nothing open."""
        async with contextlib.AsyncExitStack() as stack:
            if self._traces is not None:
                stack.push_async_callback(asyncio.to_thread, self._traces.close)
            stack.push_async_callback(self._log.close)
            stack.push_async_callback(self._shadow.close)
            stack.callback(self._reader.close)
            stack.callback(self._shipping_reader.close)
            if self._shipper is not None:
                self._shipper.start()
                stack.push_async_callback(self._shipper.close)
            stack.push_async_callback(self._data_plane.close)
            stack.push_async_callback(self._versions.stop)
            await _until(self._versions.start(), stop)
            if stop.is_set():
                return
            await self._listen(stack)
            await stop.wait()
            await self._drain()

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        server, self.port = make_server(
            self._servicers(),
            Listening(
                settings.address,
                is_shared=settings.workers > 1,
                max_message_bytes=settings.max_message_bytes,
                max_calls=settings.max_calls_per_connection,
                tls=_make_tls(settings),
                guard=self._guard,
                interceptors=self._traces.interceptors() if self._traces is not None else (),
            ),
        )
        if settings.metrics_address:
            metrics_server = self.metrics.serve(_nth_address(settings.metrics_address, self._worker))
            stack.callback(metrics_server.close)
            self.metrics_port = metrics_server.port
        await server.start()
        stack.push_async_callback(server.stop, stream_grace_seconds)
        housekeeping = asyncio.create_task(self._keep_house())
        stack.callback(housekeeping.cancel)
        logger.info(
            "serving",
            address=f"{settings.address.rpartition(':')[0]}:{self.port}",
            metrics_port=self.metrics_port,
            partition=self._log.partition,
            durability=settings.durability.value,
            tls=_describe_tls(settings),
            credentials=str(settings.credentials_file or "none"),
            versions={model: self._serving(model) for model in settings.models},
            registry=settings.registry_uri,
            problem=self._readiness.problem(),
        )
        self.listening.set()

    async def _drain(self) -> None:
        logger.info("shutting down", in_work=self._data_plane.num_in_work)
        self._readiness.drain()
        try:
            async with asyncio.timeout(self._settings.shutdown_grace_seconds):
                await self._data_plane.drain()
        except TimeoutError:
            logger.warning("gave up on requests in work", in_work=self._data_plane.num_in_work)

    def _servicers(self) -> Servicers:
        deployment = DeploymentServicer(
            self._versions,
            self._log,
            find_problem=self._readiness.problem,
            count_sessions=lambda: self._data_plane.num_sessions,
        )
        return Servicers(
            DecisionServicer(self._data_plane),
            LogServicer(self._reader),
            deployment,
            InferenceServicer(self._versions, find_problem=self._readiness.problem, max_rows=self._settings.max_batch),
            self._readiness,
        )

    def _serving(self, model: str) -> str:
        serving = self._versions[model].serving
        return serving.version if serving is not None else ""

    def _watch(self) -> None:
        watch = self.metrics.watch
        watch("sessions", "Sessions remembered.", lambda: self._data_plane.num_sessions)
        watch("requests_in_work", "Requests not answered yet.", lambda: self._data_plane.num_in_work)
        watch("log_steps", "Steps logged since the start.", lambda: self._log.num_steps)
        watch("log_queued_records", "Records that wait for the disk.", lambda: self._log.num_queued)
        watch("log_dropped_records", "Records answered and lost since the start.", lambda: self._log.num_dropped)
        watch("log_removed_records", "Records removed by retention since the start.", lambda: self._log.num_removed)
        watch("log_set_aside", "Damaged databases set aside.", lambda: len(self._log.find_set_aside()))
        watch("log_writable", "Whether the log can be written.", lambda: not self._log.problem())
        shipper = self._shipper
        watch("shipping_up", "Whether the stream takes records.", lambda: shipper is not None and shipper.is_up())
        watch("shipped_records", "Records shipped since the start.", lambda: shipper.num_shipped if shipper else 0)
        watch(
            "shipping_lag_seconds",
            "How long the oldest record not shipped yet has waited.",
            lambda: shipper.lag_seconds() if shipper else 0.0,
        )
        watch("ready", "Whether the worker is ready.", lambda: not self._readiness.problem())

    async def _keep_house(self) -> None:
        """Expire sessions, notice changed credentials, and keep the slow gauges up to date."""
        while True:
            await asyncio.sleep(housekeeping_period_seconds)
            try:
                self._data_plane.sweep()
                if self._guard is not None:
                    self._guard.refresh()
                _count_pins(self.metrics.pinned_episodes, self._versions)
            except Exception:
                logger.exception("housekeeping failed; trying again")


def _open_shadow_log(settings: ServeSettings, worker: int) -> StepLog:
    """Open the log of what a shadow would have decided; it leaves the disk to the log of what was."""
    return StepLog.open(
        settings.data_dir / "shadow",
        worker,
        Durability.MEMORY,
        min_free_bytes=2 * settings.log_min_free_bytes,
        max_queued_records=settings.log_max_queued_records,
        retention=RetentionLimits(settings.log_retention_seconds, settings.log_retention_bytes // settings.workers),
    )


def _make_versions(settings: ServeSettings, metrics: Metrics) -> Versions:
    repository = Repository(
        settings.registry_uri,
        VersionCache(settings.data_dir / "versions"),
        alias=settings.alias,
        max_version_bytes=settings.max_version_bytes,
    )
    load = partial(
        Hypermodel.load,
        max_onnx_bytes=settings.max_version_bytes,
        providers=_providers[settings.execution_provider],
    )
    return Versions(
        repository,
        settings.models,
        load=load,
        poll_seconds=settings.poll_seconds,
        drain_deadline_seconds=settings.drain_deadline_seconds,
        metrics=metrics,
    )


def _make_shipper(settings: ServeSettings, reader: LogReader) -> "Shipper":
    """Return what ships the log. RuntimeError if a library for it is missing, FieldError if the address is none."""
    try:
        from hyperact.service.jet_stream import JetStream
        from hyperact.service.shipping import Shipper
    except ModuleNotFoundError as error:
        raise RuntimeError(f"--log needs {error.name}: pip install 'hyperact[nats]'") from error
    access = StreamAccess(
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value(),
        token=settings.nats_token.get_secret_value(),
        credentials_file=settings.nats_credentials_file,
        ca_file=settings.nats_ca_file,
        certificate_file=settings.nats_certificate_file,
        key_file=settings.nats_key_file,
    )
    return Shipper(reader, JetStream(parse_stream_address(settings.log), access, settings.nats_replicas))


def _make_limits(settings: ServeSettings) -> Limits:
    return Limits(
        max_batch=settings.max_batch,
        max_queued=settings.max_queued,
        max_wait_seconds=settings.max_wait_ms / 1e3 if settings.max_wait_ms else math.inf,
        batch_wait_seconds=settings.batch_wait_ms / 1e3,
        inference_threads=settings.inference_threads,
        is_fallback_allowed=not settings.require_version,
        fallback_num_actions=0 if settings.require_version else settings.fallback_num_actions,
        session_ttl_seconds=settings.session_ttl_seconds,
        max_sessions=settings.max_sessions,
    )


def _make_guard(settings: ServeSettings, metrics: Metrics) -> Guard | None:
    """Return who stands at the door; None if nobody need."""
    if not settings.has_caller_limits:
        return None
    limits = CallerLimits(
        max_requests=settings.most_caller_requests or unlimited,
        max_streams=settings.max_caller_streams or unlimited,
        max_sessions=settings.most_caller_sessions or unlimited,
    )
    return Guard(settings.credentials_file, limits, count_refused=metrics.count_refused_call)


def _make_tls(settings: ServeSettings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    return make_credentials(TlsFiles(settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file))


def _describe_tls(settings: ServeSettings) -> str:
    if settings.tls_certificate_file is None:
        return "none"
    return "server and clients" if settings.tls_client_ca_file else "server"


def _make_traces(endpoint: str) -> Traces | None:
    if not endpoint:
        return None
    try:
        from hyperact.service.tracing import OpenTelemetryTraces
    except ModuleNotFoundError as error:
        raise RuntimeError(f"trace_endpoint needs the extra hyperact[tracing]: {error}") from error
    return OpenTelemetryTraces(endpoint)


def _count_pins(gauge: Gauge, versions: Versions) -> None:
    gauge.clear()
    for status in versions.status():
        for version in status.versions:
            gauge.labels(status.model, version.version).set(version.num_pinned_episodes)


def _nth_address(address: str, worker: int) -> str:
    """Return the worker's own address: the given port + its number; a free one for port 0."""
    host, port = split_address(address)
    return f"{host}:{port + worker if port else 0}"


@contextlib.contextmanager
def _stop_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` at SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _until(work: Awaitable[None], stop: asyncio.Event) -> None:
    """Wait for `work`, or for `stop`, whichever is first."""
    tasks = [asyncio.ensure_future(work), asyncio.create_task(stop.wait())]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def _loop_factory() -> Any:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
