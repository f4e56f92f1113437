"""The whole job, as small as it can be, through the command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import worldsim
from worldsim import grammar
from worldsim.cli import main
from worldsim.evaluation.ppo import PPOConfig
from worldsim.models.checkpoint import hash_of
from worldsim.quickstart import QuickstartConfig, plan
from worldsim.rollouts.dataset import Rollouts
from worldsim.wrappers import FlattenDict

FILES = ("real_vs_world.gif", "fidelity.json", "fidelity.html", "report.json", "report.html", "config-quickstart.yaml")
KEYS = {"agent", "fault", "severity", "where", "episodes", "success_rate", "return_mean", "violations_mean"}
INTERVALS = {"success_rate_interval", "return_mean_interval", "violations_mean_interval"}


def quickstart(out: Path) -> None:
    assert main(["quickstart", "experiment=debug", f"out={out}"]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quickstart left alone."""
    out = tmp_path_factory.mktemp("quick") / "run"
    quickstart(out)
    return out


def report(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "report.json").read_text())
    return read


def test_makes_everything_that_it_promises(finished: Path) -> None:
    assert not [name for name in FILES if not (finished / name).stat().st_size]
    assert Rollouts(finished / "rollouts").steps >= 400
    world = worldsim.load(finished / "world")
    assert world.trust is not None and world.certificate == json.loads((finished / "fidelity.json").read_text())
    with Image.open(finished / "real_vs_world.gif") as film:
        assert film.format == "GIF" and getattr(film, "n_frames", 1) > 5


def test_the_report_has_a_row_for_every_agent_fault_and_world(finished: Path) -> None:
    rows = report(finished)["results"]
    assert all(set(row) >= KEYS | INTERVALS for row in rows)
    agents = {"random", "hasty", "careful", "blind"}
    faults = {("none", 0.0), ("slow_api", 0.5), ("malformed_output", 0.5), ("missing_data", 0.5)}
    found = {(row["agent"], row["fault"], row["severity"], row["where"]) for row in rows}
    assert found == {(a, f, s, w) for a in agents for f, s in faults for w in ("real", "world")}
    assert {row["episodes"] for row in rows} == {2}


def test_the_second_time_nothing_is_done_and_nothing_changes(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: hash_of(finished / name) for name in FILES}
    quickstart(finished)
    printed = capsys.readouterr().out
    assert printed.count("already done") == 5 and "    done in" not in printed
    assert {name: hash_of(finished / name) for name in FILES} == before


def test_a_lost_file_is_made_again_and_the_same(finished: Path) -> None:
    before = hash_of(finished / "world" / "calibration.json")
    (finished / "world" / "calibration.json").unlink()
    quickstart(finished)
    assert hash_of(finished / "world" / "calibration.json") == before


def test_each_step_names_the_command_that_does_it_alone(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "alone"
    for verb in ("collect", "train", "validate", "look", "stress"):
        command = json.loads((finished / "steps" / f"{verb}.json").read_text())["command"]
        words = shlex.split(command.replace(str(finished), str(other)))
        assert words[:2] == ["worldsim", verb]
        assert main(words[1:]) == 0
    assert hash_of(other / "world" / "weights.safetensors") == hash_of(finished / "world" / "weights.safetensors")
    assert hash_of(other / "real_vs_world.gif") == hash_of(finished / "real_vs_world.gif")
    assert report(other)["results"] == report(finished)["results"]


def test_killed_at_any_time_it_goes_on_to_the_same_report(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "worldsim", "quickstart", "experiment=debug", f"out={out}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for sign in ("rollouts/parts/*", "world/training/step-*", "cells/*.json"):
        running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while running.poll() is None and not any(out.glob(sign)):
                time.sleep(0.01)
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
    quickstart(out)
    assert hash_of(out / "world" / "weights.safetensors") == hash_of(finished / "world" / "weights.safetensors")
    assert report(out)["results"] == report(finished)["results"]


def test_another_configuration_in_the_same_folder_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hash_of(finished / "report.json")
    assert main(["quickstart", "experiment=debug", f"out={finished}", "collect.steps=500"]) == 2
    assert "choose another out=" in capsys.readouterr().err
    assert hash_of(finished / "report.json") == before


def test_the_same_job_on_an_environment_nobody_here_wrote(tmp_path: Path) -> None:
    """With an agent that is trained in it."""
    typed = ["quickstart", "env=Acrobot-v1", "experiment=debug", "ppo.steps=64", "stress.agents=[random,ppo]"]
    assert main([*typed, f"out={tmp_path}"]) == 0
    rows = report(tmp_path)["results"]
    assert {row["agent"] for row in rows} == {"random", "ppo"}
    assert all(row["success_rate"] is None for row in rows), "nothing says what success is there"
    assert (tmp_path / "ppo.zip").is_file()


def test_the_learned_desk_passes_every_checker_and_ppo_trains_in_it(finished: Path) -> None:
    """Stable-Baselines3 knows one level of keys, so it looks through `FlattenDict`."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("worldsim/World-v0", world=finished / "world", render_mode="rgb_array")
        check_env(env.unwrapped)
        sb3_check_env(FlattenDict(env.unwrapped), warn=True, skip_render_check=False)
    small = {"features_extractor_kwargs": {"cnn_output_dim": 8}, "net_arch": [8]}
    model = sb3.PPO("MultiInputPolicy", FlattenDict(env), n_steps=32, batch_size=16, n_epochs=1, policy_kwargs=small)
    assert model.learn(64).num_timesteps == 64


def test_debug_shortens_the_training_of_the_agent_where_there_is_one() -> None:
    for env, steps in (("atari/breakout", [512]), ("refund_desk", [])):
        config = grammar.compose("quickstart", QuickstartConfig, [f"env={env}", "experiment=debug"]).config
        assert [step.config.steps for step in plan(config) if isinstance(step.config, PPOConfig)] == steps
