"""Where a World runs: one key in every verb that steps one. Machines with and without a GPU are pretended."""

from pathlib import Path
from typing import Any

import pytest
import torch

import worldsim
from worldsim import grammar
from worldsim.cli import _schema, main
from worldsim.devices import device_of
from worldsim.errors import CheckpointError, ConfigError
from worldsim.quickstart import QuickstartConfig, plan

VERBS = {
    "validate": ["data=nowhere"],
    "look": ["data=nowhere"],
    "stress": ["env=CartPole-v1", "where=[world]", "agents=[random]", "faults=[slow_api]", "episodes=1"],
}


@pytest.fixture(params=[True, False], ids=["a GPU", "no GPU"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return bool(request.param)


def test_auto_takes_a_gpu_where_there_is_one(gpu: bool) -> None:
    assert device_of("auto") == torch.device("cuda" if gpu else "cpu")
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
    if gpu:
        assert device_of("cuda:1") == torch.device("cuda", 1)
        return
    with pytest.raises(ConfigError, match=r"^device=cuda:1: torch sees no GPU here; give device=auto or"):
        device_of("cuda:1")


def test_a_device_that_is_none_is_a_line() -> None:
    with pytest.raises(ConfigError, match="^device=gpu: torch knows no such device; give auto, cpu or cuda$"):
        worldsim.load("nowhere", device="gpu")


@pytest.mark.parametrize("verb", [*VERBS, "quickstart"])
def test_cuda_without_a_gpu_is_a_line_before_anything_runs(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([verb, "device=cuda"]) == 2
    said = "worldsim: device=cuda: torch sees no GPU here; give device=auto or device=cpu\n"
    assert capsys.readouterr() == ("", said) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", ["auto", "cpu"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_opens_its_world_there(
    verb: str, asked: str, gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def note(_: Path, device: torch.device) -> None:
        opened.append(device.type)
        raise CheckpointError("far enough")

    monkeypatch.chdir(tmp_path)
    for module in ("worldsim.simulator.world", "worldsim.fidelity.validate"):
        monkeypatch.setattr(f"{module}.open_world", note)
    assert main([verb, "world=somewhere", *VERBS[verb], f"device={asked}"]) == 2
    assert opened == ["cuda" if gpu and asked == "auto" else "cpu"]


def test_the_whole_job_hands_it_on() -> None:
    config = grammar.compose("quickstart", QuickstartConfig, ["device=cpu"]).config
    steps = {step.verb: step.config for step in plan(config)}
    assert {verb for verb in steps if "device" in _schema(verb).model_fields} == set(VERBS)
    assert {steps[verb].device for verb in VERBS} == {"cpu"}
