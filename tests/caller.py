"""Makes requests that fit whatever model a server of the contract serves. Knows stubs and GetSpec, and nothing else."""

import math
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from hyperact.v1.decision_pb2 import ActRequest, ActResponse, GetSpecRequest, Outcome
from hyperact.v1.decision_pb2_grpc import DecisionServiceStub
from hyperact.v1.log_pb2_grpc import LogServiceStub
from hyperact.v1.model_pb2 import AgentKind
from hyperact.v1.tensor_pb2 import Tensor
from hyperact.v1.tensors import numpy_dtype, to_tensor
from toy_worker import Refusal, read_refusal

deadline_seconds = 30.0


class Caller:
    """Calls one model of a server.

    Attributes:
        spec: what GetSpec said.
        num_actions: how many actions there are.
    """

    def __init__(self, channel: grpc.Channel, model: str) -> None:
        self.channel = channel
        self.decision = DecisionServiceStub(channel)
        self.log = LogServiceStub(channel)
        self.spec = self.decision.GetSpec(GetSpecRequest(model=model), timeout=deadline_seconds)
        self.model = self.spec.model
        self.num_actions = self.spec.spec.action.discrete.num_actions
        self.is_one_shot = self.spec.spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT
        self.is_episodic = self.spec.spec.agent_kind == AgentKind.AGENT_KIND_EPISODIC

    def observation(self, number: int = 0) -> Tensor:
        """Return an observation within the spec's bounds; another one for another number."""
        spec = self.spec.spec.observation
        dtype, random = numpy_dtype(spec.dtype), np.random.default_rng(number)
        low = spec.minimum if spec.HasField("minimum") else 0.0
        high = spec.maximum if spec.HasField("maximum") else 1.0
        values: Any = random.uniform(low, high, tuple(spec.shape))
        if dtype.kind in "iub":
            values = random.integers(math.ceil(low), math.floor(high), tuple(spec.shape), endpoint=True)
        return to_tensor(values.astype(dtype))

    def request(self, session: str = "", number: int = 0, **fields: Any) -> ActRequest:
        """Return a request; by default of a session that nobody has used."""
        given = {"session": session or new_session(), "observation": self.observation(number), "model": self.model}
        return ActRequest(**{**given, **fields})

    def act(self, request: ActRequest) -> ActResponse:
        """Send a request."""
        answer: ActResponse = self.decision.Act(request, timeout=deadline_seconds)
        return answer

    def play(self, session: str, length: int, token: bytes = b"", **last: Any) -> list[ActResponse]:
        """Act `length` times with the token carried along; `last` is the outcome of the last but one action."""
        answers: list[ActResponse] = []
        for number in range(length):
            request = self.request(session, number, token=token)
            if answers:
                request.outcome.CopyFrom(Outcome(reward=1.0, **(last if number == length - 1 else {})))
            answers.append(self.act(request))
            token = answers[-1].token
        return answers


def new_session() -> str:
    """Return a name that nobody else uses."""
    return f"compliance-{uuid.uuid4().hex}"


def refused(call: Callable[[], Any]) -> Refusal:
    """Make a call that must fail and return what it told."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return read_refusal(error)
    raise AssertionError(f"expected an error, got {answer}")
