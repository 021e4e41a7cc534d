"""Tensors of the Open Inference Protocol: messages to arrays and back. Pure.

Its element types have names of their own, and the elements come either as bytes beside the message or as numbers in the
one field that their type has. Source: github.com/kserve/open-inference-protocol, inference_grpc.md, "Tensor Data".
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelMetadataResponse
from hyperact.service.errors import InvalidRequestError

_contents_field = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of an element type: FP32 for float32, UINT8 for uint8, BOOL for bool."""
    return dtype.name.upper().replace("FLOAT", "FP")


def to_metadata(name: str, dtype: np.dtype[Any], shape: Sequence[int]) -> ModelMetadataResponse.TensorMetadata:
    """Return the description of an input or output; `shape` is one row's, with -1 for any length, as the batch has."""
    return ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype_of(dtype), shape=[-1, *shape])


def read_inputs(
    request: ModelInferRequest, expected: Sequence[ModelMetadataResponse.TensorMetadata], max_rows: int
) -> dict[str, NDArray[Any]]:
    """Return a request's inputs by name; all have the same number of rows.

    Raises InvalidRequestError, naming the field, unless they are just the expected ones.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"raw_input_contents: expected one for each of {len(request.inputs)} inputs, got {len(raw)}"
        raise InvalidRequestError(message, field="raw_input_contents")
    specs = {spec.name: spec for spec in expected}
    if sorted(one.name for one in request.inputs) != sorted(specs):
        message = f"inputs: expected {sorted(specs)}, got {[one.name[:80] for one in request.inputs]}"
        raise InvalidRequestError(message, field="inputs")
    inputs = {
        one.name: _read_input(one, raw[place] if raw else None, specs[one.name], f"inputs[{place}]")
        for place, one in enumerate(request.inputs)
    }
    num_rows = {len(array) for array in inputs.values()}
    if len(num_rows) != 1 or max(num_rows) > max_rows:
        message = f"inputs: expected the same 1 to {max_rows} rows of each, got {sorted(num_rows)}"
        raise InvalidRequestError(message, field="inputs")
    return inputs


def add_output(response: ModelInferResponse, name: str, array: NDArray[Any]) -> None:
    """Append an output and its bytes."""
    response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
    response.raw_output_contents.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _read_input(
    given: ModelInferRequest.InferInputTensor,
    raw: bytes | None,
    spec: ModelMetadataResponse.TensorMetadata,
    field: str,
) -> NDArray[Any]:
    if given.datatype != spec.datatype:
        message = f"{field}.datatype: expected {spec.datatype}, got {given.datatype[:80]!r}"
        raise InvalidRequestError(message, reason="WRONG_DTYPE", field=f"{field}.datatype")
    row_shape, shape = list(spec.shape[1:]), list(given.shape)
    fits = [size in (-1, found) for size, found in zip(row_shape, shape[1:], strict=False)]
    if len(shape) != len(row_shape) + 1 or not all(fits) or min(shape) < 1:
        message = f"{field}.shape: expected [rows, {', '.join(map(str, row_shape))}], got {shape[:8]}"
        raise InvalidRequestError(message, reason="WRONG_SHAPE", field=f"{field}.shape")
    dtype = np.dtype(spec.datatype.lower().replace("fp", "float")).newbyteorder("<")
    array = _read_raw(raw, dtype, shape, field) if raw is not None else _read_contents(given, dtype, shape, field)
    if dtype.kind == "f" and not np.isfinite(array).all():
        message = f"{field}: expected finite numbers, got NaN or infinity"
        raise InvalidRequestError(message, reason="NOT_FINITE", field=field)
    return array


def _read_raw(raw: bytes, dtype: np.dtype[Any], shape: list[int], field: str) -> NDArray[Any]:
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(raw) != expected_bytes:
        message = f"{field}: {dtype.name} of shape {shape} takes {expected_bytes} bytes, got {len(raw)}"
        raise InvalidRequestError(message, reason="WRONG_BYTE_COUNT", field=field)
    return np.frombuffer(raw, dtype).reshape(shape)


def _read_contents(
    given: ModelInferRequest.InferInputTensor, dtype: np.dtype[Any], shape: list[int], field: str
) -> NDArray[Any]:
    name = _contents_field[given.datatype]
    values = getattr(given.contents, name)
    if len(values) != math.prod(shape):
        message = f"{field}.contents.{name}: expected {math.prod(shape)} elements, got {len(values)}"
        raise InvalidRequestError(message, reason="WRONG_SHAPE", field=f"{field}.contents.{name}")
    if dtype.kind in "iu" and (min(values) < np.iinfo(dtype).min or max(values) > np.iinfo(dtype).max):
        message = f"{field}.contents.{name}: expected numbers that fit into {given.datatype}"
        raise InvalidRequestError(message, reason="OUT_OF_BOUNDS", field=f"{field}.contents.{name}")
    return np.array(values, dtype).reshape(shape)
