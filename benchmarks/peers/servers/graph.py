"""The served graph: observations in, coefficients out. All servers that run Python share it."""

import os
from pathlib import Path

import numpy as np
import onnxruntime

# What a server that is not started by a script of ours (a replica, a worker) finds the graph by.
PATH_VARIABLE = "PEERS_GRAPH"


class Graph:
    """An exported version, run by ONNX Runtime in one thread."""

    def __init__(self, path: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = path or Path(os.environ[PATH_VARIABLE])
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        declared = self._session.get_inputs()[0]
        self.input_name = declared.name
        self.dtype = np.dtype({"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[declared.type])
        self.observation_shape = tuple(declared.shape[1:])
        self.output_shape = tuple(self._session.get_outputs()[0].shape[1:])

    def parse(self, data: bytes) -> np.ndarray:
        """Return the observations of a message of raw bytes, [B, *observation_shape]."""
        return np.frombuffer(data, self.dtype).reshape(-1, *self.observation_shape)

    def coefficients(self, observations: np.ndarray) -> np.ndarray:
        """Return float32 [B, num_actions, index_dim + 1]."""
        return self._session.run(["coefficients"], {self.input_name: observations})[0]
