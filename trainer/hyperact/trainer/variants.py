"""The published variants, as settings of the one learner: what each changes in a preset and in a spec.

| Name | What it is | Source |
|---|---|---|
| hyperagent | closed-form expectation over indices, independent targets: the default | arXiv:2402.10228 |
| hyperagent_sampled | the same loss as published, averaged over 20 drawn indices | equation 4 |
| hyperagent_ois | optimistic index sampling in acting and targets, 0.8 quantile of 5 | equations 8 and 9 |
| hyperagent_one_hot | one-hot indices, all of them enumerated: an ensemble of last layers | section 5 (HyperAgent OH) |
| hyperdqn | generated biases, targets under the loss's own index | github:liziniu/HyperDQN, equation 13 |
| enn_dqn | an epinet | arXiv:2107.08924, equation 14 |
| ensemble_plus | whole networks with randomized priors and masks, maximum over the target network | arXiv:1806.03335 |
| ensemble_plus_16 | the same with 16 networks, whatever the spec says | |
| ensemble_plus_os | the same, optimistic over all members: LSVI-PHE | arXiv:2106.07841 |
| hypermodel | every layer generated | arXiv:2006.07464 |
| ddqn | no index and no prior, epsilon-greedy | arXiv:1509.06461 |
| fast | HyperAgent for worlds of distinct states, which explores in a fraction of the episodes: `_fast` | ours |
| fast_batch | the same for few deployments of many episodes, each under an index of its own: `_fast_batch` | ours |
| ddqn_greedy | the same without random actions: HyperAgent without loadings and prior | a negative control |

Equations without another source are those of arXiv:2402.10228.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperact.trainer.config import LearnerConfig
from hyperact.v1.indices import GAUSSIAN, ONE_HOT, UNIT_SPHERE
from hyperact.v1.model_pb2 import ModelSpec, ReferenceDistribution


@dataclass(frozen=True, slots=True)
class Variant:
    """What a variant changes.

    Attributes:
        learner: settings that go over the preset.
        atari: settings that go over these where a convolutional torso learns from frames.
        distribution: the reference distribution that it needs; None: the spec's.
        index_dim: the index_dim that it needs; None: the spec's.
        discount: the discount that it needs; None: the spec's.
    """

    learner: Mapping[str, Any] = field(default_factory=dict)
    atari: Mapping[str, Any] = field(default_factory=dict)
    distribution: "ReferenceDistribution.ValueType | None" = None
    index_dim: int | None = None
    discount: float | None = None


default_variant = "hyperagent"

_ois = {"num_indices": 5, "quantile": 0.8}
_ensemble: dict[str, Any] = {
    "network": {"head": "ensemble", "prior_scale": 3.0},
    "loss": "enumerated",
    "target_index": "dependent",
    "is_double": False,
    "perturbation": "gaussian",
    "perturbation_scale": 0.0,
    "mask_probability": 0.5,
}
# Where every state is an observation of its own (one-hot), what is learned of one must not spill over to the others: an
# explorer that overrates places it has not been to no longer goes to the nearest new one. So: one hidden layer without
# biases, which is a row of weights for each state; small first and large last weights, so that the rows learn more than
# what they share; Adam's epsilon near the size of gradients, so that rarely visited rows do not overshoot; a prior of
# equal spread everywhere; optimism in acting and in targets, there in closed form, for what is drawn would blur the
# difference between a discovery here and one a step further; values bounded by what the prior can promise; a discount
# that prefers near discoveries to far ones; eight times as many samples a step. One setting for all sizes.
_fast: dict[str, Any] = {
    "network": {
        "hidden_sizes": (256,),
        "has_biases": False,
        "first_layer_deviation": 0.01,
        "head_deviation": 0.2,
        "prior_form": "uniform",
        "prior_scale": 1.0,
    },
    # 1.77 is the mean of the greatest of 16 standard normal draws: targets promise what acting will find.
    "optimism": {"num_indices": 16, "quantile": 1.0, "target_deviations": 1.77},
    "value_bound": 2.0,
    "learning_rate": 2e-3,
    "adam_epsilon": 5e-4,
    "batch_size": 256,
    "updates_per_step": 4,
}
# Where a version plays many episodes before anything is learned from them, they must differ: under one index each, and
# not under sixteen whose maximum is nearly the same for all. Many of them explore what is near in any case, so the
# discount need not prefer it.
_fast_batch: dict[str, Any] = _fast | {"optimism": {"num_indices": 1}, "batch_size": 128, "replay_ratio": 0.5}
_ddqn: dict[str, Any] = {"network": {"head": "linear", "prior_scale": 0.0}, "perturbation_scale": 0.0}

variants: dict[str, Variant] = {
    "hyperagent": Variant(),
    "hyperagent_sampled": Variant({"loss": "sampled"}),
    "hyperagent_ois": Variant({"optimism": _ois}),
    "fast": Variant(_fast, discount=0.97),
    "fast_batch": Variant(_fast_batch),
    "hyperagent_one_hot": Variant({"loss": "enumerated"}, distribution=ONE_HOT),
    "hyperdqn": Variant(
        {
            "network": {"head": "hyperdqn"},
            "loss": "sampled",
            "shares_indices": True,
            "target_index": "dependent",
            "perturbation_scale": 0.0,
        },
        distribution=UNIT_SPHERE,
    ),
    "enn_dqn": Variant(
        {
            "network": {"head": "epinet", "prior_scale": 1.0},
            "loss": "sampled",
            "target_index": "dependent",
            "perturbation_scale": 0.0,
        },
        distribution=GAUSSIAN,
    ),
    "ensemble_plus": Variant(_ensemble, distribution=ONE_HOT),
    "ensemble_plus_16": Variant(_ensemble, distribution=ONE_HOT, index_dim=16),
    "ensemble_plus_os": Variant(_ensemble | {"optimism": {"num_indices": 0}}, distribution=ONE_HOT),
    "hypermodel": Variant({"network": {"head": "generated_mlp"}, "loss": "sampled"}, distribution=GAUSSIAN),
    "ddqn": Variant(
        _ddqn | {"epsilon": {"begin": 1.0, "end": 0.05, "num_steps": 10_000}},
        # The papers' DDQN(ours): sums of ten rewards, few random actions in evaluations.
        atari={"num_td_steps": 10, "epsilon": {"begin": 1.0, "end": 0.1, "num_steps": 10_000, "evaluation": 0.05}},
        index_dim=0,
    ),
    "ddqn_greedy": Variant(_ddqn, index_dim=0),
}


def find_variant(name: str) -> Variant:
    """Return a variant; ValueError names those that there are."""
    if name not in variants:
        raise ValueError(f"variant: expected one of {', '.join(variants)}, got {name!r}")
    return variants[name]


def variant_spec(name: str, spec: ModelSpec) -> ModelSpec:
    """Return the spec with the index that a variant needs."""
    variant = find_variant(name)
    changed = ModelSpec()
    changed.CopyFrom(spec)
    if variant.distribution is not None:
        changed.reference_distribution = variant.distribution
    if variant.index_dim is not None:
        changed.index_dim = variant.index_dim
    if variant.discount is not None:
        changed.discount = variant.discount
    return changed


def variant_config(name: str, preset: LearnerConfig) -> LearnerConfig:
    """Return a preset with the settings of a variant."""
    variant = find_variant(name)
    config = preset.with_overrides({"variant": name, **variant.learner})
    return config if preset.network.torso == "mlp" else config.with_overrides(variant.atari)
