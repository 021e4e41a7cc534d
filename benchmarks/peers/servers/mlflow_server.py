# /// script
# dependencies = ["mlflow==3.17.2", "onnx==1.23.2", "onnxruntime==1.31.1"]
# ///
"""MLflow's own model server: the graph in MLflow's ONNX flavour behind `mlflow models serve`."""

import os
import sys
import tempfile
from pathlib import Path

import mlflow
import onnx
import settings
from graph import Graph
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Schema, TensorSpec


def main() -> None:
    """Save the graph as a model and become its server."""
    path, port = settings.read()
    folder = Path(tempfile.mkdtemp()) / "policy"
    graph = Graph(path)
    # Without a signature numbers would arrive as int64.
    signature = ModelSignature(Schema([TensorSpec(graph.dtype, (-1, *graph.observation_shape))]))
    options = {"intra_op_num_threads": 1}
    mlflow.onnx.save_model(onnx.load(path), folder, signature=signature, onnx_session_options=options)
    # The command looks for uvicorn on the path.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    os.execv(sys.executable, [*command, "--model-uri", str(folder), "--host", "127.0.0.1", "--port", str(port)])


if __name__ == "__main__":
    main()
