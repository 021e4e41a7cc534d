"""How a learner comes to be: from an environment, from a serving version's manifest, or from a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import json_format

from hyperact.trainer.checkpoints import TrainerState
from hyperact.trainer.config import DeviceName, LearnerConfig, preset
from hyperact.trainer.devices import find_device
from hyperact.trainer.learner import Learner
from hyperact.trainer.variants import default_variant, variant_config, variant_spec
from hyperact.v1.model_pb2 import ModelSpec


@dataclass(frozen=True, slots=True)
class Birth:
    """What a new learner is made of."""

    model: str
    spec: ModelSpec
    seed: int
    lineage: str
    environment: str = ""
    parent_version: str = ""


def new_state(birth: Birth, overrides: Mapping[str, Any], variant: str = default_variant) -> TrainerState:
    """Return the state of a trainer that learned nothing yet.

    A variant's settings go over the spec's preset, and what it needs of index and discount over the spec; `overrides`
    go over both.
    """
    spec = variant_spec(variant, birth.spec)
    return TrainerState(
        model=birth.model,
        spec_json=json_format.MessageToJson(spec, indent=None),
        config=variant_config(variant, preset(spec)).with_overrides(overrides),
        seed=birth.seed,
        environment=birth.environment,
        lineage=birth.lineage,
        parent_version=birth.parent_version,
    )


def spec_of_state(state: TrainerState) -> ModelSpec:
    """Return the spec that a trainer learns."""
    return json_format.Parse(state.spec_json, ModelSpec())


def make_learner(
    state: TrainerState, arrays: Mapping[str, np.ndarray[Any, Any]] | None = None, device: DeviceName = "cpu"
) -> Learner:
    """Return the learner of a state, newborn or with the arrays of its checkpoint. ValueError without such a device."""
    learner = Learner(spec_of_state(state), state.config, state.seed, find_device(device, state.config.network))
    if arrays:
        learner.set_state(arrays)
    return learner


def parameters(config: LearnerConfig, spec: ModelSpec) -> dict[str, Any]:
    """Return what a run should name as its parameters."""
    flat = {name: value for name, value in config.model_dump().items() if name != "network"}
    flat |= {f"network.{name}": value for name, value in config.network.model_dump().items()}
    shown = json_format.MessageToDict(spec, preserving_proto_field_name=True)
    return flat | {f"spec.{name}": value for name, value in shown.items()}
