"""What a training run is made of. Every key is explained in configs/train.yaml and configs/trainer/*.yaml."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from worldsim.envs.make import EnvConfig
from worldsim.models.config import AnyModelConfig


class TrainerConfig(BaseModel):
    """The loop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2600, ge=1)
    batch: int = Field(4, ge=1)
    length: int = Field(32, ge=2)
    learning_rate: float = Field(4e-3, gt=0)
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    codec_steps: int = Field(1200, ge=1)
    codec_frames: int = Field(64, ge=1)
    codec_learning_rate: float = Field(1e-2, gt=0)
    clip: float = Field(1000.0, gt=0)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    accelerator: str = "auto"
    holdout: float = Field(0.1, ge=0, lt=1)
    checkpoint_every: int = Field(200, ge=1)
    log_every: int = Field(20, ge=1)


class LoggerConfig(BaseModel):
    """Weights & Biases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "worldsim"
    name: str | None = None
    video_every: int = Field(default=500, ge=1)


class TrainConfig(BaseModel):
    """A whole run: model and loop on the rollouts in `data`, written to `out`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: EnvConfig
    model: AnyModelConfig
    trainer: TrainerConfig
    logger: LoggerConfig = LoggerConfig()
    data: Path
    out: Path
    seed: int = Field(0, ge=0)
