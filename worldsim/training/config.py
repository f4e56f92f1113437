"""What a training run is made of. Every key is explained in configs/train.yaml and configs/trainer/*.yaml."""

from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from worldsim.envs.make import EnvConfig
from worldsim.models.config import AnyModelConfig, Precision
from worldsim.rollouts.mix import DataSets
from worldsim.settings import Seed, Settings

MOST_UPDATES = 10**8
MOST_ROWS = 1 << 18  # in an update: of 64x64 frames 3 GiB, before a network has seen them


class TrainerConfig(Settings):
    """The loop."""

    model_config = ConfigDict(frozen=True)

    steps: int = Field(3600, ge=1, le=MOST_UPDATES)
    seconds: float | None = Field(None, gt=0, le=1e7)
    batch: int = Field(4, ge=1, le=MOST_ROWS)
    length: int = Field(32, ge=2, le=MOST_ROWS)
    learning_rate: float = Field(4e-3, gt=0)
    warmup: int = Field(50, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    codec_steps: int = Field(1200, ge=1, le=MOST_UPDATES)
    codec_frames: int = Field(64, ge=1, le=MOST_ROWS)
    codec_learning_rate: float = Field(1e-2, gt=0)
    clip: float = Field(1000.0, gt=0)
    sampling: Literal["uniform", "prioritised"] = "uniform"
    alpha: float = Field(0.6, ge=0, le=1)
    ends: float = Field(0.0, ge=0, lt=1)
    correction: float = Field(0.4, ge=0, le=1)
    precision: Precision | Literal["auto"] = "auto"
    cuda_graphs: bool = True
    accelerator: str = "auto"
    devices: int = Field(1, ge=1, le=1024)
    num_nodes: int = Field(1, ge=1, le=1024)
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    holdout: float = Field(0.1, ge=0, lt=1)
    checkpoint_every: int = Field(200, ge=1)
    log_every: int = Field(20, ge=1)


class LoggerConfig(Settings):
    """Weights & Biases."""

    model_config = ConfigDict(frozen=True)

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "worldsim"
    name: str | None = None
    video_every: int = Field(default=500, ge=1)


class TrainConfig(Settings):
    """A whole run: model and loop on the rollouts in `data`, written to `out`."""

    model_config = ConfigDict(frozen=True)

    env: EnvConfig | None = Field(
        None,
        description="where the rollouts come from, to be sure that they do: the env= that they were collected with; "
        "null: what they say",
    )
    model: AnyModelConfig
    trainer: TrainerConfig
    logger: LoggerConfig = LoggerConfig()
    data: DataSets
    weights: list[float] | None = None
    out: Path
    seed: Seed = 0

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        named = len(self.data) if isinstance(self.data, list) else 1
        if self.weights is not None and (len(self.weights) != named or min(self.weights) <= 0):
            raise ValueError(f"weights={self.weights} must be {named} numbers above 0, one for each data set in data")
        if self.trainer.batch * self.trainer.length > MOST_ROWS:
            sizes = f"trainer.batch={self.trainer.batch} times trainer.length={self.trainer.length}"
            raise ValueError(f"{sizes} is more than the {MOST_ROWS} rows that an update may have; lower one")
        ranks = self.trainer.devices * self.trainer.num_nodes
        for key in ("batch", "codec_frames"):
            if ranks > 1 and getattr(self.trainer, key) % (2 * ranks):
                value = f"trainer.{key}={getattr(self.trainer, key)}"
                raise ValueError(f"{value} cannot be shared by {ranks} processes; make it a multiple of {2 * ranks}")
        return self
