"""Who is put to the test on DeepSea: a variant of the learner, its settings, a sea and a seed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperact.trainer.config import LearnerConfig, preset
from hyperact.trainer.environments import Environment, make_environment, spec_of
from hyperact.trainer.learner import Learner
from hyperact.trainer.variants import variant_config, variant_spec
from hyperact.v1.model_pb2 import ModelSpec


@dataclass(frozen=True)
class Subject:
    """A variant on a sea.

    Attributes:
        variant: a name of `hyperact.trainer.variants`.
        size: N.
        seed: of the sea and of everything that the learner draws.
        changes: changes to the variant's settings, as JSON.
    """

    variant: str
    size: int
    seed: int
    changes: str = "{}"

    @property
    def label(self) -> str:
        """A short name."""
        return f"{self.variant}-{self.size}-{self.seed}"

    def identity(self) -> dict[str, Any]:
        """Return the columns that name it."""
        return {"variant": self.variant, "size": self.size, "seed": self.seed}

    def is_of(self, row: Mapping[str, str]) -> bool:
        """Tell whether a row of a results file names it."""
        return all(row[name] == str(value) for name, value in self.identity().items())

    def differences(self) -> dict[str, Any]:
        """Return what of the learner's settings is not the default."""
        return self._make_config(self._make_spec()).model_dump(mode="json", exclude_defaults=True)

    def make_environment(self) -> Environment:
        """Return the sea."""
        return make_environment("hyperact/DeepSea-v0", {"size": self.size, "mapping_seed": self.seed})

    def make_learner(self) -> Learner:
        """Return a newborn learner."""
        spec = self._make_spec()
        return Learner(spec, self._make_config(spec), self.seed)

    def _make_spec(self) -> ModelSpec:
        return variant_spec(self.variant, spec_of(self.make_environment()))

    def _make_config(self, spec: ModelSpec) -> LearnerConfig:
        return variant_config(self.variant, preset(spec)).with_overrides(json.loads(self.changes))
