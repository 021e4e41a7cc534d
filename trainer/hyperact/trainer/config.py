"""What a learner can be told. What travels with a version (discount, index, actions) stands in its ModelSpec instead.

The presets: DeepSea's column of the released code for anything an MLP takes, Atari's for 84 x 84 stacks, and one for
one-shot agents.
Sources: arXiv:2402.10228 (tables 4 and 5) and github:szrlee/HyperAgent; where the two differ, the code, but for three
choices of ours. DeepSea's indices are Gaussian and its perturbation scale 1e-4, as in the revision that the published
curves were made with. Replay keeps fewer transitions. Two small Atari terms of the code are settings that are off: the
penalty on generated weights (`regularisation`: 0.01) and the one on the gradient's norm (`gradient_penalty`: 0.01),
which about doubles an update's cost.

One-shot agents have a preset of ours (docs/bandit.md). Their rewards are learned as they are, without a
bootstrap, so values are of the reward's size, about 1, and wide torsos learn fast. Against that size:

- The prior is small (a standard deviation of about 0.06 where nothing was learned): exploration comes from the mean's
  errors as much as from the index, and every try of a bad action costs a whole reward.
- Sigma is about the reward's noise, which is near nothing where the same observation gives the same reward.
- A decoupled weight decay and more updates per transition: the first versions are made from tens of rewards.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hyperact.v1.model_pb2 import AgentKind, ModelSpec
from hyperact.v1.tensors import numpy_dtype

atari_shape = (4, 84, 84)

# "atari" and "nature" have the three convolutions of Nature's DQN and differ in `hidden_sizes` alone (see
# `atari_networks`); "data_efficient" has the two of data-efficient Rainbow.
TorsoName = Literal["mlp", "atari", "nature", "data_efficient"]
DeviceName = Literal["auto", "cpu", "cuda"]
HeadName = Literal["hyperagent", "hyperdqn", "linear", "ensemble", "epinet", "generated_mlp"]


class NetworkConfig(BaseModel):
    """The shape and the initial scale of a hypermodel's networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    torso: TorsoName = Field(default="mlp", description="Feature network; the frozen prior has one of its own.")
    head: HeadName = Field(
        default="hyperagent", description="What turns features and an index into values: a file of `heads` each."
    )
    hidden_sizes: tuple[int, ...] = Field(
        default=(64, 64), description="Widths of the fully connected layers (DeepSea's)."
    )
    has_biases: bool = Field(
        default=True,
        description="Whether an MLP's layers have biases; over one-hot observations they are what all cells share.",
    )
    first_layer_deviation: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of the learnable MLP's first weights; unset: Xavier's, which falls with the "
        "observation's size.",
    )
    head_deviation: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of HyperAgent's learnable last-layer weights; unset: as published.",
    )
    posterior_scale: float = Field(default=1.0, description="Weight of the learnable part (code's posterior_scale).")
    prior_scale: float = Field(
        default=10.0, description="Weight of the frozen prior (code's prior_scale for DeepSea); 0: no prior."
    )
    prior_form: Literal["features", "uniform"] = Field(
        default="features",
        description="HyperAgent's prior: published, whose spread falls with the observation's size; or of the same "
        "spread, prior_scale, for every observation and action, with mean zero.",
    )
    prior_row_norm: float = Field(
        default=1.0, description="Norm of each of the prior's loading rows (code's prior_std)."
    )
    mean_init: Literal["sphere", "xavier"] = Field(
        default="sphere", description="How the mean weights start: one unit vector of all, or Xavier normal per action."
    )
    epinet_hidden_size: int = Field(default=50, gt=0, description="Width of the epinet (released code of ENN-DQN).")


class OptimismConfig(BaseModel):
    """Optimistic index sampling: values are a quantile over several indices instead of those under one.

    Source: arXiv:2402.10228 equations 8 and 9; the published runs used the 0.8 quantile of 5 for both (ALGORITHM 2.7).
    `target_deviations` is ours: the same without drawing, see `losses.upper_values`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_indices: int = Field(
        default=1, ge=0, description="Indices per decision and per target; 0: all that a discrete distribution has."
    )
    quantile: float = Field(default=1.0, ge=0, le=1, description="The quantile over them; 1: the maximum.")
    is_acting: bool = Field(default=True, description="Whether agents act by it, in process and served.")
    is_in_targets: bool = Field(default=True, description="Whether targets bootstrap from it.")
    target_deviations: float | None = Field(
        default=None,
        ge=0,
        description="Targets bootstrap from each action's mean over all indices and so many standard deviations more, "
        "in closed form (heads that are affine in the index); unset: from the quantile.",
    )


class EpsilonConfig(BaseModel):
    """Epsilon-greedy exploration: a share of uniformly random actions that falls linearly; served, it has fallen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin: float = Field(default=0.0, ge=0, le=1, description="The share at the first step.")
    end: float = Field(default=0.0, ge=0, le=1, description="The share after `num_steps`.")
    num_steps: int = Field(default=0, ge=0, description="Steps over which it falls.")
    evaluation: float = Field(default=0.0, ge=0, le=1, description="The share in evaluation episodes.")


class LearnerConfig(BaseModel):
    """How one learner learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str = Field(default="hyperagent", description="The published variant that these settings began from.")
    network: NetworkConfig = Field(default=NetworkConfig(), description="The networks.")
    loss: Literal["expected", "sampled", "enumerated"] = Field(
        default="expected",
        description="How the squared error is averaged over indices: exactly in closed form (affine heads with "
        "independent targets), over `num_indices` drawn ones, or over all that a discrete distribution has.",
    )
    num_indices: int = Field(
        default=20, gt=0, description="Indices per transition of the sampled loss (the papers' 20)."
    )
    shares_indices: bool = Field(
        default=False, description="Whether all transitions of a batch have the sampled loss's same indices (HyperDQN)."
    )
    target_index: Literal["independent", "dependent"] = Field(
        default="independent",
        description="Whether a target is under an index of its own, one per transition, or under the loss's.",
    )
    is_double: bool = Field(default=True, description="Whether the online network chooses the action of the target.")
    optimism: OptimismConfig = Field(default=OptimismConfig(), description="Optimistic index sampling.")
    epsilon: EpsilonConfig = Field(default=EpsilonConfig(), description="Random actions.")
    gradient_penalty: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the squared norm of the gradient of the batch's mean value by the weights (released "
        "code on Atari: 0.01; about doubles an update's cost).",
    )
    value_bound: float | None = Field(
        default=None, description="Targets bootstrap from no more than this; unset: from whatever the networks say."
    )
    regularisation: float = Field(
        default=0.0,
        ge=0,
        description="Beta: the mean square of generated last-layer weights counts beta / transitions in the buffer.",
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam's step size (DeepSea's).")
    adam_epsilon: float = Field(default=1.5e-4, gt=0, description="Adam's epsilon (released code).")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="How much of each weight a learner step takes off, times learning_rate (AdamW; no source has it).",
    )
    max_gradient_norm: float = Field(
        default=10.0, gt=0, description="Gradients are clipped to this global norm (released code)."
    )
    batch_size: int = Field(default=128, gt=0, description="Transitions per learner step (DeepSea's).")
    target_update_period: int = Field(
        default=4, gt=0, description="Learner steps between hard copies to the target network."
    )
    num_td_steps: int = Field(
        default=1, gt=0, description="Rewards summed before the bootstrap: the n of n-step (DeepSea's 1)."
    )
    perturbation_scale: float = Field(
        default=1e-4,
        ge=0,
        description="Sigma, the weight of the stored perturbation; about the reward's noise in a bandit.",
    )
    perturbation: Literal["sphere", "gaussian"] = Field(
        default="sphere", description="Where the stored perturbation lies: on the unit sphere, or standard normal."
    )
    mask_probability: float = Field(
        default=1.0, gt=0, le=1, description="The chance that a member of an ensemble learns from a transition."
    )
    replay_capacity: int = Field(default=200_000, gt=0, description="Transitions kept; the oldest leave first.")
    num_stacked_frames: int = Field(
        default=1,
        gt=0,
        description="Frames that an observation stacks on its first axis; the replay buffer stores each once.",
    )
    replay_ratio: float = Field(
        default=4.0,
        gt=0,
        description="Learner steps per new transition of `retrain` (measured: `hyperact bench deployments`).",
    )
    updates_per_step: int = Field(
        default=1, gt=0, description="Learner steps of `train` per environment step (the papers' 1)."
    )
    min_replay_size: int = Field(
        default=128, ge=0, description="Transitions before `train` begins to learn (released code)."
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether learner steps are compiled: from the first on, never, or (auto) from the 10 000th on.",
    )
    reward_view: Literal["raw", "sign"] = Field(
        default="raw", description="What is learned of a reward; the log keeps it raw."
    )

    def with_overrides(self, overrides: Mapping[str, Any]) -> "LearnerConfig":
        """Return this config with some fields changed; a group takes a mapping of its own. Unknown fields raise."""
        fields = self.model_dump()
        for name, value in overrides.items():
            is_group = isinstance(value, Mapping) and isinstance(fields.get(name), dict)
            fields[name] = fields[name] | value if is_group else value
        return LearnerConfig.model_validate(fields)


deep_sea = LearnerConfig()
atari = LearnerConfig(
    network=NetworkConfig(
        torso="atari",
        hidden_sizes=(256,),
        posterior_scale=0.1,
        prior_scale=0.1,
        prior_row_norm=0.1,
        mean_init="xavier",
    ),
    learning_rate=1e-4,
    batch_size=32,
    target_update_period=5,
    num_td_steps=5,
    perturbation_scale=0.01,
    replay_capacity=100_000,
    num_stacked_frames=4,
    # The papers' one update per step: on frames an update costs a hundred times one on a small grid.
    replay_ratio=1.0,
    min_replay_size=2_000,
    reward_view="sign",
)

bandit = LearnerConfig(
    network=NetworkConfig(hidden_sizes=(256, 64), prior_scale=0.02),
    perturbation_scale=0.01,
    weight_decay=0.3,
    replay_ratio=8.0,
)


# Atari's networks by name: the papers' own (ALGORITHM 3.5), Nature's DQN (10.1038/nature14236) and data-efficient
# Rainbow's (arXiv:1906.05243). All have the papers' normalisation of features and scales of heads.
atari_networks = {
    "atari": atari.network,
    "nature": atari.network.model_copy(update={"torso": "nature", "hidden_sizes": (512,)}),
    "data_efficient": atari.network.model_copy(update={"torso": "data_efficient", "hidden_sizes": (256,)}),
}


def is_atari(spec: ModelSpec) -> bool:
    """Tell whether observations are stacks of four 84 x 84 frames of bytes."""
    return tuple(spec.observation.shape) == atari_shape and numpy_dtype(spec.observation.dtype) == "uint8"


def preset(spec: ModelSpec) -> LearnerConfig:
    """Return the settings for observations of this kind: the published ones, or ours for one-shot agents."""
    if is_atari(spec):
        return atari
    return bandit if spec.agent_kind == AgentKind.AGENT_KIND_ONE_SHOT else deep_sea
