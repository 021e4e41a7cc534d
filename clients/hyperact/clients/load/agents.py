"""Agents that need no environment: they see something that fits the spec, and carry their token as real ones do."""

import math

import numpy as np

from hyperact.v1.decision_pb2 import ActRequest, ActResponse
from hyperact.v1.model_pb2 import ModelSpec
from hyperact.v1.tensor_pb2 import Tensor
from hyperact.v1.tensors import numpy_dtype, to_tensor

episode_length = 50
_largest = 1e6


class LoadAgent:
    """One session's next request. Its observation never changes; its episodes have `episode_length` steps."""

    def __init__(self, session: str, model: str, spec: ModelSpec, seed: int) -> None:
        self._request = ActRequest(session=session, model=model, observation=random_observation(spec, seed))
        self._num_steps = 0

    def request(self) -> ActRequest:
        """Return the next request."""
        return self._request

    def take(self, answer: ActResponse) -> None:
        """Take in the answer: its token and an outcome go into the next request."""
        self._num_steps += 1
        self._request.token = answer.token
        self._request.outcome.reward = 0.0
        self._request.outcome.terminated = self._num_steps % episode_length == 0


def random_observation(spec: ModelSpec, seed: int) -> Tensor:
    """Return an observation within the spec's bounds, drawn uniformly; without bounds, from 0 to 1."""
    observation, random = spec.observation, np.random.default_rng(seed)
    dtype, shape = numpy_dtype(observation.dtype), tuple(observation.shape)
    low = max(observation.minimum, -_largest) if observation.HasField("minimum") else 0.0
    high = min(observation.maximum, _largest) if observation.HasField("maximum") else 1.0
    if dtype.kind == "f":
        return to_tensor(random.uniform(low, high, shape).astype(dtype))
    return to_tensor(random.integers(math.ceil(low), math.floor(high), shape, endpoint=True).astype(dtype))
