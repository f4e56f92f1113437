"""What is taught when, and at which learning rate."""

import math
from typing import NamedTuple

from worldsim.models.world_model import Part, WorldModel
from worldsim.training.config import TrainerConfig


class Phase(NamedTuple):
    """A stretch of updates that teach one part of the model, with a learning-rate schedule of its own."""

    part: Part
    steps: int
    batch: int  # sequences in an update
    length: int  # rows in a sequence
    learning_rate: float  # at its highest


def phases(trainer: TrainerConfig, model: WorldModel) -> list[Phase]:
    """All at once; or, where the family's codes depend on the codec alone, first to draw and then to foresee.

    Learning to draw wants many small updates on single frames, and then stands still under what is learned on top.
    """
    size = trainer.batch, trainer.length, trainer.learning_rate
    if not model.dynamics.separable:
        return [Phase("all", trainer.steps, *size)]
    drawing = Phase("codec", trainer.codec_steps, trainer.codec_frames, 1, trainer.codec_learning_rate)
    return [drawing, Phase("rest", trainer.steps, *size)]


def at(step: int, plan: list[Phase]) -> tuple[int, int]:
    """The number of the phase that update `step` belongs to, and the update's number within it."""
    for number, phase in enumerate(plan):
        if step < phase.steps:
            return number, step
        step -= phase.steps
    raise AssertionError(f"{step} steps beyond the plan")


def learning_rate(step: int, phase: Phase, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to nothing at the phase's end."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return phase.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / phase.steps))
