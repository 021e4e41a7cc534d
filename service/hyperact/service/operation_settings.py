"""Settings of the commands that ask and steer: status, promote, rollback, deployments, log."""

import getpass
import socket
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator
from pydantic_settings import CliPositionalArg

from hyperact.service.settings import default_address, fill_registry_uri
from hyperact.v1.channels import ConnectionSettings
from hyperact.v1.gates import GateLimits


class StatusSettings(ConnectionSettings, extra="forbid"):
    """Settings of `hyperact status`."""

    address: str = Field(default=default_address, description="The service's address, HOST:PORT.")
    model: str = Field(default="", description="The registered model; empty: all.")
    watch: bool = Field(default=False, description="Whether to keep the table up to date until Ctrl-C.")
    timeout_seconds: float = Field(default=5.0, gt=0, description="How long to wait for an answer.")


class RegistrySettings(BaseModel, extra="forbid"):
    """What every command that reads or writes the registry needs."""

    data_dir: Path = Field(
        default=Path("hyperact-data"), description="The directory of the log, the keys and the embedded registry."
    )
    tracking_uri: str = Field(default="", description="The MLflow registry; empty: the SQLite database in data_dir.")
    model: str = Field(default="default", min_length=1, description="The registered model.")
    alias: str = Field(default="champion", min_length=1, description="The registry alias whose version serves.")

    @property
    def registry_uri(self) -> str:
        """The registry to use, the default filled in."""
        return fill_registry_uri(self.tracking_uri, self.data_dir)


class SteeringSettings(RegistrySettings, ConnectionSettings):
    """What every command that moves the alias needs."""

    actor: str = Field(default="", description="Who the ledger says it was; empty: user@host.")
    address: str = Field(default=default_address, description="The service's address, HOST:PORT.")
    wait_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How long to wait for the service at the address to serve it; 0: not at all.",
    )

    @property
    def actor_or_user(self) -> str:
        """Who moves the alias."""
        return self.actor or f"{getpass.getuser()}@{socket.gethostname()}"


class GateSettings(SteeringSettings):
    """What is measured of a version before it serves, and its limits."""

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
        default=None,
        description="Gate: the least mean return of evaluation episodes, as the trainer measured it; unset: told only.",
    )
    max_version_bytes: int = Field(default=1 << 30, gt=0, description="The largest version to download and judge.")

    @property
    def limits(self) -> GateLimits:
        """The declared limits."""
        return GateLimits(
            max_action_flip_rate=self.max_action_flip_rate,
            max_divergence=self.max_divergence,
            min_exploration=self.min_exploration,
            min_off_policy_gain=self.min_off_policy_gain,
            min_effective_size=self.min_effective_size,
            min_evaluation_return=self.min_evaluation_return,
        )


class PromoteSettings(GateSettings):
    """Settings of `hyperact promote`."""

    version: CliPositionalArg[str] = Field(description="The registered version to put into service.")
    force: bool = Field(default=False, description="Whether to promote it although a gate holds it back.")
    reason: str = Field(default="", max_length=1000, description="Why, for the ledger; required with --force.")

    @model_validator(mode="after")
    def _check_force(self) -> Self:
        if self.force and not self.reason.strip():
            raise ValueError("force needs a reason: the ledger keeps who overrode the gates and why")
        return self


class RollbackSettings(SteeringSettings):
    """Settings of `hyperact rollback`."""

    to: str = Field(default="", description="The version to go back to; empty: the one before the last deployment.")
    reason: str = Field(default="", max_length=1000, description="Why, for the ledger.")


class CanarySettings(GateSettings):
    """Settings of `hyperact canary`."""

    version: CliPositionalArg[str] = Field(
        default="", description="The registered version to give a share of sessions to; empty with --stop."
    )
    share: float = Field(default=0.05, gt=0, le=1, description="The share of sessions whose episodes begin with it.")
    stop: bool = Field(default=False, description="Whether to end the canary: its episodes drain.")
    force: bool = Field(default=False, description="Whether to begin although a gate holds the version back.")
    reason: str = Field(default="", max_length=1000, description="Why, for the ledger; required with --force.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.version) == self.stop:
            raise ValueError("name a version, or end the canary with --stop")
        if self.force and not self.reason.strip():
            raise ValueError("force needs a reason: the ledger keeps who overrode the gates and why")
        return self


class ShadowSettings(SteeringSettings):
    """Settings of `hyperact shadow`."""

    version: CliPositionalArg[str] = Field(
        default="",
        description="The registered version that is to score what others decide; empty with --stop or --report.",
    )
    stop: bool = Field(default=False, description="Whether to end the shadow.")
    report: bool = Field(default=False, description="Whether to show what the scores in data_dir say.")
    reason: str = Field(default="", max_length=1000, description="Why, for the ledger.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.version) + self.stop + self.report != 1:
            raise ValueError("name a version, or end the shadow with --stop, or see its scores with --report")
        return self


class KillSettings(SteeringSettings):
    """Settings of `hyperact kill`."""

    to: str = Field(
        default="uniform",
        min_length=1,
        description="The baseline: a registered version, or uniform for random actions.",
    )
    reason: str = Field(min_length=1, max_length=1000, description="Why, for the ledger.")


class DeploymentsSettings(RegistrySettings):
    """Settings of `hyperact deployments`."""

    num_entries: int = Field(default=50, ge=1, description="How many to show, the newest last.")


class LogAction(StrEnum):
    """What `hyperact log` does."""

    TAIL = "tail"
    RANGE = "range"
    VERIFY = "verify"
    FORGET = "forget"
    EXPORT = "export"


class ExportFormat(StrEnum):
    """What `hyperact log export` writes."""

    PARQUET = "parquet"
    MINARI = "minari"


class LogSettings(ConnectionSettings, extra="forbid"):
    """Settings of `hyperact log`."""

    action: CliPositionalArg[LogAction] = Field(
        description="tail: the newest entries; range: which partitions there are and how much is in them; "
        "verify: prove the log whole or name what is wrong with it; forget: keep nothing for a reader any more; "
        "export: write it as Parquet or as a Minari dataset."
    )
    n: int = Field(default=10, ge=1, description="How many of the newest entries to show.")
    follow: bool = Field(default=False, description="Whether tail goes on with new entries until Ctrl-C.")
    address: str = Field(default=default_address, description="The service's address, HOST:PORT.")
    model: str = Field(default="", description="The registered model; empty: all.")
    timeout_seconds: float = Field(default=5.0, gt=0, description="How long to wait for an answer.")
    data_dir: Path = Field(
        default=Path("hyperact-data"),
        description="verify, export: the data directory whose log is read; the service may run.",
    )
    also: list[Path] = Field(
        default=[], description="verify: the data directories of other replicas, among which sessions moved."
    )
    reader: str = Field(default="", description="forget: the registered reader's name.")
    format: ExportFormat = Field(
        default=ExportFormat.PARQUET,
        description="export: parquet (a table of steps and one of reports) or minari (the ended training episodes of "
        "one model).",
    )
    output: Path = Field(
        default=Path("hyperact-export"),
        description="export: the directory to write to; for minari, the root of datasets (MINARI_DATASETS_PATH).",
    )
    dataset_id: str = Field(default="", description="export: the Minari dataset's id; empty: hyperact/MODEL-v0.")
    spec: Path | None = Field(
        default=None,
        description="export: a file with the model's spec (the JSON form of ModelSpec), for minari; unset: an episodic "
        "agent without a reward window, and spaces as found in the log.",
    )
