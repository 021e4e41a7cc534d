"""Settings of the room's commands. Parsed at one edge: nothing below reads flags or the environment."""

import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import CliPositionalArg

from hyperact.trainer.config import DeviceName, LearnerConfig
from hyperact.trainer.variants import find_variant
from hyperact.v1.channels import ConnectionSettings
from hyperact.v1.model_pb2 import AgentKind
from hyperact.v1.streams import StreamAccess

agent_kinds = {
    "episodic": AgentKind.AGENT_KIND_EPISODIC,
    "continuing": AgentKind.AGENT_KIND_CONTINUING,
    "one-shot": AgentKind.AGENT_KIND_ONE_SHOT,
}


class CommonSettings(BaseModel):
    """What every command of the trainer takes."""

    model_config = ConfigDict(extra="forbid")

    data_dir: Path = Field(
        default=Path("hyperact-data"), description="The directory of the learner's state and the embedded registry."
    )
    tracking_uri: str = Field(default="", description="The MLflow store; empty: the SQLite database in data_dir.")
    model: str = Field(default="default", min_length=1, max_length=200, description="The registered model.")
    alias: str = Field(default="champion", min_length=1, description="The registry alias that serves.")
    env: str = Field(
        default="", description="A Gymnasium environment: an id, module:id, ALE/GAME-v5 or hyperact/DeepSea-v0."
    )
    env_kwargs: dict[str, Any] = Field(
        default_factory=dict, description='Keyword arguments of the environment, as JSON: {"size": 10}.'
    )
    spec: str = Field(
        default="", description="Instead of an environment: a file with the ModelSpec that is learned, as JSON."
    )
    agent_kind: Literal["episodic", "continuing", "one-shot"] = Field(
        default="episodic", description="How steps group into episodes: episodic, continuing or one-shot."
    )
    discount: float = Field(
        default=0.99, gt=0, lt=1, description="The factor by which a reward one step later counts less."
    )
    index_dim: int = Field(default=4, ge=1, le=4096, description="The length of an index.")
    reward_window_seconds: float = Field(
        default=0.0, ge=0, description="How long after a step rewards for it add up; 0: the first one settles it."
    )
    default_reward: float | None = Field(
        default=None,
        description="The reward of a step for which none came in the window; unset: it is not learned from.",
    )
    variant: str = Field(
        default="",
        description="A variant of the learner by name: fast, hyperagent_ois, ddqn, ... Its settings go over the "
        "preset, and what it needs of index and discount over the other settings. Empty: hyperagent.",
    )
    learner: dict[str, Any] = Field(
        default_factory=dict,
        description="Changes to the preset and the variant, as JSON: "
        '{"learning_rate": 0.0005, "network": {"prior_scale": 5}}.',
    )
    seed: int = Field(default=0, ge=0, description="The seed of the networks and of what the learner draws.")
    num_threads: int = Field(default=1, ge=1, description="Threads for torch; small networks are fastest on one.")
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines look: console or json."
    )

    @field_validator("variant")
    @classmethod
    def _check_variant(cls, variant: str) -> str:
        if variant:
            find_variant(variant)
        return variant

    @field_validator("learner")
    @classmethod
    def _check_learner(cls, learner: dict[str, Any]) -> dict[str, Any]:
        try:
            LearnerConfig().with_overrides(learner)
        except ValidationError as error:
            wrong = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
            raise ValueError("; ".join(wrong)) from error
        return learner

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.env and self.spec:
            raise ValueError("env and spec: give one of the two")
        if self.default_reward is not None and not self.reward_window_seconds:
            raise ValueError("default_reward needs reward_window_seconds")
        return self


class StreamSettings(BaseModel):
    """Where the log is read instead of from a service, and who we are there."""

    model_config = ConfigDict(extra="forbid")

    log: str = Field(
        default="",
        description="Instead of the service's log: the stream that replicas ship to, nats://HOST:PORT,HOST:PORT/STREAM.",
    )
    nats_user: str = Field(default="", description="Who the trainer is to the stream's servers; empty: nobody.")
    nats_password: SecretStr = Field(
        default=SecretStr(""), description="That user's password; best by HYPERACT_NATS_PASSWORD."
    )
    nats_token: SecretStr = Field(
        default=SecretStr(""), description="Instead of user and password: a token; best by HYPERACT_NATS_TOKEN."
    )
    nats_credentials_file: str = Field(default="", description="Instead of them: a credentials file (JWT and key).")
    nats_ca_file: str = Field(
        default="", description="The certificates to trust, PEM: demands TLS of the stream's servers."
    )
    nats_certificate_file: str = Field(
        default="", description="The trainer's certificate for the stream's servers, PEM."
    )
    nats_key_file: str = Field(default="", description="That certificate's key, PEM.")

    @property
    def stream_access(self) -> StreamAccess:
        """Who we are to the stream's servers."""
        return StreamAccess(
            user=self.nats_user,
            password=self.nats_password.get_secret_value(),
            token=self.nats_token.get_secret_value(),
            credentials_file=self.nats_credentials_file,
            ca_file=self.nats_ca_file,
            certificate_file=self.nats_certificate_file,
            key_file=self.nats_key_file,
        )


class InitSettings(CommonSettings):
    """Settings of `hyperact init`."""

    promote: bool = Field(default=False, description="Whether to put the version into service.")


# `register` is also a method of abstract base classes, which nobody calls on settings.
warnings.filterwarnings("ignore", 'Field name "register" in "TrainSettings" shadows', UserWarning)


class TrainSettings(CommonSettings):
    """Settings of `hyperact train`."""

    env: str = Field(
        default="hyperact/DeepSea-v0",
        description="A Gymnasium environment: an id, module:id, ALE/GAME-v5 or hyperact/DeepSea-v0.",
    )
    size: int = Field(
        default=0, ge=0, description="DeepSea's size; the same as --env-kwargs '{\"size\": ...}'. 0: not given."
    )
    num_steps: int = Field(default=50_000, gt=0, description="Environment steps at most; ends earlier when solved.")
    evaluation_period: int = Field(
        default=0,
        ge=0,
        description="Steps between evaluations; 0: 1000 if the environment tells its optimal return, else none.",
    )
    evaluation_episodes: int = Field(
        default=100, gt=0, description="Episodes of one evaluation, each with a fresh index."
    )
    checkpoint: Path | None = Field(
        default=None,
        description="A file for the run's whole state: an interrupted run goes on from it, in a new episode. It is "
        "removed at the run's end. Unset: none.",
    )
    checkpoint_period: int = Field(default=5_000, gt=0, description="Steps between checkpoints.")
    device: DeviceName = Field(
        default="cpu",
        description="Where to learn and act: cpu, cuda, or auto (cuda for frames, where there is such a device).",
    )
    register: bool = Field(default=True, description="Whether to register the result.")
    promote: bool = Field(default=False, description="Whether to put the registered result into service.")


class RetrainSettings(CommonSettings, ConnectionSettings, StreamSettings):
    """Settings of `hyperact retrain`."""

    address: str = Field(default="127.0.0.1:50051", description="The service whose log is read.")
    reader: str = Field(
        default="",
        max_length=64,
        description="The name under which the log keeps what was not read yet, one a trainer; empty: the model's.",
    )
    min_new_steps: int = Field(default=200, gt=0, description="New training steps to wait for before learning.")
    schedule: list[int] = Field(
        default_factory=list,
        description="Training steps in the log at which to learn, ascending, as JSON: [100, 200, 400]. "
        "After the last, min_new_steps.",
    )
    replay_ratio: float = Field(
        default=0.0, ge=0, description="Learner steps per new transition; 0: the preset's (4, Atari 1, one-shot 8)."
    )
    batch_size: int = Field(
        default=0, ge=0, description="Transitions per learner step; 0: the preset's (128, Atari 32)."
    )
    device: DeviceName = Field(
        default="cpu",
        description="Where to learn and act: cpu, cuda, or auto (cuda for frames, where there is such a device).",
    )
    max_versions: int = Field(default=0, ge=0, description="Versions to make before ending; 0: until stopped.")
    promote: bool = Field(default=True, description="Whether to put versions that pass the gates into service.")
    poll_seconds: float = Field(default=0.5, gt=0, description="How often to look for new steps.")
    max_action_flip_rate: float = Field(
        default=1.0, ge=0, le=1, description="Gate: the most (observation, index) pairs whose best action may change."
    )
    max_divergence: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Gate: the most total variation from the serving policy on recent observations.",
    )
    min_exploration: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Gate: the least that values must vary over indices, as a share of how the serving version's do.",
    )
    min_off_policy_gain: float | None = Field(
        default=None,
        description="Gate: the least gain over the logged return that the log must leave possible; unset: told only.",
    )
    min_effective_size: float = Field(
        default=0.0,
        ge=0,
        description="Gate: the least number of equally weighted episodes that the log must be worth; 0: none.",
    )
    off_policy_steps: int = Field(
        default=2000, ge=0, description="The newest logged steps that the off-policy estimate uses; 0: there is none."
    )
    min_evaluation_return: float | None = Field(
        default=None, description="Gate: the least mean return of evaluation episodes in env; unset: no evaluation."
    )
    evaluation_episodes: int = Field(default=20, gt=0, description="Episodes of that evaluation.")

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, schedule: list[int]) -> list[int]:
        if schedule and (schedule[0] < 1 or any(later <= earlier for earlier, later in pairwise(schedule))):
            raise ValueError("expected numbers of steps in ascending order, from 1")
        return schedule

    @model_validator(mode="after")
    def _check_evaluation(self) -> Self:
        if self.min_evaluation_return is not None and not self.env:
            raise ValueError("min_evaluation_return needs env, to play the evaluation episodes in")
        return self


class EvaluateSettings(ConnectionSettings, StreamSettings):
    """Settings of `hyperact evaluate`."""

    model_config = ConfigDict(extra="forbid")

    version: CliPositionalArg[str] = Field(description="The registered version whose value is estimated.")
    data_dir: Path = Field(default=Path("hyperact-data"), description="The directory of the embedded registry.")
    tracking_uri: str = Field(default="", description="The MLflow store; empty: the SQLite database in data_dir.")
    model: str = Field(default="default", min_length=1, max_length=200, description="The registered model.")
    address: str = Field(default="127.0.0.1:50051", description="The service whose log is read.")
    first_deployment: int = Field(
        default=0, ge=0, description="Use no episode of an earlier deployment; 0: the uniform fallback's too."
    )
    max_steps: int = Field(
        default=100_000, gt=0, description="The newest episodes are used, of this many steps at most."
    )
    return_discount: float = Field(
        default=1.0, gt=0, le=1, description="How much less a reward counts one step later; 1: the plain sum."
    )
    confidence: float = Field(default=0.95, gt=0, lt=1, description="The confidence of the intervals.")
    num_indices: int = Field(
        default=1024,
        ge=1024,
        multiple_of=1024,
        description="The bank's size for joint probabilities; more lessens the Monte Carlo error.",
    )
    min_effective_size: float = Field(
        default=50.0, ge=2, description="The least number of equally weighted episodes that the log must be worth."
    )
    plot: Path | None = Field(None, description="Where to save the plot; unset: evaluation-VERSION.png in data_dir.")
    log_run: bool = Field(default=False, description="Whether to log table and plot as a run in MLflow.")
    seed: int = Field(default=0, ge=0, description="The seed of the network that is fitted, if one is.")
    num_threads: int = Field(default=1, ge=1, description="Threads for torch.")
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines look: console or json."
    )
