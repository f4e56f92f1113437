"""The small PPO agent: the same twice, usable by its file, and no trace left on the global generators."""

import random
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from worldsim.agents import make_agent
from worldsim.envs.make import EnvConfig, make_env
from worldsim.errors import ConfigError
from worldsim.evaluation.ppo import PPOConfig, train_ppo
from worldsim.wrappers import FlattenDict

pytest.importorskip("stable_baselines3")
CARTPOLE = EnvConfig(id="CartPole-v1")


def actions(path: Path) -> list[int]:
    env = make_env(CARTPOLE)
    agent = make_agent("ppo", env.observation_space, env.action_space, {"ppo": str(path)})
    agent.reset(0)
    observation, _ = env.reset(seed=0)
    done = []
    for _ in range(8):
        done.append(int(agent.act(observation, {})))
        observation, *_ = env.step(done[-1])
    return done


def test_the_same_seed_trains_the_same_agent_and_global_generators_stay(tmp_path: Path) -> None:
    import torch

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    agents = [
        train_ppo(PPOConfig(env=CARTPOLE, steps=256, num_envs=2, out=tmp_path / f"{name}.zip"), progress=False)
        for name in ("a", "b")
    ]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])
    from stable_baselines3 import PPO

    weights = [PPO.load(agent, device="cpu").policy.state_dict() for agent in agents]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert actions(agents[0]) == actions(agents[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip"]


def test_an_agent_is_kept_in_a_zip(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file ending in .zip"):
        train_ppo(PPOConfig(env=CARTPOLE, out=tmp_path / "agent"))


def test_a_nested_observation_is_learned_from_and_acted_on(tmp_path: Path) -> None:
    desk = EnvConfig(id="worldsim/RefundDesk-v0")
    path = train_ppo(PPOConfig(env=desk, steps=16, num_envs=1, out=tmp_path / "ppo.zip"), progress=False)
    env = make_env(desk)
    agent = make_agent(str(path), env.observation_space, env.action_space)
    agent.reset(0)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        action = agent.act(observation, {})
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)
    from stable_baselines3 import PPO

    learned = PPO.load(path, device="cpu").observation_space
    assert set(learned.spaces) == set(FlattenDict(env).observation_space.spaces)


class Chat(gym.Env):
    observation_space = spaces.Dict(heard=spaces.Dict(said=spaces.Text(8)), number=spaces.Discrete(3))
    action_space = spaces.Discrete(2)


gym.register("WorldsimTestChat-v0", Chat)


def test_text_is_refused_in_one_line_with_its_name(tmp_path: Path) -> None:
    chat = EnvConfig(id="tests.evaluation.test_ppo:WorldsimTestChat-v0")
    with pytest.raises(ConfigError, match=r"reads no text, and the observation has heard/said; leave that out"):
        train_ppo(PPOConfig(env=chat, out=tmp_path / "ppo.zip"))
