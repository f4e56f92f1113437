"""Updates that are recorded once and replayed: the same run, bit for bit, and nothing in them that a GPU waits for."""

import gc
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tests.training.conftest import MODELS, Make
from tests.training.tape import on_tape
from tests.training.test_resume import Stop, equal, stop_at, weights
from worldsim.errors import ConfigError
from worldsim.models.world_model import Losses
from worldsim.training import loop
from worldsim.training.captured import WARMUP_UPDATES, Captured, CapturedGraph, as_cuda_graph
from worldsim.training.loop import train


def again(update: Callable[[], Losses], generator: Generator) -> CapturedGraph:
    """No record: a replay is the update itself, on the same batch and with the same places for its losses."""
    places: list[Losses] = []

    def replay() -> None:
        losses = update()
        if not places:
            places.append(losses)
        for place, value in zip(tensors(places[0]), tensors(losses), strict=True):
            place.copy_(value)

    class Late(CapturedGraph):
        """Its losses are known after the first replay."""

        @property
        def losses(self) -> Losses:  # type: ignore[override]
            return places[0]

    return Late(replay, None)  # type: ignore[arg-type]


def tensors(losses: Losses) -> list[Tensor]:
    return [losses.total, *losses.parts.values(), *([] if losses.priority is None else [losses.priority])]


@pytest.mark.parametrize("sampling", ["uniform", "prioritised"])
@pytest.mark.parametrize("family", MODELS)
def test_a_recorded_run_is_the_run(make: Make, monkeypatch: pytest.MonkeyPatch, family: str, sampling: str) -> None:
    """Over both phases, falling rates, changing batches and a resume, against the same updates done by Python."""
    logged: dict[str, list[dict[str, float]]] = {"again": [], "tape": []}
    configs = {}
    for name, record in (("again", again), ("tape", on_tape)):
        monkeypatch.setattr(loop, "graph_capture", lambda *_, record=record: record)
        config = configs[name] = make(
            family, name, steps=3 * WARMUP_UPDATES, codec_steps=3 * WARMUP_UPDATES, sampling=sampling
        )

        def watch(step: int, losses: dict[str, float], *_: object, name: str = name) -> None:
            logged[name].append(losses)

        train(config, watch, progress=False)
    assert equal(weights(configs["again"]), weights(configs["tape"]))
    assert logged["again"] == logged["tape"]
    assert (
        len({losses["reward"] for losses in logged["tape"][-WARMUP_UPDATES:]}) == WARMUP_UPDATES
    )  # each update has losses of its own
    cut = make(
        family,
        "cut",
        steps=3 * WARMUP_UPDATES,
        codec_steps=3 * WARMUP_UPDATES,
        sampling=sampling,
        checkpoint_every=2 * WARMUP_UPDATES,
    )
    with pytest.raises(Stop):
        train(cut, stop_at(2 * WARMUP_UPDATES + 1), progress=False)
    train(cut, progress=False)
    assert equal(weights(cut), weights(configs["tape"]))


def test_what_was_recorded_goes_with_its_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that waits for the collector of cycles keeps its memory, and may go while another is recorded."""
    made: list[weakref.ref[Captured]] = []

    def counted(*given: Any) -> Captured:
        captured = Captured(*given)
        made.append(weakref.ref(captured))
        return captured

    monkeypatch.setattr(loop, "graph_capture", lambda *_: on_tape)
    monkeypatch.setattr(loop, "Captured", counted)
    gc.collect()
    gc.disable()
    try:
        train(make(steps=2 * WARMUP_UPDATES, codec_steps=2 * WARMUP_UPDATES, seconds=0.2), progress=False)
        alive = [captured() is not None for captured in made]
    finally:
        gc.enable()
    assert alive == [False] * 4  # two phases, tried and trained


class Spoilt:
    """A recording that went wrong: to end it is an error of its own."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def register_generator_state(self, generator: Generator) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("capture was invalidated\nand a page about it")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            RuntimeError("operation not permitted\nwhen capturing"),
            r"^an update cannot be captured as a CUDA graph \(operation not permitted",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "^CUDA out of memory$"),
        (
            None,
            r"^an update cannot be captured as a CUDA graph \(capture was invalidated\); give trainer.cuda_graphs",
        ),
    ],
)
def test_a_failed_capture_is_a_line(monkeypatch: pytest.MonkeyPatch, wrong: Exception | None, message: str) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Spoilt)
    monkeypatch.setattr(torch.cuda, "graph", Spoilt)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())

    def update() -> Losses:
        if wrong is not None:
            raise wrong
        return Losses(torch.zeros(()), {})

    expected = torch.OutOfMemoryError if isinstance(wrong, torch.OutOfMemoryError) else ConfigError
    with pytest.raises(expected, match=message) as error:
        as_cuda_graph(update, Generator())
    assert "\n" not in str(error.value)
