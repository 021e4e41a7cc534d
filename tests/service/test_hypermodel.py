"""One loaded version: what is checked before it may decide."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import toys
from hyperact.service.errors import VersionRefusedError
from hyperact.service.onnx_files import find_foreign
from hyperact.v1 import manifests
from hyperact.v1.model_pb2 import GraphKind
from toy_hypermodels import coefficients_of, edit, load, replace_graph


def with_external_data(directory: Path) -> None:
    """Move a version's weights into another file, as exporters do with large models."""
    graph = toys.toy_graph(toys.toy_spec(), hidden_sizes=[64])
    onnx.save(graph, directory / "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    replace_graph(directory, onnx.load(directory / "big.onnx", load_external_data=False))


def with_foreign_operator(directory: Path) -> None:
    """Use an operator that is the runtime's own invention: it would load, and compute."""
    graph = toys.toy_graph(toys.toy_spec())
    graph.graph.node[-1].input[0] = "gelu"
    graph.graph.node.insert(-1, helper.make_node("Gelu", ["last"], ["gelu"], domain="com.microsoft"))
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    replace_graph(directory, graph)


def with_names_that_are_no_text(directory: Path) -> None:
    """Flip a byte in the name of the batch's dimension; the runtime loads it, and fails when it is asked for it."""
    content = (directory / toys.onnx_file).read_bytes().replace(b"batch", b"bat\xffh")
    (directory / toys.onnx_file).write_bytes(content)
    edit(directory, lambda manifest: setattr(manifest, "onnx_sha256", hashlib.sha256(content).hexdigest()))


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "no manifest": ("MISSING", lambda directory: (directory / manifests.file_name).unlink()),
    "no graph": ("MISSING", lambda directory: (directory / toys.onnx_file).unlink()),
    "manifest is no JSON": ("CORRUPT", lambda directory: (directory / manifests.file_name).write_text("{")),
    "manifest is no text": ("CORRUPT", lambda directory: (directory / manifests.file_name).write_bytes(b"\xff\xfe")),
    "other bytes": ("CORRUPT", lambda directory: (directory / toys.onnx_file).write_bytes(b"forged")),
    "not a graph": ("LOAD_FAILED", lambda directory: replace_graph(directory, onnx.ModelProto(ir_version=9))),
    "external data": ("WRONG_SPEC", with_external_data),
    "foreign operator": ("WRONG_SPEC", with_foreign_operator),
    "names that are no text": ("LOAD_FAILED", with_names_that_are_no_text),
    "other model": ("WRONG_MODEL", lambda directory: edit(directory, lambda m: setattr(m, "model", "other"))),
    "indexed graph": (
        "WRONG_SPEC",
        lambda directory: edit(directory, lambda m: setattr(m, "graph_kind", GraphKind.GRAPH_KIND_INDEXED)),
    ),
    "other actions": (
        "WRONG_SPEC",
        lambda directory: edit(directory, lambda m: setattr(m.spec.action.discrete, "num_actions", 3)),
    ),
    "other index": ("WRONG_SPEC", lambda directory: edit(directory, lambda m: setattr(m.spec, "index_dim", 3))),
    "other shape": (
        "WRONG_SPEC",
        lambda directory: replace_graph(directory, toys.toy_graph(toys.toy_spec(2, 4, (5,)))),
    ),
    "other dtype": (
        "WRONG_SPEC",
        lambda directory: replace_graph(directory, toys.toy_graph(toys.toy_spec(observation_dtype=np.uint8))),
    ),
}


class TestLoad:
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_a_version_that_breaks_its_promise_is_refused(self, tmp_path: Path, damage: str) -> None:
        """What is not as its manifest says never decides, and the reason is a word for programs."""
        toys.toy_version(tmp_path)
        reason, damaging = DAMAGE[damage]
        damaging(tmp_path)

        with pytest.raises(VersionRefusedError) as caught:
            load(tmp_path)

        assert reason == caught.value.reason
        assert str(caught.value)

    def test_a_version_that_is_too_large_is_refused_unread(self, tmp_path: Path) -> None:
        """A limit protects the service's memory."""
        toys.toy_version(tmp_path, hidden_sizes=(100,))

        with pytest.raises(VersionRefusedError, match="limit") as caught:
            load(tmp_path, max_onnx_bytes=100)

        assert "TOO_LARGE" == caught.value.reason

    @pytest.mark.parametrize(
        "dtype", ["uint8", "float32", "float64", "float16", "int8", "int16", "int32", "int64", "bool"]
    )
    @pytest.mark.parametrize("shape", [(1,), (2, 3), (4, 2, 2)])
    def test_every_dtype_of_the_contract_is_served(self, tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        """Grids of bytes, vectors of doubles, stacked frames."""
        toys.toy_version(tmp_path, num_actions=3, index_dim=2, observation_shape=shape, observation_dtype=dtype)
        hypermodel = load(tmp_path)
        hypermodel.warm_up([1, 4])

        answer = coefficients_of(hypermodel, np.ones((5, *shape), hypermodel.checker.dtype))

        assert (5, 3, 3) == answer.shape
        assert np.float32 == answer.dtype

    @pytest.mark.parametrize("index_dim", [0, 1, 7])
    def test_rows_do_not_depend_on_each_other(self, tmp_path: Path, index_dim: int) -> None:
        """A row alone is answered as among others."""
        toys.toy_version(tmp_path, index_dim=index_dim, hidden_sizes=(16,))
        hypermodel = load(tmp_path)
        observations = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)

        together = coefficients_of(hypermodel, observations)
        alone = np.concatenate([coefficients_of(hypermodel, observations[row : row + 1]) for row in range(9)])

        # The runtime may choose another kernel for another batch size, so the last bits may differ.
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


class TestWarmUp:
    def test_numbers_that_are_none_are_found_before_anybody_is_served(self, tmp_path: Path) -> None:
        """A version that diverged in training is refused."""
        toys.toy_version(tmp_path, coefficients=np.full((2, 5), np.nan, np.float32))

        with pytest.raises(VersionRefusedError, match="finite") as caught:
            load(tmp_path).warm_up([1])

        assert "BAD_OUTPUT" == caught.value.reason

    def test_a_graph_that_cannot_take_a_batch_is_found(self, tmp_path: Path) -> None:
        """What works for one row must work for many."""
        toys.toy_version(tmp_path)
        graph = toys.toy_graph(toys.toy_spec())
        # The shape [1, 2, 5], computed from the observation so that the runtime cannot foresee it.
        graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 5], np.int64), "fixed"))
        hidden = [
            helper.make_node("ReduceMax", ["floats"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Sub", ["whole", "whole"], ["zero"]),
            helper.make_node("Add", ["fixed", "zero"], ["hidden"]),
        ]
        last = graph.graph.node.pop()
        last.input[1] = "hidden"
        graph.graph.node.extend([*hidden, last])
        replace_graph(tmp_path, graph)
        hypermodel = load(tmp_path)
        hypermodel.warm_up([1])

        with pytest.raises(VersionRefusedError, match="batch of 2") as caught:
            hypermodel.warm_up([2])

        assert "BAD_OUTPUT" == caught.value.reason


class TestForeignContent:
    def test_it_is_found_wherever_a_tensor_may_stand(self) -> None:
        """In a branch of a branch, in an attribute, in a function: a tensor elsewhere is a tensor elsewhere."""
        tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        constant = helper.make_node("Constant", [], ["c"], value=tensor)
        inner = helper.make_graph([constant], "inner", [], [])
        branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        function = helper.make_function("d", "f", [], ["c"], [constant], [helper.make_opsetid("", 17)])
        graphs = [
            helper.make_model(helper.make_graph([constant], "g", [], [])),
            helper.make_model(helper.make_graph([branch], "g", [], [])),
            helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor])),
            helper.make_model(helper.make_graph([], "g", [], []), functions=[function]),
        ]

        assert {"tensors in other files"} == {find_foreign(graph.SerializeToString()) for graph in graphs}

    def test_an_operator_outside_the_standard_is_found_wherever_it_stands(self) -> None:
        """In a branch, in a function, with a name of anybody's; the standard's own domains are no one's invention."""
        node = helper.make_node("Run", ["x"], ["y"], domain="com.example")
        inner = helper.make_graph([node], "inner", [], [])
        branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        function = helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("com.example", 1)])
        graphs = [
            helper.make_model(helper.make_graph([node], "g", [], [])),
            helper.make_model(helper.make_graph([branch], "g", [], [])),
            helper.make_model(helper.make_graph([], "g", [], []), functions=[function]),
        ]
        standard = [
            helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml"),
            helper.make_node("Relu", ["y"], ["z"], domain="ai.onnx"),
        ]

        assert {"operators of the domain 'com.example'"} == {
            find_foreign(graph.SerializeToString()) for graph in graphs
        }
        assert not find_foreign(helper.make_model(helper.make_graph(standard, "g", [], [])).SerializeToString())

    def test_an_ordinary_graph_stands_alone(self) -> None:
        """No false alarm."""
        assert not find_foreign(toys.toy_graph(toys.toy_spec(), hidden_sizes=[8]).SerializeToString())

    @pytest.mark.parametrize("content", [b"\xff", b"\x0a\xff\x01", b"\x0b", b"\xff" * 12, b"\x39\x00"])
    def test_bytes_that_are_no_message_are_told(self, content: bytes) -> None:
        """A torn file is named as such instead of being half believed."""
        with pytest.raises(ValueError, match=r"cut off|beyond|unknown|64 bits"):
            find_foreign(content)
