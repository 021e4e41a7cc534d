"""Settings of the `bench` commands."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hyperact.trainer.config import DeviceName
from hyperact.trainer.variants import find_variant


class BenchSettings(BaseModel):
    """What every benchmark of learning takes."""

    model_config = ConfigDict(extra="forbid")

    variants: list[str] = Field(
        default=["hyperagent"], min_length=1, description="Variants of the learner, by name: hyperagent,ddqn."
    )
    seeds: list[int] = Field(default=[0], min_length=1, description="Seeds: 0,1,2.")
    jobs: int = Field(default=1, ge=1, description="Runs at a time, each in a process with one thread.")
    learner: dict[str, Any] = Field(
        default_factory=dict, description='Changes to the variants, as JSON: {"target_update_period": 8}.'
    )
    results: Path = Field(
        default=Path("bench.csv"),
        description="The CSV with a row per finished run; runs that it holds are not played again.",
    )
    plot: Path | None = Field(default=None, description="Where to save a plot of all rows; unset: nowhere.")
    markdown: bool = Field(default=False, description="Print the table in Markdown.")
    play: bool = Field(default=True, description="Whether to play what is missing; else only tell what there is.")

    @field_validator("variants")
    @classmethod
    def _check_variants(cls, variants: list[str]) -> list[str]:
        for name in variants:
            find_variant(name)
        return variants


class DeepSeaSettings(BenchSettings):
    """Settings of `hyperact bench deepsea`."""

    sizes: list[int] = Field(default=[10, 20], min_length=1, description="Sizes of the sea: 20,30,40,50.")
    max_episodes: int = Field(
        default=10_000, gt=0, description="Episodes of a run at most; an unsolved one counts as so many."
    )


class DeploymentsSettings(BenchSettings):
    """Settings of `hyperact bench deployments`."""

    sizes: list[int] = Field(default=[10], min_length=1, description="Sizes of the sea: 10,20,30,50.")
    episodes_per_deployment: list[int] = Field(
        default=[20], min_length=1, description="Episodes that each deployed version plays: 20,100,500."
    )
    max_deployments: int = Field(
        default=40, gt=0, description="Deployments of a run at most; an unsolved one counts as so many."
    )
    min_learner_steps: int = Field(
        default=0,
        ge=0,
        description="Learner steps before each deployment at least; more where replay_ratio for each new transition "
        "comes to more.",
    )


class AtariSettings(BenchSettings):
    """Settings of `hyperact bench atari`."""

    games: list[str] = Field(default=["Freeway"], min_length=1, description="Games by ALE's names: Freeway,RoadRunner.")
    steps: int = Field(default=100_000, gt=0, description="Interactions of a run (each four frames).")
    torso: Literal["atari", "nature", "data_efficient"] = Field(
        default="atari", description="The network: the papers' own, Nature's DQN's, or data-efficient Rainbow's."
    )
    device: DeviceName = Field(
        default="cpu",
        description="Where to learn and act: cpu, cuda, or auto (cuda for frames, where there is such a device).",
    )
    evaluation_period: int = Field(default=20_000, gt=0, description="Interactions between evaluations.")
    evaluation_episodes: int = Field(default=10, gt=0, description="Full games of one evaluation.")
    checkpoint_period: int = Field(
        default=5_000, gt=0, description="Interactions between checkpoints, from which an interrupted run goes on."
    )
    policies: Path | None = Field(
        default=None, description="A directory for each learner's state at its best evaluation; unset: not kept."
    )
