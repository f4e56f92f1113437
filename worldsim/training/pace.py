"""What is measured before training: which precision is the faster here, and how many updates fit into a given time.

The number is fixed from then on and kept with the run, so the learning rate falls over the time that was given, and a
run that is stopped goes on to the same weights. A run that begins anew may measure another pace, as machines do.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor

from worldsim.models.config import PRECISIONS, Precision
from worldsim.training.config import TrainerConfig
from worldsim.training.feed import Feed
from worldsim.training.phases import Phase
from worldsim.training.processes import mean_of
from worldsim.training.state import saved, written

WARM, TRIED = 10, 50  # updates before the clock runs, which are slower, and updates in all
COUNTS = "steps", "codec_steps"
TRIAL_S, TRIAL_WARM = 0.5, 2  # how long each precision is tried, and its first updates, which do not count
WORTH = 1.1  # times that bf16 must be as fast as fp32 to be taken: it rounds, and near a tie chance would decide


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


def kept_precision(folder: Path) -> Precision | None:
    """That of the run whose states lie in `folder`; None where there are none yet."""
    states = saved(folder)
    return written(states[-1])["settings"]["trainer"]["precision"] if states else None


def fitted(trainer: TrainerConfig, plan: list[Phase], paces: list[float]) -> TrainerConfig:
    """With as many updates as take `trainer.seconds` at these paces, one a phase of `plan`, in the same proportions."""
    assert trainer.seconds is not None
    times = trainer.seconds / sum(phase.steps * pace for phase, pace in zip(plan, paces, strict=True))
    return trainer.model_copy(update={key: max(1, round(times * getattr(trainer, key))) for key in COUNTS})


def faster_precision(trials: Sequence[Mapping[Precision, Trial]], plan: list[Phase]) -> tuple[Precision, float]:
    """Which of "32-true" and "bf16-mixed" trains faster, and how many times as long an update takes in the other.

    trials: for each phase of `plan` a run in each precision, which take turns, so that a busy machine slows both alike.
    """
    seconds = dict.fromkeys(PRECISIONS, 0.0)
    for phase, runs in zip(plan, trials, strict=True):
        with ExitStack() as feeds:
            for run in runs.values():
                feeds.enter_context(run.feed)
            for precision, shortest in _in_turns(runs).items():
                seconds[precision] += phase.steps * shortest
    ratio = seconds["32-true"] / seconds["bf16-mixed"]
    return ("bf16-mixed", ratio) if ratio > WORTH else ("32-true", 1 / ratio)


def _in_turns(runs: Mapping[Precision, Trial]) -> dict[Precision, float]:
    """Seconds of the shortest update of each."""
    took: dict[Precision, list[float]] = {precision: [] for precision in runs}
    begun = time.perf_counter()
    for step in range(TRIED):
        for precision, run in runs.items():
            start = time.perf_counter()
            run.update(step)["total"].item()  # waits for the device
            took[precision].append(time.perf_counter() - start)
        if step > TRIAL_WARM and time.perf_counter() - begun > TRIAL_S * len(runs):
            break
    return {precision: min(times[TRIAL_WARM:]) for precision, times in took.items()}


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
