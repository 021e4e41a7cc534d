"""Arrays to messages and back, and the check against a specification."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hyperact.v1.errors import FieldError
from hyperact.v1.tensor_pb2 import DataType, Tensor, TensorSpec
from hyperact.v1.tensors import TensorChecker, data_type, make_spec, numpy_dtype, to_array, to_tensor, type_of_name

names = sorted(type_of_name)
float32 = DataType.DATA_TYPE_FLOAT32


def checker(
    dtype: Any = np.float32, shape: tuple[int, ...] = (2,), minimum: float | None = None, maximum: float | None = None
) -> TensorChecker:
    spec = make_spec(dtype, shape)
    spec.MergeFrom(TensorSpec(minimum=minimum, maximum=maximum))
    return TensorChecker(spec)


class TestRoundTrip:
    @given(st.data())
    def test_an_array_comes_back_as_it_was(self, data: st.DataObject) -> None:
        """Whatever the dtype, shape and memory layout, no element changes on the wire."""
        dtype = np.dtype(data.draw(st.sampled_from(names)))
        sent_dtype = data.draw(st.sampled_from([dtype.newbyteorder("<"), dtype.newbyteorder(">")]))
        shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
        array = data.draw(hnp.arrays(sent_dtype, shapes))

        back = to_array(to_tensor(array.T))

        np.testing.assert_array_equal(array.T, back)
        assert dtype == back.dtype

    def test_bytes_are_row_major_and_little_endian(self) -> None:
        """A client in any language can build the same bytes."""
        column_major = np.asfortranarray(np.array([[1, 2], [3, 4]], ">u2"))

        tensor = to_tensor(column_major)

        assert b"\x01\x00\x02\x00\x03\x00\x04\x00" == tensor.data
        assert [2, 2] == list(tensor.shape)
        assert DataType.DATA_TYPE_UINT16 == tensor.dtype

    def test_an_empty_shape_is_a_scalar(self) -> None:
        """One number is a tensor too."""
        assert 2.5 == to_array(to_tensor(np.array(2.5)))

    def test_an_array_is_a_view_that_cannot_be_written(self) -> None:
        """Parsing a large observation costs no copy, and nobody changes the message through it."""
        array = to_array(to_tensor(np.zeros(3)))

        assert not array.flags.writeable

    @pytest.mark.parametrize("name", names)
    def test_every_element_type_has_a_dtype(self, name: str) -> None:
        """Names are NumPy's, both ways."""
        assert name == numpy_dtype(data_type(np.dtype(name))).name

    @pytest.mark.parametrize("array", [np.array(["text"]), np.array([1j]), np.array([None])])
    def test_an_array_that_the_contract_cannot_carry_is_refused(self, array: np.ndarray[Any, Any]) -> None:
        """The sender is told, and told what would do."""
        with pytest.raises(FieldError, match=r"expected one of .*float32"):
            to_tensor(array)

    def test_an_empty_array_is_refused(self) -> None:
        """The mistake shows where it is made and not at the receiver."""
        with pytest.raises(FieldError, match="at least 1"):
            to_tensor(np.zeros((0, 3)))


class TestMalformed:
    @pytest.mark.parametrize(
        ("tensor", "field"),
        [
            (Tensor(data=b"1234", shape=[1]), "dtype"),
            (Tensor(data=b"1234", dtype=99, shape=[1]), "dtype"),  # type: ignore[arg-type]
            (Tensor(data=b"1234", dtype=float32, shape=[0]), "shape"),
            (Tensor(data=b"1234", dtype=float32, shape=[-1]), "shape"),
            (Tensor(data=b"123", dtype=float32, shape=[1]), "data"),
            (Tensor(data=b"1234", dtype=float32, shape=[2**62, 2**62]), "data"),
            (Tensor(dtype=float32), "data"),
        ],
    )
    def test_the_field_at_fault_is_named(self, tensor: Tensor, field: str) -> None:
        """A person who debugs a client knows where to look."""
        with pytest.raises(FieldError) as caught:
            to_array(tensor)

        assert field == caught.value.field


class TestChecker:
    def test_what_is_as_specified_comes_back(self) -> None:
        """A good observation reaches the model unchanged."""
        assert [1.0, -2.0] == checker().to_array(to_tensor(np.array([1.0, -2.0], np.float32))).tolist()

    @pytest.mark.parametrize(
        ("array", "field", "reason"),
        [
            (np.zeros(2, np.float64), "dtype", "WRONG_DTYPE"),
            (np.zeros(3, np.float32), "shape", "WRONG_SHAPE"),
            (np.zeros((1, 2), np.float32), "shape", "WRONG_SHAPE"),
            (np.float32(0), "shape", "WRONG_SHAPE"),
            (np.array([0, np.nan], np.float32), "data", "NOT_FINITE"),
            (np.array([0, -np.inf], np.float32), "data", "NOT_FINITE"),
            (np.array([0, 1.5], np.float32), "data", "OUT_OF_BOUNDS"),
            (np.array([0, -0.5], np.float32), "data", "OUT_OF_BOUNDS"),
        ],
    )
    def test_what_is_not_as_specified_is_refused_by_name(
        self, array: np.ndarray[Any, Any], field: str, reason: str
    ) -> None:
        """Bad input never reaches the model, and its sender learns which field was wrong."""
        with pytest.raises(FieldError) as caught:
            checker(minimum=0.0, maximum=1.0).to_array(to_tensor(array))

        assert (field, reason) == (caught.value.field, caught.value.reason)

    def test_a_wrong_number_of_bytes_is_refused(self) -> None:
        """A message that was cut on the way is not padded."""
        with pytest.raises(FieldError, match="expected 8 bytes, got 7"):
            checker().to_array(Tensor(data=bytes(7), dtype=float32, shape=[2]))

    def test_the_bounds_themselves_are_allowed(self) -> None:
        """Minimum and maximum are values that an element may take."""
        ends = np.array([0, 1], np.float32)

        assert ends.tolist() == checker(minimum=0.0, maximum=1.0).to_array(to_tensor(ends)).tolist()

    @pytest.mark.parametrize(("byte", "is_good"), [(0, True), (1, True), (2, False), (255, False)])
    def test_a_boolean_is_zero_or_one(self, byte: int, is_good: bool) -> None:
        """NumPy would take any byte for a truth value and compute nonsense with it."""
        tensor = Tensor(data=bytes([byte]), dtype=DataType.DATA_TYPE_BOOL)

        if is_good:
            assert bool(byte) == checker(np.bool_, ()).to_array(tensor)
        else:
            with pytest.raises(FieldError, match="0 or 1"):
                checker(np.bool_, ()).to_array(tensor)

    @pytest.mark.parametrize("spec", [TensorSpec(), TensorSpec(dtype=float32, shape=[0])])
    def test_a_malformed_specification_is_refused_at_once(self, spec: TensorSpec) -> None:
        """A broken version is found when it is loaded and not at its first observation."""
        with pytest.raises(FieldError):
            TensorChecker(spec)


class TestManyTogether:
    """The values of many observations are looked at in one go."""

    def test_one_bad_value_among_many_is_found(self) -> None:
        """Whatever stands before and after it."""
        bounded = checker(minimum=0.0, maximum=1.0)
        good, bad = to_tensor(np.zeros(2, np.float32)), to_tensor(np.array([0.5, 2.0], np.float32))

        bounded.check_values(bounded.to_bytes(good) * 3)
        with pytest.raises(FieldError):
            bounded.check_values(bounded.to_bytes(good) + bounded.to_bytes(bad) + bounded.to_bytes(good))

    @pytest.mark.parametrize(
        ("dtype", "minimum", "maximum", "is_any_good"),
        [
            (np.uint8, None, None, True),
            (np.uint8, 0.0, 255.0, True),
            (np.uint8, 1.0, None, False),
            (np.uint8, None, 254.0, False),
            (np.int8, 0.0, None, False),
            (np.bool_, None, None, False),
            (np.float32, None, None, False),
        ],
    )
    def test_values_that_cannot_be_wrong_are_not_looked_at(
        self, dtype: Any, minimum: float | None, maximum: float | None, is_any_good: bool
    ) -> None:
        """Images of bytes cost nothing; everything that has a wrong value is looked at."""
        assert is_any_good == checker(dtype, (2,), minimum, maximum).is_any_value_good


def test_an_error_can_be_seen_from_the_message_above() -> None:
    """The service names the field from the top of the request."""
    error = FieldError("shape", "expected [2], got [3]", "WRONG_SHAPE").under("observation").under("requests[4]")

    assert "requests[4].observation.shape: expected [2], got [3]" == str(error)
    assert ("requests[4].observation.shape", "WRONG_SHAPE") == (error.field, error.reason)
