"""NATS servers with JetStream, as processes on the loopback: one alone, or a cluster."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamInfo

from hyperact.v1.log_pb2 import LogEntry
from hyperact.v1.streams import all_subjects, default_stream, id_header, message_id, subject_of

start_seconds = 30.0
binary = Path(sys.executable).with_name("nats-server")


def free_ports(number: int) -> list[int]:
    """Return ports that nothing listens on now."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class NatsServer:
    """One server: its port stays the same however often it is started.

    Args:
        directory: where its store and its words are.
        routes: the cluster ports of all members, its own first; empty for a server that is alone.
        arguments: further flags.
    """

    def __init__(
        self, directory: Path, name: str, port: int, routes: Sequence[int] = (), arguments: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self._output = directory / f"{name}.txt"
        store = directory / name
        self._command = [str(binary), "-js", "-sd", str(store), "-a", "127.0.0.1", "-p", str(port), "-n", name]
        if routes:
            self._command += ["--cluster_name", "toy", "--cluster", f"nats://127.0.0.1:{routes[0]}"]
            self._command += ["--routes", ",".join(f"nats://127.0.0.1:{route}" for route in routes[1:])]
        self._command += arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)

    def wait_until_up(self) -> None:
        """Return when it takes connections."""
        deadline = time.monotonic() + start_seconds
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError(self.words())

    def kill(self) -> None:
        """Take the process away by SIGKILL, as a power switch would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def words(self) -> str:
        """Return what it logged."""
        return self._output.read_text(errors="replace")


class NatsCluster:
    """Some servers that are one broker.

    Attributes:
        servers: the members, by name.
        url: what `--log` takes.
    """

    def __init__(self, directory: Path, number: int, arguments: Sequence[str] = ()) -> None:
        ports, routes = free_ports(number), free_ports(number)
        self.servers: dict[str, NatsServer] = {}
        for place, port in enumerate(ports):
            others = [route for other, route in enumerate(routes) if other != place]
            name = f"server-{place}"
            own_routes = [routes[place], *others] if number > 1 else []
            self.servers[name] = NatsServer(directory, name, port, own_routes, arguments)
        hosts = ",".join(server.url.removeprefix("nats://") for server in self.servers.values())
        self.url = f"nats://{hosts}/{default_stream}"

    def start(self) -> None:
        """Start all."""
        for server in self.servers.values():
            server.start()

    def kill(self) -> None:
        """Take all away."""
        for server in self.servers.values():
            server.kill()

    async def connect(self, **options: object) -> Client:
        """Return a connection to a member that is up, once the cluster answers."""
        deadline = time.monotonic() + start_seconds
        while True:
            for server in self.servers.values():
                client = Client()
                with suppress(nats.errors.Error, OSError, TimeoutError):
                    await client.connect([server.url], allow_reconnect=False, error_cb=_pass_over, **options)  # type: ignore[arg-type]
                    await client.jetstream(timeout=2).account_info()
                    return client
                await client.close()
            assert time.monotonic() < deadline, [server.words() for server in self.servers.values()]
            await asyncio.sleep(0.1)

    def publish(self, entries: Iterable[LogEntry], suffix: str = "") -> None:
        """Put entries on the stream, one after the other, as replicas do; make the stream if it is not there.

        `suffix` goes behind the ids: with another one the stream takes what it has already, as after its window.
        """
        asyncio.run(self._publish(entries, suffix))

    async def _publish(self, entries: Iterable[LogEntry], suffix: str) -> None:
        client = await self.connect()
        try:
            context = client.jetstream(timeout=10)
            replicas = len(self.servers)
            await context.add_stream(
                name=default_stream, subjects=[all_subjects(default_stream)], num_replicas=replicas
            )
            for entry in entries:
                headers = {id_header: message_id(entry) + suffix}
                subject = subject_of(default_stream, entry)
                await context.publish(subject, entry.SerializeToString(), headers=headers)
        finally:
            await client.close()

    async def stream_info(self) -> StreamInfo:
        """Return what the cluster says of the stream, once it says something."""
        client = await self.connect()
        try:
            return await _until_told(client.jetstream(timeout=2))
        finally:
            await client.close()

    async def entries(self) -> list[LogEntry]:
        """Return everything on the stream, in its order."""
        client = await self.connect()
        try:
            context = client.jetstream(timeout=10)
            state = (await _until_told(context)).state
            messages = [await context.get_msg(default_stream, sequence) for sequence in range(1, state.last_seq + 1)]
            return [LogEntry.FromString(message.data or b"") for message in messages]
        finally:
            await client.close()


@contextmanager
def running_nats(directory: Path, number: int = 1, arguments: Sequence[str] = ()) -> Iterator[NatsCluster]:
    """Run servers until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    cluster = NatsCluster(directory, number, arguments)
    cluster.start()
    try:
        for server in cluster.servers.values():
            server.wait_until_up()
        yield cluster
    finally:
        cluster.kill()


async def _until_told(context: JetStreamContext) -> StreamInfo:
    deadline = time.monotonic() + start_seconds
    while True:
        try:
            return await context.stream_info(default_stream)
        except (nats.errors.Error, TimeoutError):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def _pass_over(error: Exception) -> None:
    """Say nothing."""
