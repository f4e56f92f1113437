"""The schedule: which stage an update trains, and at which learning rate."""

import math
from typing import NamedTuple

from worldsim.models.world_model import Stage, WorldModel
from worldsim.training.config import TrainerConfig


class Phase(NamedTuple):
    """A run of updates that trains one of the model's stages, with a learning-rate schedule of its own."""

    stage: Stage
    steps: int
    batch: int  # sequences in an update
    length: int  # rows in a sequence
    learning_rate: float  # its maximum, after the warm-up


def phases(trainer: TrainerConfig, model: WorldModel) -> list[Phase]:
    """The model's stages, those on single frames with the trainer's codec_* settings."""
    frames = trainer.codec_steps, trainer.codec_frames, 1, trainer.codec_learning_rate
    sequences = trainer.steps, trainer.batch, trainer.length, trainer.learning_rate
    return [Phase(stage, *(frames if stage.frames else sequences)) for stage in model.stages]


def phase_at(step: int, plan: list[Phase]) -> tuple[int, int]:
    """Index of the phase that update `step` belongs to, and the update's index within it."""
    for number, phase in enumerate(plan):
        if step < phase.steps:
            return number, step
        step -= phase.steps
    raise AssertionError(f"{step} steps beyond the plan")


def learning_rate(step: int, phase: Phase, warmup: int) -> float:
    """Of the phase's update `step`: linear warm-up, then half a cosine down to 0 at the end."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return phase.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / phase.steps))
