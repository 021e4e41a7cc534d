"""How a version acts, as its spec says it to whoever serves it."""

from hyperact.trainer.config import LearnerConfig
from hyperact.v1.model_pb2 import ModelSpec


def with_acting_rule(spec: ModelSpec, config: LearnerConfig) -> ModelSpec:
    """Return the spec with the acting rule of some settings; none if that is plain Thompson sampling.

    A falling share of random actions ends where it falls to: a version is served long after its first steps.
    """
    told = ModelSpec()
    told.CopyFrom(spec)
    told.ClearField("acting_rule")
    optimism = config.optimism
    if optimism.is_acting and optimism.num_indices != 1:
        told.acting_rule.num_indices = optimism.num_indices
        if optimism.quantile != 1.0:
            told.acting_rule.quantile = optimism.quantile
    if config.epsilon.end:
        told.acting_rule.epsilon = config.epsilon.end
    return told
