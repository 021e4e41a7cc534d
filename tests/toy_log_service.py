"""A log in memory behind a real LogService, and games of DeepSea recorded into it as a service would."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import gymnasium
import numpy as np
from numpy.typing import NDArray

from hyperact.v1.decision_pb2 import Outcome, Position, Report, Step
from hyperact.v1.indices import derive_index, derive_uniform_action, index_bank
from hyperact.v1.log_pb2 import (
    AcknowledgeRequest,
    AcknowledgeResponse,
    ForgetRequest,
    ForgetResponse,
    GetRangeRequest,
    GetRangeResponse,
    LogEntry,
    LogPosition,
    ReadRequest,
    ReadResponse,
)
from hyperact.v1.log_pb2_grpc import LogServiceServicer, add_LogServiceServicer_to_server
from hyperact.v1.model_pb2 import LogRange, ModelSpec
from hyperact.v1.probabilities import Reference, probabilities
from hyperact.v1.steps import StepKey
from hyperact.v1.tensors import to_tensor

Coefficients = Callable[[NDArray[Any]], NDArray[np.float32]]
index_key = b"toy index key 16"
start_seconds = 1_700_000_000


@dataclass
class ToyLog(LogServiceServicer):
    """Entries by partition, served by the rules of log.proto. `entries_per_message` cuts messages short."""

    entries_per_message: int = 100
    partitions: dict[str, list[LogEntry]] = field(default_factory=dict)
    is_away: bool = False
    readers: dict[str, dict[str, int]] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    begins: dict[str, int] = field(default_factory=dict)

    def append(self, entry: Step | Report, partition: int = 0) -> None:
        """Add one entry at a partition's end."""
        name = f"{partition:032x}"
        entries = self.partitions.setdefault(name, [])
        logged = LogEntry(partition=name, offset=len(entries) + 1)
        if isinstance(entry, Step):
            logged.step.CopyFrom(entry)
        else:
            logged.report.CopyFrom(entry)
        entries.append(logged)

    def GetRange(self, request: GetRangeRequest, context: Any) -> GetRangeResponse:
        """Tell where partitions begin and end."""
        self._refuse_if_away(context)
        response = GetRangeResponse(set_aside=self.set_aside)
        for name, entries in list(self.partitions.items()):
            steps = [entry.step for entry in entries if entry.HasField("step")]
            response.ranges.append(LogRange(partition=name, end_offset=len(entries) + 1))
            response.ranges[-1].begin_offset = self.begins.get(name, 1)
            response.num_training_steps += sum(not step.evaluation for step in steps)
        return response

    def Read(self, request: ReadRequest, context: Any) -> Iterator[ReadResponse]:
        """Send what stands after the positions, in messages that mix the partitions."""
        self._refuse_if_away(context)
        begins = {position.partition: position.offset for position in request.positions}
        for name, begin in begins.items():
            if name not in self.partitions:
                context.abort(grpc.StatusCode.NOT_FOUND, f"no partition {name!r} here")
            if begin < self.begins.get(name, 1):
                context.abort(grpc.StatusCode.OUT_OF_RANGE, f"partition {name!r} begins at {self.begins[name]}")
        begins = self.begins | begins
        left = [entry for name, entries in self.partitions.items() for entry in entries[begins.get(name, 1) - 1 :]]
        next_offsets = dict.fromkeys(self.partitions, 1) | begins
        for start in range(0, max(len(left), 1), self.entries_per_message):
            message = left[start : start + self.entries_per_message]
            next_offsets |= {entry.partition: entry.offset + 1 for entry in message}
            positions = [LogPosition(partition=name, offset=offset) for name, offset in next_offsets.items()]
            yield ReadResponse(entries=message, next_positions=positions)

    def Acknowledge(self, request: AcknowledgeRequest, context: Any) -> AcknowledgeResponse:
        """Remember until where a reader has read."""
        self._refuse_if_away(context)
        self.readers[request.reader] = {position.partition: position.offset for position in request.positions}
        return AcknowledgeResponse()

    def Forget(self, request: ForgetRequest, context: Any) -> ForgetResponse:
        """Keep nothing for a reader any more."""
        self.readers.pop(request.reader, None)
        return ForgetResponse()

    def _refuse_if_away(self, context: Any) -> None:
        if self.is_away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


@contextmanager
def served(log: ToyLog) -> Iterator[str]:
    """Serve a log on a free port of the loopback and give its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_LogServiceServicer_to_server(log, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@dataclass
class DeepSeaPlayer:
    """Plays DeepSea by a version (or uniformly, as the fallback does) and records every step.

    The outcome of a step comes with the next one, that of an episode's last step with the next episode's first or, at
    the end, by a report: as the client library does it.
    """

    log: ToyLog
    size: int = 10
    session: str = "agent"
    partition: int = 0
    episode: int = 0

    def __post_init__(self) -> None:
        self._environment = gymnasium.make("hyperact.clients.deep_sea:hyperact/DeepSea-v0", size=self.size)

    def play(
        self,
        num_episodes: int,
        coefficients: Coefficients | None = None,
        spec: ModelSpec | None = None,
        version: str = "",
        deployment: int = 0,
        evaluation: bool = False,
    ) -> list[float]:
        """Play some episodes with fresh indices and return their returns."""
        returns = []
        for _ in range(num_episodes):
            returns.append(self._play_one(coefficients, spec, version, deployment, evaluation))
            self.episode += 1
        return returns

    def _play_one(
        self,
        coefficients: Coefficients | None,
        spec: ModelSpec | None,
        version: str,
        deployment: int,
        evaluation: bool,
    ) -> float:
        observation, _ = self._environment.reset()
        outcome, is_over, number, episode_return = None, False, 0, 0.0
        while not is_over:
            key = StepKey("default", self.session, "run", self.episode, number)
            action, propensity = self._decide(key, observation, coefficients, spec)
            step = Step(
                step_id=key.to_message(),
                observation=to_tensor(observation),
                action=action,
                version=version,
                deployment=deployment,
                propensity=propensity,
                evaluation=evaluation,
                previous_outcome=outcome,
                previous_position=None if outcome is None else Position(episode=self.episode, number=number - 1),
                fallback=not version,
            )
            step.time.FromSeconds(start_seconds + 100 * self.episode + number)
            self.log.append(step, self.partition)
            observation, reward, terminated, truncated, _ = self._environment.step(action)
            outcome = Outcome(reward=float(reward))
            is_over, number, episode_return = terminated or truncated, number + 1, episode_return + float(reward)
        outcome = Outcome(reward=float(reward), terminated=True)
        report = Report(step_id=key.to_message(), outcome=outcome, report_id="end")
        report.time.FromSeconds(start_seconds + 100 * self.episode + number)
        self.log.append(report, self.partition)
        return episode_return

    def _decide(
        self, key: StepKey, observation: NDArray[Any], coefficients: Coefficients | None, spec: ModelSpec | None
    ) -> tuple[int, float]:
        """Return the action and its propensity, as a service would log it."""
        if coefficients is None or spec is None:
            return int(2 * derive_uniform_action(index_key, key)), 0.5
        index = derive_index(index_key, key, 0, spec.index_dim, spec.reference_distribution)
        answer = coefficients(observation[np.newaxis])
        action = (answer[0, :, 0] + answer[0, :, 1:] @ index).argmax()
        reference = Reference(spec.reference_distribution, index_bank(spec.index_dim, spec.reference_distribution))
        return int(action), float(probabilities(answer, None, reference, np.array([action]))[0])
