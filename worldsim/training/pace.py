"""What is measured before training: the faster precision on this machine, and how many updates fit into a given time.

The number of updates is fixed from then on and kept with the run. So the learning-rate schedule ends with the given
time, and a resumed run reaches the same weights. A run that starts over may measure another speed.
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
from worldsim.training.state import read_state, saved_states

WARMUP_UPDATES, TRIAL_UPDATES = 10, 50  # untimed updates, which are slower, and updates in all
COUNTS = "steps", "codec_steps"
TRIAL_S, TRIAL_WARMUP = 0.5, 2  # seconds for which each precision is tried, and its untimed first updates
MIN_SPEEDUP = (
    1.1  # bf16 is taken if it is this many times as fast: it rounds, and timing noise must not decide near a tie
)


class Trial(Protocol):
    """A short run of one phase, only to time it."""

    feed: Feed

    def update(self, step: int) -> dict[str, Tensor]:
        """One update; returns its losses."""


def resumed_counts(folder: Path, trainer: TrainerConfig) -> TrainerConfig | None:
    """The trainer with the update counts of the run saved in `folder`; None where none is saved yet."""
    states = saved_states(folder)
    if not states:
        return None
    begun = read_state(states[-1])["settings"]["trainer"]
    return trainer.model_copy(update={key: begun[key] for key in COUNTS})


def resumed_precision(folder: Path) -> Precision | None:
    """The precision of the run saved in `folder`; None where none is saved yet."""
    states = saved_states(folder)
    return read_state(states[-1])["settings"]["trainer"]["precision"] if states else None


def fitted_to_time(trainer: TrainerConfig, plan: list[Phase], paces: list[float]) -> TrainerConfig:
    """The trainer with as many updates as take `trainer.seconds`, in the same proportions.

    paces: seconds of an update in each phase of `plan`.
    """
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
    return ("bf16-mixed", ratio) if ratio > MIN_SPEEDUP else ("32-true", 1 / ratio)


def _in_turns(runs: Mapping[Precision, Trial]) -> dict[Precision, float]:
    """Seconds of the shortest update in each precision."""
    took: dict[Precision, list[float]] = {precision: [] for precision in runs}
    begun = time.perf_counter()
    for step in range(TRIAL_UPDATES):
        for precision, run in runs.items():
            start = time.perf_counter()
            run.update(step)["total"].item()  # waits for the device
            took[precision].append(time.perf_counter() - start)
        if step > TRIAL_WARMUP and time.perf_counter() - begun > TRIAL_S * len(runs):
            break
    return {precision: min(times[TRIAL_WARMUP:]) for precision, times in took.items()}


def seconds_per_update(fabric: Fabric, trials: Iterable[Trial]) -> list[float]:
    """Seconds of an update in each trial, the mean of what the processes have measured."""
    measured = torch.tensor([_seconds_per_update(trial) for trial in trials], dtype=torch.float64)
    return mean_of(fabric, measured.to(fabric.device)).tolist()


def _seconds_per_update(trial: Trial) -> float:
    with trial.feed:
        for step in range(TRIAL_UPDATES):
            if step == WARMUP_UPDATES:
                begun = time.perf_counter()
            last = trial.update(step)
            if step in (WARMUP_UPDATES - 1, TRIAL_UPDATES - 1):
                last["total"].item()  # synchronises: the device may lag behind
        return (time.perf_counter() - begun) / (TRIAL_UPDATES - WARMUP_UPDATES)
