"""The environments on a World that was loaded from its directory, with a network in it."""

from pathlib import Path
from typing import get_args

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import SyncVectorEnv

import worldsim
from tests.simulator.stub_world import IMAGE_SPACE
from worldsim.models.config import Precision
from worldsim.play.look import look
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.simulator import WorldEnv, WorldVectorEnv
from worldsim.simulator.conformance import check_world


@pytest.mark.parametrize("precision", get_args(Precision))
def test_keeps_what_an_environment_promises(world_folder: Path, precision: Precision) -> None:
    check_world(worldsim.load(world_folder, precision=precision))


def test_has_the_spaces_of_the_real_environment_and_starts_from_recorded_observations(world_folder: Path) -> None:
    env = gym.make("worldsim/World-v0", world=world_folder)
    assert env.observation_space == IMAGE_SPACE and env.action_space == spaces.Discrete(3)
    starts = env.unwrapped.world.starts["screen"].numpy()
    observed = [env.reset(seed=seed)[0]["screen"] for seed in range(20)]
    which = [int(np.flatnonzero((starts == screen).all(axis=(1, 2, 3)))[0]) for screen in observed]
    assert len(set(which)) > 3


def test_worlds_in_a_batch_live_as_they_do_alone(world_folder: Path) -> None:
    world = worldsim.load(world_folder)
    batched = gym.make_vec("worldsim/World-v0", num_envs=5, world=world_folder, horizon=6)
    assert isinstance(batched, WorldVectorEnv)
    alone = SyncVectorEnv([lambda: WorldEnv(world, horizon=6)] * 5)
    assert data_equivalence(batched.reset(seed=3), alone.reset(seed=3), exact=True)
    alone.action_space.seed(0)
    ends = 0
    for _ in range(20):
        actions = alone.action_space.sample()
        ours, theirs = batched.step(actions), alone.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(ours[2:4], theirs[2:4], strict=True))
        assert np.allclose(ours[1], theirs[1], atol=1e-4)
        assert np.allclose(ours[4]["trust"], theirs[4]["trust"], atol=1e-4)
        assert np.abs(ours[0]["screen"].astype(int) - theirs[0]["screen"]).max() <= 1  # rounding of one batch or five
        assert np.allclose(ours[0]["lamps"], theirs[0]["lamps"], atol=1e-4)
        assert np.array_equal(ours[0]["mode"], theirs[0]["mode"])
        ends += int((ours[2] | ours[3]).sum())
    assert ends > 10


def test_ppo_trains_in_it(world_folder: Path) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    small = {"features_extractor_kwargs": {"cnn_output_dim": 16}, "net_arch": [16]}
    env = gym.make("worldsim/World-v0", world=world_folder)
    model = sb3.PPO("MultiInputPolicy", env, n_steps=64, batch_size=32, n_epochs=1, policy_kwargs=small, seed=0)
    assert model.learn(256).num_timesteps == 256


def test_can_be_looked_at(world_folder: Path, tmp_path: Path) -> None:
    world = worldsim.load(world_folder)
    rows = 15
    recorded = {name: tensor[np.arange(rows) % 8].numpy() for name, tensor in world.starts.items()}
    ends = np.arange(rows) == rows - 1
    start = np.array([0, rows], np.int64)
    arrays = EpisodeArrays(
        recorded, {"value": np.ones((rows, 1), np.int64)}, np.zeros(rows, np.float32), ends, ~ends, start
    )
    path = look(world, arrays, np.array([0]), tmp_path / "real_vs_world.gif", length=6, count=2)
    assert 0 < path.stat().st_size < 3_000_000
