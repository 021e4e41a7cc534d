"""The two served models: what `hyperact init` exports, which all servers run."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime

from hyperact.v1.manifests import file_name, from_json
from hyperact.v1.model_pb2 import ModelSpec

ATARI_LEARNER = '{"network": {"torso": "data_efficient", "hidden_sizes": [256]}}'
ENVIRONMENTS = {
    "deepsea": ["--env", "hyperact.clients.deep_sea:hyperact/DeepSea-v0", "--env-kwargs", '{"size": 20}'],
    "atari": ["--env", "ALE/Freeway-v5", "--learner", ATARI_LEARNER],
}
TITLES = {"deepsea": "DeepSea-20 MLP", "atari": "data-efficient Atari CNN"}


@dataclass
class Model:
    """A registered version in a data directory of its own."""

    name: str
    data_dir: Path

    @cached_property
    def graph(self) -> Path:
        """Where its ONNX file lies."""
        (path,) = self.data_dir.glob("artifacts/**/model.onnx")
        return path

    @cached_property
    def spec(self) -> ModelSpec:
        """What it expects."""
        return from_json((self.graph.parent / file_name).read_text()).spec

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(str(self.graph), providers=["CPUExecutionProvider"])

    def coefficients(self, observations: np.ndarray) -> np.ndarray:
        """Return what ONNX Runtime says of observations, float32 [B, num_actions, index_dim + 1]."""
        (found,) = self._session.run(["coefficients"], {"observations": observations})
        return np.asarray(found)


def make_model(name: str, folder: Path) -> Model:
    """Register an untrained version of a model, unless it was done before."""
    data_dir = folder / name
    if not list(data_dir.glob("artifacts/**/model.onnx")):
        command = [sys.executable, "-m", "hyperact.command_line", "init", "--data-dir", str(data_dir), "--promote"]
        subprocess.run([*command, *ENVIRONMENTS[name]], check=True, stdout=subprocess.DEVNULL)
    return Model(name, data_dir)
