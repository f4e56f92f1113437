"""The configuration of a training run. The files in configs/trainer hold what differs from these defaults."""

from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from worldsim.envs.make import EnvConfig
from worldsim.models.config import AnyModelConfig, AnyPrecision
from worldsim.rollouts.mix import DataSets
from worldsim.settings import LoggerConfig, Seed, Settings

MOST_UPDATES = 10**8
MOST_ROWS = 1 << 18  # in an update: of 64x64 frames 3 GiB, before a network has seen them


class TrainerConfig(Settings):
    """The training loop: how many updates, of what, at which learning rate, on which devices."""

    model_config = ConfigDict(frozen=True)

    steps: int = Field(
        3600, ge=1, le=MOST_UPDATES, description="updates of the dynamics, which predict what happens next"
    )
    seconds: float | None = Field(
        None,
        gt=0,
        le=1e7,
        description="train for so many seconds, set-up not counted; null: until all updates are done. With a time, "
        "only the ratio of steps to codec_steps counts: the number of updates is calculated from the speed of a few "
        "that are timed before the first",
    )
    batch: int = Field(4, ge=1, le=MOST_ROWS, description="sequences in an update")
    length: int = Field(32, ge=2, le=MOST_ROWS, description="rows in a sequence")
    learning_rate: float = Field(4e-3, gt=0, description="of AdamW, after the warm-up; then it falls as half a cosine")
    warmup: int = Field(50, ge=0, description="updates in which the learning rate rises from 0")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    codec_steps: int = Field(
        1200,
        ge=1,
        le=MOST_UPDATES,
        description="updates of encoder and decoder on single frames, before the others; in families with two stages",
    )
    codec_frames: int = Field(64, ge=1, le=MOST_ROWS, description="frames in such an update")
    codec_learning_rate: float = Field(
        1e-2, gt=0, description="of such updates, after the warm-up; then it falls as half a cosine"
    )
    clip: float = Field(1000.0, gt=0, description="largest norm of the gradients of each part of the model")
    sampling: Literal["uniform", "prioritised"] = Field(
        "uniform",
        description="uniform: over all rows; prioritised: sequences with a high loss are drawn more often",
    )
    alpha: float = Field(
        0.6, ge=0, le=1, description="of prioritised sampling: by the loss to this power; 0: not at all"
    )
    ends: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the sequences that are chosen to contain a termination; 0: as many as do by chance",
    )
    correction: float = Field(
        0.4,
        ge=0,
        le=1,
        description="importance-sampling correction of these two; 0: none, 1: losses weighted as if sampled uniformly",
    )
    precision: AnyPrecision = Field(
        "auto", description="of matrix products; auto: both are timed briefly, and the faster one is taken"
    )
    cuda_graphs: bool = Field(
        True,
        description="on one CUDA device an update is captured once, then replayed; false: each kernel is launched",
    )
    accelerator: str = Field("auto", description="auto, cpu or cuda")
    devices: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes on this machine, one for each device; they share the batch; the weights do not depend "
        "on their number, up to rounding",
    )
    num_nodes: int = Field(
        1,
        ge=1,
        le=1024,
        description="machines; run the same command on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set, or by "
        "torchrun",
    )
    strategy: Literal["auto", "ddp", "fsdp"] = Field(
        "auto",
        description="of several processes: auto or ddp, each holds the whole model; fsdp: each holds a shard of it",
    )
    holdout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the episodes that are held out of training, for worldsim validate",
    )
    checkpoint_every: int = Field(
        200, ge=1, description="updates between two checkpoints that a stopped run resumes from"
    )
    log_every: int = Field(20, ge=1, description="updates between two logged losses")


class TrainLoggerConfig(LoggerConfig):
    """Weights & Biases: what is logged during training, and how often."""

    validate_every: int = Field(100, ge=1, description="updates between two losses on held-out sequences")
    video_every: int = Field(500, ge=1, description="updates between two open-loop videos with their PSNR")


class TrainConfig(Settings):
    """A whole run: model and loop on the rollouts in `data`, written to `out`."""

    model_config = ConfigDict(frozen=True)

    env: EnvConfig | None = Field(
        None,
        description="the environment that the rollouts were collected from, to check that they were; null: what the "
        "rollouts name",
    )
    model: AnyModelConfig = Field(description="the world model: its family and its size")
    trainer: TrainerConfig = Field(TrainerConfig(), description="the training loop")
    logger: TrainLoggerConfig = Field(TrainLoggerConfig(), description="Weights & Biases")
    data: DataSets = Field(
        Path("runs/rollouts"),
        description="what is trained on: a folder that worldsim collect wrote, a Minari data set by its folder or id, "
        "or several: [a,b]",
    )
    weights: list[float] | None = Field(
        None,
        description="share of the sequences from each of several data sets, in any unit, e.g. [3,1]; null: rows count "
        "the same",
    )
    out: Path = Field(
        Path("runs/world"), description="folder of the world; unfinished training is kept in out/training"
    )
    seed: Seed = Field(
        0, description="of the weights, the batches and the held-out split: same seed and settings, same world"
    )

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
