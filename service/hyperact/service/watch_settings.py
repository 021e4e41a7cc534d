"""Settings of `hyperact watch`: the declared conditions."""

from typing import Self

from pydantic import Field, model_validator

from hyperact.service.operation_settings import RegistrySettings
from hyperact.service.rollback_rules import RollbackLimits
from hyperact.service.settings import default_address
from hyperact.v1.channels import ConnectionSettings


class WatchSettings(RegistrySettings, ConnectionSettings):
    """Settings of `hyperact watch`."""

    address: str = Field(default=default_address, description="The service whose log and status are read, HOST:PORT.")
    max_loss: float | None = Field(
        default=None,
        ge=0,
        description="Take back what returns less in the mean than what it is held against, by more than this.",
    )
    min_return: float | None = Field(default=None, description="Take back what returns less than this in the mean.")
    max_error_rate: float | None = Field(
        default=None, ge=0, lt=1, description="Take back what fails more than this share of the steps it is asked for."
    )
    min_episodes: int = Field(
        default=30, ge=2, description="Episodes of a deployment, and of what it is held against, before returns count."
    )
    min_steps: int = Field(default=200, ge=1, description="Steps of a deployment before its failures count.")
    confidence: float = Field(
        default=0.99, gt=0.5, lt=1, description="How certain a condition must be, over all looks at one deployment."
    )
    poll_seconds: float = Field(default=5.0, gt=0, description="How often to look.")
    once: bool = Field(default=False, description="Whether to look once and end, for a scheduler.")
    num_entries: int = Field(
        default=100_000, ge=1, description="How many of the newest log entries of each partition are read at the start."
    )
    watcher: str = Field(default="hyperact watch", min_length=1, description="Who the ledger says it was.")
    timeout_seconds: float = Field(default=5.0, gt=0, description="How long to wait for the service's status.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_loss is None and self.min_return is None and self.max_error_rate is None:
            raise ValueError("declare at least one condition: max_loss, min_return or max_error_rate")
        return self

    @property
    def limits(self) -> RollbackLimits:
        """The declared conditions."""
        return RollbackLimits(
            max_loss=self.max_loss,
            min_return=self.min_return,
            max_error_rate=self.max_error_rate,
            min_episodes=self.min_episodes,
            min_steps=self.min_steps,
            confidence=self.confidence,
        )
