"""A run that is interrupted, in whatever way, ends in the weights of a run that was left alone."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import worldsim
from tests.training.conftest import MODELS, Make
from worldsim.errors import CheckpointError
from worldsim.files import hash_of, sealed
from worldsim.models.world_model import WorldModel
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train


def weights(config: TrainConfig) -> dict[str, Tensor]:
    return load_file(config.out / "weights.safetensors")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stop(Exception):
    """A run that ends here."""


def stop_at(*steps: int):  # noqa: ANN201
    def watch(step: int, losses: object, model: object, manifest: object) -> None:
        if step in steps:
            raise Stop

    return watch


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("family", MODELS)
def test_the_same_run_twice(make: Make, family: str, precision: str) -> None:
    one, two, other = (make(family, out, seed, precision=precision) for out, seed in (("a", 0), ("b", 0), ("c", 1)))
    for number, config in enumerate((one, two, other)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        train(config, progress=False)
        assert torch.equal(before, torch.get_rng_state())  # the global generator plays no part
    assert equal(weights(one), weights(two))
    assert not equal(weights(one), weights(other))
    begun = {name: tensor for name, tensor in weights(one).items() if tensor.is_floating_point()}
    assert all(tensor.isfinite().all() for tensor in begun.values())


@pytest.mark.parametrize("family", MODELS)
def test_stopped_again_and_again(make: Make, family: str) -> None:
    whole, cut = make(family, "whole"), make(family, "cut", checkpoint_every=2)
    manifest = train(whole, progress=False)
    for stop in (1, 3, 4, 5, 6):  # before the first save, on saves and between them
        with pytest.raises(Stop):
            train(cut, stop_at(stop), progress=False)
        assert not (cut.out / "world.json").exists()
    assert train(cut, progress=False).model == manifest.model
    assert equal(weights(whole), weights(cut))
    assert load_file(cut.out / "starts.safetensors").keys() == {"frame", "count"}


def test_killed_in_the_middle_of_a_save(make: Make, tmp_path: Path) -> None:
    """A save writes two files, weights and optimizer: the second save is killed when its optimizer is half there."""
    whole, cut = make("ssm", "whole"), make("ssm", "cut")
    (tmp_path / "config.json").write_text(cut.model_dump_json())
    command = [sys.executable, "-m", "tests.training.killed", str(tmp_path / "config.json"), "4"]
    assert subprocess.run(command, cwd=Path(worldsim.__file__).parents[1]).returncode == -signal.SIGKILL
    assert [p.name for p in (cut.out / "training").glob("step-*")] == ["step-00000004"]
    train(whole, progress=False)
    train(cut, progress=False)
    assert equal(weights(whole), weights(cut))
    assert [p.name for p in (cut.out / "training").iterdir()] == ["step-00000011"]


def test_a_finished_run_is_left_alone(make: Make) -> None:
    config = make()
    train(config, progress=False)
    (config.out / "calibration.json").write_text("{}")
    before = {path.name: path.stat().st_mtime_ns for path in config.out.iterdir()}
    train(config, lambda *_: pytest.fail("trained on"), progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in config.out.iterdir()} == before


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.5, 0])
def test_a_truncated_state_is_an_error_of_one_line(make: Make, name: str, share: float) -> None:
    config = make()
    with pytest.raises(Stop):
        train(config, stop_at(5), progress=False)
    (place,) = (config.out / "training").glob("step-*")
    data = (place / name).read_bytes()
    (place / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="is damaged .*; delete it") as error:
        train(config, progress=False)
    assert str(place) in str(error.value) and "\n" not in str(error.value)
    shutil.rmtree(place)
    train(config, progress=False)


def test_other_settings_are_named(make: Make) -> None:
    with pytest.raises(Stop):
        train(make(), stop_at(5), progress=False)
    wider = MODELS["ssm"].model_copy(update={"width": 24})
    for config, words in (
        (make(learning_rate=0.5), "begun with trainer.learning_rate=0.001, now trainer.learning_rate=0.5"),
        (make(seed=1), "begun with seed=0, now seed=1"),
        (make("rssm"), "begun with model.family=ssm, now model.family=rssm"),
        (make().model_copy(update={"model": wider}), "begun with model.width=16, now model.width=24"),
    ):
        with pytest.raises(CheckpointError, match=words) as error:
            train(config, progress=False)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
    train(make(log_every=3, checkpoint_every=5), progress=False)  # these change no weight


def test_the_loaded_world_is_the_trained_model(make: Make) -> None:
    config, kept = make(), {}

    def watch(step: int, losses: dict[str, float], model: WorldModel, manifest: object) -> None:
        assert losses and all(isinstance(value, float) for value in losses.values())
        kept.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

    train(config, watch, progress=False)
    world = worldsim.load(config.out)
    assert equal(world.model.state_dict(), kept)
    assert not world.model.training


def test_random_numbers_of_another_kind_of_device_are_refused_in_a_line(make: Make) -> None:
    cut = make("ssm")
    with pytest.raises(Stop):
        train(cut, stop_at(5), progress=False)
    (file,) = (cut.out / "training").glob("step-*/optimizer.safetensors")
    save_file(load_file(file) | {"generator": torch.zeros(16, dtype=torch.uint8)}, file)  # as CUDA has them
    state = json.loads((file.parent / "state.json").read_text())
    state["files"][file.name] = hash_of(file)
    (file.parent / "state.json").write_text(json.dumps(sealed(state)))
    with pytest.raises(CheckpointError, match="another kind than cpu.*trainer.accelerator= as it was") as error:
        train(cut, progress=False)
    assert "\n" not in str(error.value)
