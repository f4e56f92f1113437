"""FlattenDict: the same leaves under one level of keys, and what Stable-Baselines3 says of it."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

import worldsim  # noqa: F401  (registers the desk)
from worldsim.errors import SpaceMismatchError
from worldsim.wrappers import FlattenDict


def test_the_leaves_are_those_of_the_nested_observation() -> None:
    nested, flat = gym.make("worldsim/RefundDesk-v0"), FlattenDict(gym.make("worldsim/RefundDesk-v0"))
    for action in (7, 0, 4, 5):
        nested.reset(seed=3)
        flat.reset(seed=3)
        one, other = nested.step(action)[0], flat.step(action)[0]
        assert set(other) == {"screen", *(f"reply/{name}" for name in one["reply"])}
        assert all(other[f"reply/{name}"] == value for name, value in one["reply"].items())
        np.testing.assert_array_equal(one["screen"], other["screen"])
        assert flat.observation_space.contains(other)


def test_stable_baselines_takes_the_desk_without_a_warning_and_trains_in_it() -> None:
    env = FlattenDict(gym.make("worldsim/RefundDesk-v0"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    model.learn(16)
    assert model.num_timesteps >= 16


def test_a_space_without_keys_is_refused_in_one_line() -> None:
    with pytest.raises(SpaceMismatchError, match="leave FlattenDict out"):
        FlattenDict(gym.make("CartPole-v1"))
