"""An environment with every kind of leaf, in and out, through the command line: recorded, learned, drawn, served."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import worldsim
from tests.models.test_inputs import ACTS, ARM
from worldsim.cli import main
from worldsim.simulator import WorldEnv
from worldsim.spaces import leaves


class Arm(gym.Env):
    """Noise in every leaf; an episode has six steps."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = ARM, ACTS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), float(self.steps % 3), self.steps == 6, False, {}


gym.register("WorldsimTestArm-v0", Arm)
ENV = "env=tests.e2e.test_inputs:WorldsimTestArm-v0"
SMALL = ["model.embed=16", "model.hidden=16", "model.width=32", "model.head_hidden=16", "model.ensemble=2"]
SHORT = [
    "trainer.precision=32-true",
    "trainer.steps=2",
    "trainer.codec_steps=2",
    "trainer.codec_frames=4",
    "trainer.batch=2",
    "trainer.length=4",
]


def test_every_kind_of_leaf_is_recorded_learned_measured_drawn_and_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, world, film = tmp_path / "rollouts", tmp_path / "world", tmp_path / "look.gif"
    assert main(["collect", ENV, "steps=40", "env.resize=null", "num_envs=2", f"out={data}"]) == 0
    train = ["train", ENV, "env.resize=null", "model=transformer", *SMALL, *SHORT, "trainer.holdout=0.3"]
    assert main([*train, f"data={data}", f"out={world}"]) == 0
    assert "note" not in capsys.readouterr().out
    assert main([*train, "trainer.length=8", f"data={data}", f"out={tmp_path / 'long'}"]) == 0
    note, done = capsys.readouterr().out.splitlines()[-2:]
    assert (
        "trainer.length=8, so sequences run on into the next; the longest has 7" in note
        and "world, trained for" in done
    )
    assert main(["validate", f"world={world}", f"data={data}", "context=2", "horizon=3", "windows=4"]) == 0
    told = json.loads((world / "fidelity.json").read_text())
    assert set(told["within_by_leaf"]) == set(told["trust"]["auroc_by_leaf"]) == {leaf.name for leaf in leaves(ARM)}
    assert main(["look", f"world={world}", f"data={data}", f"out={film}", "context=2", "length=3", "count=1"]) == 0
    assert film.stat().st_size > 0
    check_env(WorldEnv(worldsim.load(world)), skip_render_check=True)


def test_minigrid_works_by_name_without_code(tmp_path: Path) -> None:
    data, world, grid = tmp_path / "rollouts", tmp_path / "world", "env=MiniGrid-Empty-8x8-v0"
    assert main(["collect", grid, "env.max_episode_steps=20", "steps=200", f"out={data}"]) == 0
    assert main(["train", grid, *SMALL, *SHORT, f"data={data}", f"out={world}"]) == 0
    learned = worldsim.load(world)
    assert learned.observation_space["mission"].max_length == len("get to the green goal square")
    check_env(WorldEnv(learned), skip_render_check=True)
    film = tmp_path / "look.gif"
    assert main(["look", f"world={world}", f"data={data}", f"out={film}", "context=2", "length=3", "count=1"]) == 0
    asked = ["episodes=2", "max_steps=4", "faults=[missing_data]", "worst=0", f"out={tmp_path / 'stress'}"]
    assert main(["stress", grid, f"world={world}", *asked]) == 0


class Stacked(gym.Wrapper):
    """The last four frames in each observation, as agents for pictures have it."""

    def __init__(self) -> None:
        super().__init__(gym.wrappers.FrameStackObservation(gym.make("CarRacing-v3", continuous=False), 4))


gym.register("WorldsimTestStackedCar-v0", Stacked)


def test_frame_stacks_are_recorded_learned_measured_drawn_and_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env, data, world = "env=tests.e2e.test_inputs:WorldsimTestStackedCar-v0", tmp_path / "rollouts", tmp_path / "world"
    assert main(["collect", env, "env.max_episode_steps=12", "env.resize=32", "steps=48", f"out={data}"]) == 0
    assert "resized value from 96x96 to 32x32 pixels" in capsys.readouterr().err
    assert main(["train", *SMALL, *SHORT, "trainer.holdout=0.5", f"data={data}", f"out={world}"]) == 0
    assert main(["validate", f"world={world}", f"data={data}", "context=2", "horizon=3", "windows=4"]) == 0
    certificate = json.loads((world / "fidelity.json").read_text())
    assert set(certificate["psnr_by_leaf"]) == set(certificate["ssim"]) == {"value"}
    film = tmp_path / "look.gif"
    assert main(["look", f"world={world}", f"data={data}", f"out={film}", "context=2", "length=3", "count=1"]) == 0
    served = WorldEnv(worldsim.load(world))
    assert served.observation_space == gym.spaces.Box(0, 255, (4, 32, 32, 3), "uint8")
    check_env(served, skip_render_check=True)
