"""Training through the command line: logged or not, in one go or stopped, on any environment, in either family."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import worldsim
from worldsim.cli import main
from worldsim.models.checkpoint import hash_of

SMALL = ["model.embed=16", "model.hidden=16", "model.width=32", "model.head_hidden=16", "model.ensemble=2"]
SHORT = ["trainer.steps=4", "trainer.codec_steps=4", "trainer.codec_frames=8", "trainer.batch=2", "trainer.length=8"]
OFTEN = ["trainer.holdout=0.3", "trainer.log_every=1", "trainer.checkpoint_every=3", "trainer.precision=32-true"]


def train(*overrides: str) -> int:
    return main(["train", *SMALL, *SHORT, *OFTEN, *overrides])


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("desk") / "rollouts"
    assert main(["collect", "steps=300", f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def plain(desk: Path) -> Path:
    out = desk.parent / "plain"
    assert train(f"data={desk}", f"out={out}") == 0
    return out


def test_logging_offline_changes_nothing_and_films_the_world(desk: Path, plain: Path) -> None:
    out = desk.parent / "logged"
    assert train(f"data={desk}", f"out={out}", "logger=offline", "logger.video_every=4") == 0
    assert hash_of(out / "weights.safetensors") == hash_of(plain / "weights.safetensors")
    (run,) = (out / "wandb").glob("offline-run-*")
    assert json.loads((out / "training" / "wandb.json").read_text())["id"] in run.name
    (log,) = run.glob("*.wandb")
    written = log.read_bytes()
    assert b"loss/reward" in written and b"psnr/screen/5" in written and b"open_loop" in written
    films = sorted((out / "training").glob("look-*.gif"))
    assert [film.name for film in films] == ["look-00000004.gif", "look-00000008.gif"]
    with Image.open(films[0]) as film:
        assert film.format == "GIF"
    assert not (plain / "wandb").exists()


def test_the_same_command_again_keeps_world_and_certificate(desk: Path, plain: Path) -> None:
    before = hash_of(plain / "weights.safetensors")
    (plain / "fidelity.json").write_text('{"kept": true}')
    assert train(f"data={desk}", f"out={plain}") == 0
    assert hash_of(plain / "weights.safetensors") == before
    assert (plain / "fidelity.json").is_file()
    (plain / "weights.safetensors").write_bytes(b"cut")
    assert train(f"data={desk}", f"out={plain}") == 0
    assert hash_of(plain / "weights.safetensors") == before
    assert not (plain / "fidelity.json").is_file()


def test_other_settings_in_the_same_folder_are_refused(
    desk: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(f"data={desk}", f"out={plain}", "seed=1") == 2
    assert "use another out=" in capsys.readouterr().err


def test_rollouts_of_another_environment_are_refused(
    desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("env=CartPole-v1", f"data={desk}", f"out={tmp_path / 'x'}") == 2
    assert "was recorded from worldsim/RefundDesk-v0, but env is CartPole-v1" in capsys.readouterr().err


def test_a_world_cut_short_is_refused(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    cut = tmp_path / "cut"
    shutil.copytree(plain, cut)
    weights = (cut / "weights.safetensors").read_bytes()
    (cut / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    assert main(["info", f"world={cut}"]) == 2
    assert "cut short or changed" in capsys.readouterr().err
    manifest = json.loads((plain / "world.json").read_text())
    (cut / "world.json").write_text(json.dumps(manifest | {"format": 999}))
    assert main(["info", f"world={cut}"]) == 2
    assert "has format 999" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["ssm", "transformer", "rssm"])
def test_vectors_and_continuous_actions_in_both_families(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env, data, out = "env=Pendulum-v1", tmp_path / "data", tmp_path / "world"
    assert main(["collect", env, "steps=800", f"out={data}", "env.max_episode_steps=40"]) == 0
    assert train(env, f"model={family}", f"data={data}", f"out={out}") == 0
    world = worldsim.load(out)
    state, step = world.step(world.start(2), {"value": np.zeros((2, 1), np.float32)})
    assert step.observation["value"].shape == (2, 3)
    assert main(["look", f"world={out}", f"data={data}", f"out={tmp_path / 'look.gif'}", "count=1", "length=5"]) == 0
    assert (tmp_path / "look.gif").stat().st_size > 0
    assert main(["info", f"world={out}"]) == 0
    assert "Pendulum-v1" in capsys.readouterr().out
