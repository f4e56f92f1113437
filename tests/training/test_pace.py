"""A run that is given a time: how many updates it has, and that they are the same whenever it is resumed."""

import json
import time
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import Make
from tests.training.test_resume import Stop, equal, stop_at
from worldsim.errors import CheckpointError
from worldsim.models.latent import CODEC, DYNAMICS
from worldsim.training import pace
from worldsim.training.config import TrainerConfig
from worldsim.training.loop import train
from worldsim.training.phases import Phase

PLAN = [Phase(CODEC, 30, 8, 1, 1e-2), Phase(DYNAMICS, 60, 2, 8, 1e-3)]
TICK = 0.04  # seconds that pass between two looks at the clock below: a millisecond an update


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock for the pace alone, the same on every machine."""
    ticks = count()
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: TICK * next(ticks)))


def state(out: Path) -> dict[str, Any]:
    (place,) = (out / "training").glob("step-*")
    read: dict[str, Any] = json.loads((place / "state.json").read_text())
    return read


@pytest.mark.parametrize("seconds", [3.0, 60.0])
def test_updates_fill_the_time_in_the_proportions_that_are_asked_for(seconds: float) -> None:
    trainer = TrainerConfig(seconds=seconds, steps=60, codec_steps=30)
    made = pace.fitted_to_time(trainer, PLAN, [0.002, 0.01])
    assert made.codec_steps * 0.002 + made.steps * 0.01 == pytest.approx(seconds, rel=0.01)
    assert made.steps / made.codec_steps == pytest.approx(2, rel=0.01)
    alone = pace.fitted_to_time(trainer, PLAN[1:], [0.01])
    assert alone.steps * 0.01 == pytest.approx(seconds, rel=0.01)
    assert pace.fitted_to_time(trainer, PLAN, [1e6, 1e6]).steps == 1


@pytest.mark.parametrize(("family", "updates"), [("ssm", {"steps": 12, "codec_steps": 10}), ("rssm", {"steps": 22})])
def test_a_run_has_the_updates_that_its_time_has_room_for(
    make: Make, clock: None, family: str, updates: dict[str, int]
) -> None:
    """At a millisecond an update: 22 of them, codec and rest as 5 to 6."""
    config = make(family, seconds=0.022)
    begun = time.perf_counter()
    manifest = train(config, progress=False)
    assert {key: manifest.training[key] for key in updates} == updates and manifest.training["seconds"] == 0.022
    kept = state(config.out)
    assert kept["step"] == sum(updates.values()) and 0 < kept["seconds"] < time.perf_counter() - begun


def test_its_weights_are_those_of_a_run_with_as_many_updates(make: Make, clock: None) -> None:
    """Measuring the pace leaves no trace; stopped and begun again, at whatever pace, nothing is measured anew."""
    timed, counted = make("ssm", "timed", seconds=0.022), make("ssm", "counted", steps=12, codec_steps=10)
    with pytest.raises(Stop):
        train(timed, stop_at(9), progress=False)
    begun = state(timed.out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "seconds_per_update", lambda *_: pytest.fail("measured anew"))
        manifest = train(timed, progress=False)
    assert 0 < begun["seconds"] < state(timed.out)["seconds"]
    train(counted, progress=False)
    assert equal(*(load_file(config.out / "weights.safetensors") for config in (timed, counted)))
    assert train(timed, lambda *_: pytest.fail("trained on"), progress=False) == manifest


class Timed:
    """A run whose updates move a clock by so many seconds, the first ones by much more."""

    def __init__(self, clock: list[float], seconds: float):
        self.clock, self.seconds, self.feed = clock, seconds, nullcontext()

    def update(self, step: int) -> dict[str, Any]:
        self.clock[0] += self.seconds if step >= pace.TRIAL_WARMUP else 100
        return {"total": torch.zeros(())}


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [
        ((0.02, 0.01), (0.01, 0.01), ("bf16-mixed", 1.2 / 0.9)),  # 30 updates of the first phase, 60 of the second
        ((0.01, 0.01), (0.0095, 0.0095), ("32-true", 0.95)),  # hardly matters
        ((0.01, 0.01), (0.02, 0.05), ("32-true", 3.6 / 0.9)),
    ],
)
def test_the_faster_precision_is_taken(
    monkeypatch: pytest.MonkeyPatch, fp32: tuple[float, ...], bf16: tuple[float, ...], expected: tuple[str, float]
) -> None:
    now = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    trials: list[Any] = [
        {"32-true": Timed(now, one), "bf16-mixed": Timed(now, two)} for one, two in zip(fp32, bf16, strict=True)
    ]
    precision, ratio = pace.faster_precision(trials, PLAN)
    assert precision == expected[0] and ratio == pytest.approx(expected[1])


def test_a_run_in_the_faster_precision_is_that_run(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trials leave no trace, its folder says which one it was, and it resumes in that."""
    auto = make("ssm", "auto", precision="auto")
    with pytest.raises(Stop):
        train(auto, stop_at(9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("worldsim.training.loop.faster_precision", lambda *_: pytest.fail("tried anew"))
        manifest = train(auto, progress=False)
    taken = manifest.training["precision"]
    assert f"note: training in {taken}; " in capsys.readouterr().out
    plain = make("ssm", "plain", precision=taken)
    train(plain, progress=False)
    assert equal(*(load_file(config.out / "weights.safetensors") for config in (auto, plain)))


def test_another_time_in_the_same_folder_is_refused(make: Make) -> None:
    train(make(seconds=0.01), progress=False)
    with pytest.raises(CheckpointError, match=r"begun with trainer.seconds=0.01, now trainer.seconds=0.2"):
        train(make(seconds=0.2), progress=False)


def test_two_processes_agree_on_a_pace(make: Make) -> None:
    config = make("rssm", "two", seconds=0.01, devices=2, batch=4, codec_frames=8, precision="32-true")
    manifest = train(config, progress=False)
    assert state(config.out)["step"] == manifest.training["steps"]
