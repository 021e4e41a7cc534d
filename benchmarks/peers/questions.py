"""What the agents of each protocol say and hear: observations into bytes, bytes into coefficients."""

import json
from abc import ABC, abstractmethod

import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from hyperact.clients.load.agents import LoadAgent
from hyperact.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from hyperact.v1.decision_pb2 import (
    ActBatchRequest,
    ActBatchResponse,
    ActRequest,
    ActResponse,
    ActResult,
    ActStreamRequest,
    ActStreamResponse,
)
from hyperact.v1.tensors import to_tensor


class WrongAnswerError(Exception):
    """An answer that differs from the graph's."""


class Language(ABC):
    """How a server is asked for coefficients."""

    @abstractmethod
    def encode(self, observations: np.ndarray) -> bytes:
        """Return the question for observations [B, ...]."""

    @abstractmethod
    def decode(self, answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """Return the coefficients of an answer, float32 in the shape that is expected."""


class RawBytes(Language):
    """The observations' bytes; the coefficients' bytes."""

    def encode(self, observations: np.ndarray) -> bytes:
        return observations.tobytes()

    def decode(self, answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(answer, np.float32).reshape(shape)


class WrappedBytes(RawBytes):
    """The same in google.protobuf.BytesValue, for servers that insist on a message."""

    def encode(self, observations: np.ndarray) -> bytes:
        return BytesValue(value=super().encode(observations)).SerializeToString()

    def decode(self, answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return super().decode(BytesValue.FromString(answer).value, shape)


class OpenInference(Language):
    """ModelInfer of the Open Inference Protocol, version 2, with raw contents."""

    def encode(self, observations: np.ndarray) -> bytes:
        tensor = ModelInferRequest.InferInputTensor(
            name="observations",
            datatype={"uint8": "UINT8", "float32": "FP32"}[observations.dtype.name],
            shape=observations.shape,
        )
        question = ModelInferRequest(model_name="policy", inputs=[tensor], raw_input_contents=[observations.tobytes()])
        return question.SerializeToString()

    def decode(self, answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
        found = ModelInferResponse.FromString(answer)
        if found.raw_output_contents:
            return np.frombuffer(found.raw_output_contents[0], np.float32).reshape(shape)
        return np.array(found.outputs[0].contents.fp32_contents, np.float32).reshape(shape)


class OpenInferenceStream(OpenInference):
    """Triton's ModelStreamInfer: the same questions; an answer is wrapped as the second field of a message."""

    def decode(self, answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return super().decode(inner_message(answer, 2), shape)


class Json(Language):
    """Arrays as nested lists.

    Args:
        question, answer: the keys under which they stand; "" for an answer that is the array itself.
    """

    def __init__(self, question: str, answer: str) -> None:
        self._question, self._answer = question, answer

    def encode(self, observations: np.ndarray) -> bytes:
        return json.dumps({self._question: observations.tolist()}, separators=(",", ":")).encode()

    def decode(self, answer: bytes, shape: tuple[int, ...]) -> np.ndarray:
        found = json.loads(answer)
        for key in filter(None, self._answer.split(".")):
            found = found[key]
        return np.array(found, np.float32).reshape(shape)


class FixedAgent:
    """Asks the same again and again, and hears whether the first answer is right and the others as long.

    Args:
        language: how to ask.
        observations: what it sees, [B, ...].
        coefficients: what the graph says of it, [B, num_actions, index_dim + 1]; None if nothing is to be compared.
    """

    def __init__(self, language: Language, observations: np.ndarray, coefficients: np.ndarray | None) -> None:
        self._question, self._language = language.encode(observations), language
        self._coefficients, self._size = coefficients, 0

    def request(self) -> bytes:
        """Return the question."""
        return self._question

    def take(self, answer: bytes) -> None:
        """Compare the first answer with the graph's; look at the size of the others."""
        if self._size == 0:
            self._size = len(answer)
            if self._coefficients is not None:
                compare(self._language.decode(answer, self._coefficients.shape), self._coefficients)
        elif abs(len(answer) - self._size) > self._size // 2:
            raise WrongAnswerError(f"an answer of {len(answer)} bytes after one of {self._size}")


class HyperactAgent:
    """Some agents of Hyperact that share messages: tokens and outcomes go along as real ones carry them."""

    def __init__(self, way: str, agents: list[LoadAgent]) -> None:
        self._way, self._agents = way, agents

    def request(self) -> bytes:
        """Return the next message."""
        requests = [agent.request() for agent in self._agents]
        if self._way == "stream":
            return ActStreamRequest(requests=requests).SerializeToString()
        if len(requests) > 1:
            return ActBatchRequest(requests=requests).SerializeToString()
        return requests[0].SerializeToString()

    def take(self, answer: bytes) -> None:
        """Hand every agent its answer."""
        for agent, response in zip(self._agents, self._responses(answer), strict=True):
            agent.take(response)

    def _responses(self, answer: bytes) -> list[ActResponse]:
        if self._way == "stream":
            return [response_of(result) for result in ActStreamResponse.FromString(answer).results]
        if len(self._agents) > 1:
            return [response_of(result) for result in ActBatchResponse.FromString(answer).results]
        return [ActResponse.FromString(answer)]


class HyperactProof:
    """One step that shows its posterior, whose means are the first coefficients."""

    def __init__(self, observation: np.ndarray, coefficients: np.ndarray) -> None:
        self._request = ActRequest(
            session="proof", observation=to_tensor(observation), want_posterior=True, evaluation=True
        )
        self._coefficients = coefficients

    def request(self) -> bytes:
        """Return the question."""
        return self._request.SerializeToString()

    def take(self, answer: bytes) -> None:
        """Compare the means."""
        response = ActResponse.FromString(answer)
        if response.fallback:
            raise WrongAnswerError("no version is loaded yet")
        compare(np.array(response.posterior.means, np.float32), self._coefficients[:, 0])


def compare(found: np.ndarray, expected: np.ndarray) -> None:
    """Raise WrongAnswerError unless both are the same but for rounding."""
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise WrongAnswerError(f"differs from ONNX Runtime by up to {np.abs(found - expected).max():g}")


def response_of(result: ActResult) -> ActResponse:
    """Return a row's answer."""
    if result.HasField("error"):
        raise WrongAnswerError(result.error.message)
    return result.response


def inner_message(data: bytes, number: int) -> bytes:
    """Return the bytes of a length-delimited field that stands first in a message."""
    if data[0] != number << 3 | 2:
        raise WrongAnswerError(data.decode(errors="replace"))
    length, shift, place = 0, 0, 1
    while True:
        length |= (data[place] & 0x7F) << shift
        shift, place = shift + 7, place + 1
        if not data[place - 1] & 0x80:
            return data[place : place + length]
