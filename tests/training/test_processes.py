"""Two processes on the CPU (gloo) learn what one does, and stop and resume as one does."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.training.conftest import Make
from tests.training.test_resume import Stop, stop_at
from worldsim.envs.make import EnvConfig
from worldsim.errors import ConfigError
from worldsim.models.generator import SharedGenerator, uniform
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.sampling import RankShard
from worldsim.spaces import space_from_json, space_to_json
from worldsim.training.config import TrainConfig
from worldsim.training.loop import train
from worldsim.training.processes import launch

SHARED = {"batch": 4, "codec_frames": 8, "precision": "32-true"}


def trained(config: TrainConfig, *stops: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Losses of every update, and the weights; stopped after each of `stops` and begun again."""
    losses_of_step: dict[int, dict[str, float]] = {}

    def watch(step: int, losses: dict[str, float], *_: object) -> None:
        losses_of_step[step] = losses
        if step in left:
            left.remove(step)
            raise Stop

    left = list(stops)
    for _ in stops:
        with pytest.raises(Stop):
            train(config, watch, progress=False)
    train(config, watch, progress=False)
    return [losses_of_step[step] for step in sorted(losses_of_step)], load_file(config.out / "weights.safetensors")


@pytest.mark.parametrize(
    ("family", "strategy", "sampling"), [("ssm", "ddp", "uniform"), ("rssm", "fsdp", "prioritised")]
)
def test_two_processes_learn_what_one_does(make: Make, family: str, strategy: str, sampling: str) -> None:
    environment = dict(os.environ)
    shared = SHARED | {"sampling": sampling}
    alone, weights = trained(make(family, "one", **shared))
    config = make(family, "two", devices=2, strategy=strategy, **shared)
    both, same = trained(config, 5)
    assert len(alone) == len(both) == (11 if family == "ssm" else 6)
    for one, two in zip(alone, both, strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    assert weights.keys() == same.keys()
    for name, value in weights.items():
        assert torch.allclose(value.float(), same[name].float(), rtol=1e-3, atol=1e-5), name
    (state,) = (config.out / "training").iterdir()  # one process writes, and nothing is left lying about
    assert json.loads((state / "state.json").read_text())["step"] == len(both)
    assert dict(os.environ) == environment and not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("family", "strategy", "observed"),
    [("rssm", "ddp", spaces.Box(-1, 1, (3,), np.float32)), ("ssm", "fsdp", spaces.MultiDiscrete([3, 2]))],
)
def test_what_an_observation_does_not_have_stops_nobody(
    family: str, strategy: str, observed: spaces.Space, make: Make, tmp_path: Path
) -> None:
    """Without records, or without images and vectors, there are weights that have no numbers."""
    data = tmp_path / "rollouts"
    env = EnvConfig(id="WorldsimTestNoise-v0", kwargs={"observed": space_to_json(observed)})
    collect(CollectConfig(env=env, steps=60, out=data), progress=False)
    only = {"env": env, "data": data}
    _, weights = trained(make(family, "one", **SHARED).model_copy(update=only))
    _, same = trained(make(family, "two", devices=2, strategy=strategy, **SHARED).model_copy(update=only))
    assert any(not value.numel() for value in weights.values())
    assert all(torch.allclose(value.float(), same[name].float(), atol=1e-5) for name, value in weights.items())


def test_a_process_that_is_killed_is_reported_in_a_line_and_the_run_can_be_resumed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *args, **kwargs: started.append(popen(*args, **kwargs)) or started[0]
    )

    def kill(step: int, *_: object) -> None:
        if step == 4:
            started[0].kill()
            started[0].wait()

    config = make("rssm", devices=2, **SHARED)
    with pytest.raises(ConfigError, match=r"process 1 of the run was killed \(signal 9\)") as error:
        train(config, kill, progress=False)
    assert "\n" not in str(error.value) and "the same command continues" in str(error.value)
    monkeypatch.undo()
    assert train(
        config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 1})}), progress=False
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"process 1 of the run was killed \(signal 9\)"),
        ("import sys; sys.stdin.readline(); import os; os.kill(os.getpid(), 9)", r"process 1 .* killed \(signal 9\)"),
        (
            "import nothing_of_that_name",
            r"process 1 of the run exited before training \(exit code 1\); see its messages above",
        ),
    ],
)
def test_a_process_that_never_joins_is_reported_at_once(
    command: str, says: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the ten minutes that processes wait for each other."""
    environment, files = dict(os.environ), len(os.listdir("/dev/fd"))
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **settings: popen([sys.executable, "-c", command], **settings))
    began_s = time.monotonic()
    with pytest.raises(ConfigError, match=says) as error, launch(make(devices=2, **SHARED)):
        pass
    assert time.monotonic() - began_s < 30 and "\n" not in str(error.value)
    assert dict(os.environ) == environment and len(os.listdir("/dev/fd")) == files


def test_a_process_that_is_gone_before_it_gets_its_task(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def gone(_: Any, **settings: Any) -> Any:
        process = popen([sys.executable, "-c", "import sys; sys.stdin.close(); raise SystemExit(3)"], **settings)
        process.wait()
        return process

    monkeypatch.setattr(subprocess, "Popen", gone)
    with pytest.raises(ConfigError, match=r"\(exit code 3\)"), launch(make(devices=2, **SHARED)):
        pass


class Noise(gym.Env):
    """Members of any space, for six steps."""

    def __init__(self, observed: dict) -> None:
        self.observation_space, self.action_space = space_from_json(observed), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = 6
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.left -= 1
        return self.observation_space.sample(), float(action), not self.left, False, {}


gym.register("WorldsimTestNoise-v0", Noise)


def test_a_state_does_not_depend_on_how_many_wrote_it(make: Make) -> None:
    _, weights = trained(make("rssm", "one", **SHARED))
    with pytest.raises(Stop):
        train(make("rssm", "both", devices=2, strategy="fsdp", **SHARED), stop_at(5), progress=False)
    _, same = trained(make("rssm", "both", **SHARED))
    assert all(torch.allclose(value.float(), same[name].float(), atol=1e-5) for name, value in weights.items())


def test_shares_are_a_partition_in_which_mates_stay_together() -> None:
    for ranks, size in ((1, 5), (2, 8), (3, 12)):
        shares = [RankShard(rank, ranks).of(size) for rank in range(ranks)]
        assert sorted(np.concatenate(shares)) == list(range(size))
        for rows in shares:
            assert np.array_equal(rows[::-1], size - 1 - rows)


def test_a_share_of_random_numbers_is_that_of_the_whole_batch() -> None:
    device = torch.device("cpu")
    whole = torch.rand((3, 8, 2), generator=torch.Generator().manual_seed(1))
    for rank in range(2):
        generator = SharedGenerator(device, RankShard(rank, 2))
        generator.manual_seed(1)
        assert torch.equal(uniform((3, 4, 2), generator, device, axis=1), whole[:, RankShard(rank, 2).of(8)])


def test_what_cannot_be_shared_is_a_line(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    values = make(**SHARED).model_dump()
    values["trainer"] |= {"devices": 2, "batch": 6}
    with pytest.raises(ValidationError, match="batch=6 cannot be shared by 2 processes; make it a multiple of 4"):
        TrainConfig.model_validate(values)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ConfigError, match="num_nodes=2 needs MASTER_ADDR"), launch(make(**SHARED, num_nodes=2)):
        pass
    with (
        pytest.raises(ConfigError, match="trainer.accelerator=nix trainer.devices=1: .*nix"),
        launch(make(accelerator="nix")),
    ):
        pass
