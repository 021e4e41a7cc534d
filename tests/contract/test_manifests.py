"""The manifest beside an ONNX file, and what may not change from version to version."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from hyperact.v1.errors import FieldError
from hyperact.v1.manifests import check_manifest, check_spec, from_json, spec_differences, to_json, version_digest
from hyperact.v1.model_pb2 import AgentKind, GraphKind, LogRange, Manifest, ModelSpec, ReferenceDistribution
from hyperact.v1.tensors import make_spec
from toy_entries import model_spec, one_shot


def manifest() -> Manifest:
    made = Manifest(
        format_version=1,
        model="default",
        spec=model_spec(),
        graph_kind=GraphKind.GRAPH_KIND_COEFFICIENTS,
        onnx_file="model.onnx",
        onnx_sha256="0a" * 32,
        dataset=[LogRange(partition="f" * 32, begin_offset=1, end_offset=2**53 + 1)],
        parent_version="6",
        num_learner_steps=12_345,
    )
    made.create_time.FromSeconds(1_700_000_000)
    return made


class TestJson:
    def test_a_manifest_comes_back_from_its_file(self) -> None:
        """Whoever has the file has the whole promise, large offsets included."""
        assert manifest() == from_json(to_json(manifest()))

    def test_a_version_is_named_by_its_manifest(self) -> None:
        """A step says which version decided, whatever stands in the registry under that number later."""
        content = to_json(manifest()).encode()
        another = manifest()
        another.onnx_sha256 = "0b" * 32

        assert hashlib.sha256(content).digest()[:8] == version_digest(content)
        assert version_digest(content) != version_digest(to_json(another).encode())

    def test_the_file_is_read_as_bytes_too(self) -> None:
        """It is a file: nobody needs to guess its encoding."""
        assert manifest() == from_json(to_json(manifest()).encode())

    @pytest.mark.parametrize(
        "text", ["", "{", "null", "3", "[]", "{}", '{"kind": "x"}', '{"spec": 1}', b"\xff", "[" * 9999]
    )
    def test_a_file_that_is_no_manifest_is_refused(self, text: str | bytes) -> None:
        """A broken file gives one kind of error, which the service turns into a refusal of the version."""
        with pytest.raises(FieldError):
            from_json(text)


def _set(path: str, value: object) -> Callable[[Manifest], None]:
    *parents, name = path.split(".")

    def change(message: Manifest) -> None:
        target: object = message
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)

    return change


class TestCheck:
    def test_a_good_manifest_passes(self) -> None:
        """The example of these tests is one."""
        check_manifest(manifest())

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("format_version", 0),
            ("format_version", 2),
            ("model", ""),
            ("graph_kind", 0),
            ("graph_kind", 77),
            ("onnx_file", ""),
            ("onnx_file", "../model.onnx"),
            ("onnx_file", "/etc/passwd"),
            ("onnx_file", ".."),
            ("onnx_file", "a\\b"),
            ("onnx_sha256", ""),
            ("onnx_sha256", "0A" * 32),
            ("onnx_sha256", "0a" * 31),
            ("spec.observation.dtype", 0),
            ("spec.action.discrete.num_actions", 0),
            ("spec.action.discrete.num_actions", 65_537),
            ("spec.agent_kind", 0),
            ("spec.agent_kind", 9),
            ("spec.index_schedule", 0),
            ("spec.reference_distribution", 0),
            ("spec.index_dim", 4097),
            ("spec.discount", 0.0),
            ("spec.discount", 1.0),
            ("spec.discount", float("nan")),
            ("spec.default_reward", float("nan")),
            ("spec.acting_rule.num_indices", 65),
            ("spec.acting_rule.num_indices", 0),
            ("spec.acting_rule.quantile", 1.1),
            ("spec.acting_rule.epsilon", 1.0),
            ("spec.acting_rule.epsilon", float("nan")),
            ("bank_size", 15),
            ("bank_size", 65_537),
        ],
    )
    def test_the_field_at_fault_is_named_from_the_top(self, path: str, value: object) -> None:
        """The reason of a refused version says what to mend."""
        broken = manifest()
        _set(path, value)(broken)

        with pytest.raises(FieldError) as caught:
            check_manifest(broken)

        assert path == caught.value.field

    @pytest.mark.parametrize("spec", [ModelSpec(), model_spec(default_reward=0.0), model_spec(window_seconds=-1)])
    def test_a_spec_that_cannot_be_learned_from_is_refused(self, spec: ModelSpec) -> None:
        """A default reward needs a window after which it stands."""
        with pytest.raises(FieldError):
            check_spec(spec)

    def test_an_observation_that_no_message_can_carry_is_refused(self) -> None:
        """Nobody makes room for a shape before it is known that it can be asked."""
        spec = model_spec()
        del spec.observation.shape[:]
        spec.observation.shape.extend([1 << 20, 1 << 20])

        with pytest.raises(FieldError, match="observation"):
            check_spec(spec)

    def test_a_model_without_an_index_is_allowed(self) -> None:
        """A plain DQN is served like any other version."""
        spec = model_spec()
        spec.index_dim = 0

        check_spec(spec)

    def test_what_needs_an_index_needs_its_length(self) -> None:
        """Neither an indexed graph nor a choice among several indices makes sense without."""
        several, indexed = manifest(), manifest()
        several.spec.index_dim = indexed.spec.index_dim = 0
        several.spec.acting_rule.num_indices = 2
        indexed.graph_kind = GraphKind.GRAPH_KIND_INDEXED

        fields = []
        for broken in (several, indexed):
            with pytest.raises(FieldError) as caught:
                check_manifest(broken)
            fields.append(caught.value.field)

        assert ["spec.acting_rule.num_indices", "spec.index_dim"] == fields


class TestDifferences:
    def test_the_same_spec_differs_in_nothing(self) -> None:
        """An ordinary new version passes."""
        assert [] == spec_differences(model_spec(), model_spec())

    def test_how_the_index_is_drawn_may_change(self) -> None:
        """Clients do not see it: a deployment may bring another head."""
        candidate = model_spec()
        candidate.index_dim = 32
        candidate.reference_distribution = ReferenceDistribution.REFERENCE_DISTRIBUTION_ONE_HOT
        candidate.discount = 0.9
        candidate.acting_rule.epsilon = 0.1

        assert [] == spec_differences(model_spec(), candidate)

    def test_what_clients_send_and_get_may_not_change(self) -> None:
        """A version that would break running agents is named as such, field by field."""
        candidate = model_spec(one_shot, window_seconds=60)
        candidate.observation.CopyFrom(make_spec(np.uint8, (4, 84, 84)))
        candidate.action.discrete.num_actions = 18

        lines = spec_differences(model_spec(), candidate)

        assert ["spec.observation", "spec.action", "spec.agent_kind", "spec.reward_window"] == [
            line.split(":")[0] for line in lines
        ]
        assert "candidate dtype: DATA_TYPE_UINT8 shape: 4" in lines[0]
        assert str(AgentKind.AGENT_KIND_ONE_SHOT) in lines[2]
