"""The demo's settings and the sea that they describe."""

from pathlib import Path

from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pydantic import ConfigDict, Field

from hyperact.clients.deep_sea import DeepSea
from hyperact.clients.run_loop import Environments
from hyperact.v1.channels import ConnectionSettings

num_evaluation_episodes = 100
return_tolerance = 1e-6


class DemoSettings(ConnectionSettings):
    """Shows the whole loop on DeepSea: act, log, retrain, promote, until it is solved."""

    model_config = ConfigDict(extra="forbid")

    data_dir: Path = Field(
        Path("hyperact-demo"), description="Where log, registry, results and the processes' logs are."
    )
    size: int = Field(10, ge=2, description="The length of the sea's side.")
    sessions: int = Field(16, ge=1, le=256, description="How many agents play side by side.")
    episodes_per_deployment: int = Field(20, ge=1, description="Training episodes before the next deployment.")
    max_deployments: int = Field(40, ge=1, description="Deployments after which to give up.")
    seed: int = Field(0, ge=0, description="The seed of the networks and of the sea.")
    plot: str = Field("", description="The plot's file; empty: returns.png in data_dir.")
    step_seconds: float = Field(0.0, ge=0, description="A pause after each step of all sessions, to watch it longer.")
    transcript: str = Field("", description="A file to write every acknowledged step's id to, one a line.")
    start_seconds: float = Field(120.0, gt=0, description="How long the service may take to start.")


def model_name(settings: DemoSettings) -> str:
    """Return the registered model's name."""
    return f"deepsea-{settings.size}"


def make_sea(settings: DemoSettings) -> DeepSea:
    """Return the environment of the demo."""
    return DeepSea(settings.size, mapping_seed=settings.seed)


def make_seas(settings: DemoSettings, number: int) -> Environments:
    """Return so many of the same sea, played side by side."""
    return SyncVectorEnv([lambda: make_sea(settings)] * number, autoreset_mode=AutoresetMode.SAME_STEP)
