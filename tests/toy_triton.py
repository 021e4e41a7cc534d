"""Asks a server as `tritonclient` does: in a process of its own, for its stubs and ours have the same names.

    python tests/toy_triton.py ADDRESS MODEL

Prints as JSON what it was told, and the coefficients of a batch of three observations.
"""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2


def ask(address: str, model: str) -> dict[str, Any]:
    """Return what the server says of a model."""
    client = triton.InferenceServerClient(address)
    metadata = client.get_model_metadata(model, as_json=True)
    (spec,) = metadata["inputs"]
    shape = [3, *map(int, spec["shape"][1:])]
    observations = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    given = triton.InferInput(spec["name"], shape, spec["datatype"])
    given.set_data_from_numpy(observations)
    answer = client.infer(model, [given], request_id="seven")
    return {
        "is_live": client.is_server_live(),
        "is_ready": client.is_server_ready(),
        "is_model_ready": client.is_model_ready(model),
        "server": client.get_server_metadata(as_json=True),
        "metadata": metadata,
        "id": answer.get_response().id,
        "version": answer.get_response().model_version,
        "coefficients": answer.as_numpy("coefficients").tolist(),
        "error": _error_of(client, given),
        "fields": _fields(),
    }


def _error_of(client: Any, given: Any) -> str:
    """Return the status of asking for a model that is not there."""
    try:
        client.infer("nobody", [given])
    except triton.InferenceServerException as error:
        return str(error.status())
    return ""


def _fields() -> dict[str, dict[str, int]]:
    """Return the number of every field of every message that this client knows."""
    return {
        name: {field.name: field.number for field in message.fields}
        for name, message in service_pb2.DESCRIPTOR.message_types_by_name.items()
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask(*sys.argv[1:])))
