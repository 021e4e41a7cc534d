# /// script
# dependencies = ["bentoml==1.4.39", "numpy==2.4.6", "onnxruntime==1.31.1"]
# ///
"""BentoML: a service class behind its HTTP server, asked with arrays as JSON (its default)."""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from graph import PATH_VARIABLE, Graph

if PATH_VARIABLE in os.environ:

    @bentoml.service(workers=1, metrics={"enabled": False}, traffic={"timeout": 60})
    class Policy:
        """Asks the graph."""

        def __init__(self) -> None:
            self._graph = Graph()

        @bentoml.api
        async def ask(self, observations: np.ndarray) -> np.ndarray:
            """Answer a request."""
            return self._graph.coefficients(observations.astype(self._graph.dtype))


if __name__ == "__main__":
    import settings

    _, port = settings.read()
    here = Path(__file__).parent
    command = [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Policy", "--working-dir", str(here)]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])
