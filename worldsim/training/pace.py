"""Training for a given time: how many updates fit into it is measured once, before the first of them.

The number is fixed from then on and kept with the run, so the learning rate falls over the time that was given, and a
run that is stopped goes on to the same weights. A run that begins anew may measure another pace, as machines do.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor

from worldsim.training.config import TrainerConfig
from worldsim.training.feed import Feed
from worldsim.training.phases import Phase
from worldsim.training.processes import mean_of
from worldsim.training.state import saved, written

WARM, TRIED = 10, 50  # updates before the clock runs, which are slower, and updates in all
COUNTS = "steps", "codec_steps"


class Trial(Protocol):
    """A run of one phase that is thrown away."""

    feed: Feed

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; returns its losses."""


def kept(folder: Path, trainer: TrainerConfig) -> TrainerConfig | None:
    """With the number of updates of the run whose states lie in `folder`; None where there are none yet."""
    states = saved(folder)
    if not states:
        return None
    begun = written(states[-1])["settings"]["trainer"]
    return trainer.model_copy(update={key: begun[key] for key in COUNTS})


def fitted(trainer: TrainerConfig, plan: list[Phase], paces: list[float]) -> TrainerConfig:
    """With as many updates as take `trainer.seconds` at these paces, one a phase of `plan`, in the same proportions."""
    assert trainer.seconds is not None
    times = trainer.seconds / sum(phase.steps * pace for phase, pace in zip(plan, paces, strict=True))
    return trainer.model_copy(update={key: max(1, round(times * getattr(trainer, key))) for key in COUNTS})


def paces(fabric: Fabric, trials: Iterable[Trial]) -> list[float]:
    """Seconds of an update in each trial, the mean of what the processes have measured."""
    measured = torch.tensor([_pace(trial) for trial in trials], dtype=torch.float64)
    return mean_of(fabric, measured.to(fabric.device)).tolist()


def _pace(trial: Trial) -> float:
    with trial.feed:
        for step in range(TRIED):
            if step == WARM:
                begun = time.perf_counter()
            last = trial.update(step)
            if step in (WARM - 1, TRIED - 1):
                last["total"].item()  # a device that is behind catches up
        return (time.perf_counter() - begun) / (TRIED - WARM)
