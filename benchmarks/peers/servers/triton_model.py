"""The graph as a model of Triton's Python backend."""

import numpy as np
import triton_python_backend_utils as pb_utils
from graph import Graph


class TritonPythonModel:
    """Asks the graph once for all requests that Triton hands over together."""

    def initialize(self, _arguments: dict) -> None:
        """Load the graph."""
        self._graph = Graph()

    def execute(self, requests: list) -> list:
        """Answer a batch of requests."""
        questions = [pb_utils.get_input_tensor_by_name(request, "observations").as_numpy() for request in requests]
        coefficients = self._graph.coefficients(np.concatenate(questions))
        ends = np.cumsum([len(question) for question in questions])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("coefficients", np.ascontiguousarray(part))])
            for part in np.split(coefficients, ends)
        ]
