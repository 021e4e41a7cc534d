"""Tensors: NumPy arrays to messages and back, and the check against a specification.

Bytes are row-major and little-endian. `to_array` does not copy: the array is a read-only view of the message's bytes.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperact.v1.errors import FieldError
from hyperact.v1.tensor_pb2 import DataType, Tensor, TensorSpec
from hyperact.v1.wire import field_head

type_of_name: dict[str, "DataType.ValueType"] = {
    name.removeprefix("DATA_TYPE_").lower(): value for name, value in DataType.items() if value
}
_dtype_of_type: dict[int, np.dtype[Any]] = {
    value: np.dtype(name).newbyteorder("<") for name, value in type_of_name.items()
}
_type_of_dtype: dict[np.dtype[Any], "DataType.ValueType"] = {
    np.dtype(name): value for name, value in type_of_name.items()
}


def numpy_dtype(data_type: "DataType.ValueType | int") -> np.dtype[Any]:
    """Return NumPy's dtype (little-endian) for an element type; FieldError if there is none."""
    try:
        return _dtype_of_type[data_type]
    except KeyError:
        raise FieldError("dtype", f"expected one of {sorted(type_of_name)}, got number {data_type}") from None


def data_type(dtype: np.dtype[Any] | type) -> "DataType.ValueType":
    """Return the element type for NumPy's dtype; FieldError if the contract has none."""
    try:
        return _type_of_dtype[np.dtype(dtype)]
    except KeyError:
        raise FieldError("dtype", f"expected one of {sorted(type_of_name)}, got {np.dtype(dtype)}") from None


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return the message for an array of any memory layout; FieldError if it is empty or of another dtype."""
    native = np.asarray(array)
    if not native.size:
        raise FieldError("shape", f"every dimension must be at least 1, got {list(native.shape)}")
    element_type = data_type(native.dtype.newbyteorder("="))
    return Tensor(
        data=native.astype(_dtype_of_type[element_type], copy=False).tobytes(), dtype=element_type, shape=native.shape
    )


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Return a read-only view of a message's elements; FieldError if dtype, shape and byte count disagree."""
    dtype = numpy_dtype(tensor.dtype)
    shape = tuple(tensor.shape)
    if any(length < 1 for length in shape):
        raise FieldError("shape", f"every dimension must be at least 1, got {list(shape)}")
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != expected_bytes:
        raise FieldError(
            "data", f"shape {list(shape)} of {dtype.name} takes {expected_bytes} bytes, got {len(tensor.data)}"
        )
    return np.frombuffer(tensor.data, dtype).reshape(shape)


def make_spec(array_like_dtype: np.dtype[Any] | type, shape: tuple[int, ...]) -> TensorSpec:
    """Return the specification for arrays of this dtype and shape, without bounds."""
    return TensorSpec(dtype=data_type(array_like_dtype), shape=shape)


class TensorChecker:
    """Checks tensors against one specification; made once, used for every observation.

    Raises FieldError on construction if the specification itself is malformed.

    Attributes:
        is_any_value_good: whether there is nothing to check in the values: bytes without bounds, for example.
        head: a serialised Tensor of this specification but for the elements' bytes, which come after it.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self.dtype = numpy_dtype(spec.dtype)
        self.shape = tuple(spec.shape)
        if any(length < 1 for length in self.shape):
            raise FieldError("shape", f"every dimension must be at least 1, got {list(self.shape)}")
        self.num_bytes = math.prod(self.shape) * self.dtype.itemsize
        self._data_type = spec.dtype
        self._minimum = spec.minimum if spec.HasField("minimum") else None
        self._maximum = spec.maximum if spec.HasField("maximum") else None
        self._is_float = self.dtype.kind == "f"
        form = Tensor(dtype=spec.dtype, shape=self.shape)
        self.head = form.SerializeToString() + field_head(Tensor.DATA_FIELD_NUMBER, self.num_bytes)
        self.is_any_value_good = _holds_only(self.dtype, self._minimum, self._maximum)

    def to_array(self, tensor: Tensor) -> NDArray[Any]:
        """Return the elements as a read-only view, or raise FieldError naming what is not as specified."""
        data = self.to_bytes(tensor)
        self.check_values(data)
        return np.frombuffer(data, self.dtype).reshape(self.shape)

    def to_bytes(self, tensor: Tensor) -> bytes:
        """Return the elements' bytes if dtype, shape and byte count are as specified, whatever their values are."""
        if tensor.dtype != self._data_type:
            found = _dtype_of_type[tensor.dtype].name if tensor.dtype in _dtype_of_type else f"number {tensor.dtype}"
            raise FieldError("dtype", f"expected {self.dtype.name}, got {found}", "WRONG_DTYPE")
        if tuple(tensor.shape) != self.shape:
            raise FieldError("shape", f"expected {list(self.shape)}, got {list(tensor.shape)[:8]}", "WRONG_SHAPE")
        data = tensor.data
        if len(data) != self.num_bytes:
            raise FieldError("data", f"expected {self.num_bytes} bytes, got {len(data)}", "WRONG_BYTE_COUNT")
        return data

    def check_values(self, data: bytes) -> None:
        """Raise FieldError unless all values are as specified. The bytes may be those of many tensors, joined."""
        if self.is_any_value_good:
            return
        array = np.frombuffer(data, np.uint8 if self.dtype.kind == "b" else self.dtype)
        if self._is_float and not np.isfinite(array).all():
            raise FieldError("data", "expected finite numbers, got NaN or infinity", "NOT_FINITE")
        if self.dtype.kind == "b" and array.max() > 1:
            raise FieldError("data", f"expected bytes 0 or 1, got {array.max()}", "OUT_OF_BOUNDS")
        if self._minimum is not None and array.min() < self._minimum:
            raise FieldError("data", f"expected at least {self._minimum}, got {array.min()}", "OUT_OF_BOUNDS")
        if self._maximum is not None and array.max() > self._maximum:
            raise FieldError("data", f"expected at most {self._maximum}, got {array.max()}", "OUT_OF_BOUNDS")


def _holds_only(dtype: np.dtype[Any], minimum: float | None, maximum: float | None) -> bool:
    """Tell whether an element type has no value outside of the bounds."""
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return (minimum is None or minimum <= limits.min) and (maximum is None or maximum >= limits.max)
