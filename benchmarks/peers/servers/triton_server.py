# /// script
# dependencies = ["nvidia-pytriton==0.7.0", "numpy==1.26.4", "onnxruntime==1.31.1"]
# ///
"""Triton Inference Server itself, as PyTriton's wheel brings it: the C++ front with the Python backend only.

The graph runs in a model of the Python backend, with dynamic batching of what waits. Triton's container has an ONNX
backend as well, which the wheel lacks.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytriton
import settings
from graph import Graph

CONFIG = """
name: "policy"
backend: "python"
max_batch_size: 64
dynamic_batching {{ }}
input [ {{ name: "observations" data_type: {data_type} dims: {dims} }} ]
output [ {{ name: "coefficients" data_type: TYPE_FP32 dims: {output_dims} }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def write_repository(folder: Path, graph: Graph) -> None:
    """Write a model repository whose one model runs the graph."""
    here = Path(__file__).parent
    version = folder / "policy" / "1"
    version.mkdir(parents=True)
    # The backend's Python takes no notice of PYTHONPATH.
    model = f"import sys\n\nsys.path.insert(0, {str(here)!r})\n" + (here / "triton_model.py").read_text()
    (version / "model.py").write_text(model)
    text = CONFIG.format(
        data_type={"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}[graph.dtype.name],
        dims=list(graph.observation_shape),
        output_dims=list(graph.output_shape),
    )
    (folder / "policy" / "config.pbtxt").write_text(text)


def main() -> None:
    """Become the server."""
    path, port = settings.read()
    package = Path(pytriton.__file__).parent / "tritonserver"
    folder = Path(tempfile.mkdtemp())
    write_repository(folder, Graph(path))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = folder.parent / f"{folder.name}-backends"
    shutil.copytree(package / "backends", backends)
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    # The backend's Python is that of the first python3 on the path.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["LD_LIBRARY_PATH"] = str(package.parent.parent / "nvidia_pytriton.libs")
    binary = package / "bin" / "tritonserver"
    os.execv(
        binary,
        [
            str(binary),
            f"--model-repository={folder}",
            f"--backend-directory={backends}",
            f"--grpc-port={port}",
            "--grpc-address=127.0.0.1",
            "--allow-http=false",
            "--allow-metrics=false",
        ],
    )


if __name__ == "__main__":
    main()
