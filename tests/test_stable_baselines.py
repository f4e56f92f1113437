"""Agents of Stable-Baselines3 against the library's own prediction, on files of each of its algorithms."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldsim.agents import make_agent
from worldsim.errors import ConfigError
from worldsim.evaluation.cells import agent_digest

sb3 = pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize  # noqa: E402

ENVS = {"PPO": "CartPole-v1", "A2C": "Pendulum-v1", "DQN": "CartPole-v1"}
ALGORITHMS = ("PPO", "A2C", "DQN", "SAC", "TD3", "DDPG")
ON_POLICY = {"PPO": {"n_steps": 32, "batch_size": 32}, "A2C": {"n_steps": 32}}


def env_of(name: str) -> str:
    return ENVS.get(name, "Pendulum-v1")


def trained(name: str, envs: Any, steps: int = 64, **settings: Any) -> Any:
    more = ON_POLICY.get(name, {"learning_starts": 32, "buffer_size": 200, "batch_size": 16})
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 3}
    model = getattr(sb3, name)("MlpPolicy", envs, **small, **more, **settings)
    return model.learn(steps)


@pytest.fixture(scope="module", params=ALGORITHMS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """A trained agent of an algorithm: its name, its file, and the model itself."""
    path = tmp_path_factory.mktemp("agents") / f"{request.param}.zip"
    model = trained(request.param, env_of(request.param))
    model.save(path)
    return request.param, path, model


def states(env: gym.Env[Any, Any], count: int = 12) -> list[Any]:
    env.reset(seed=0)
    env.action_space.seed(0)
    return [env.step(env.action_space.sample())[0] for _ in range(count)]


def test_a_file_of_each_algorithm_acts_as_the_library_does(saved: tuple[str, Path, Any]) -> None:
    name, path, model = saved
    env = gym.make(env_of(name))
    agent = make_agent(str(path), env.observation_space, env.action_space)
    for state in states(env):
        draws = []
        for seed in (1, 1, 2):
            agent.reset(seed)
            draws.append(agent.act(state, {}))
            assert env.action_space.contains(draws[-1])
        assert np.array_equal(draws[0], draws[1])
        best, _ = model.predict(state, deterministic=True)
        if name in ("DQN", "TD3", "DDPG"):
            assert np.array_equal(draws[0], best) and np.array_equal(draws[2], best)
        elif name in ("A2C", "SAC"):
            drawn = [agent.act(state, {}) for _ in range(60)]  # around what is likeliest
            low, high = np.quantile(drawn, [0.01, 0.99])
            assert low < best[0] < high and not np.array_equal(draws[0], draws[2])


def test_global_generators_stay_where_they_were(saved: tuple[str, Path, Any]) -> None:
    """A model keeps the seed that it was trained with, and the library sets all generators to it."""
    name, path, _ = saved
    env = gym.make(env_of(name))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    agent = make_agent(str(path), env.observation_space, env.action_space)
    agent.reset(0)
    agent.act(env.reset(seed=0)[0], {})
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_replay_buffer_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "dqn.zip"
    env = gym.make("CartPole-v1")
    trained("DQN", env).save(path)
    agent = make_agent(str(path), env.observation_space, env.action_space)
    assert agent.model.replay_buffer.buffer_size == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["A2C", "SAC"])
def test_noise_that_depends_on_states_is_each_episodes_own(name: str, tmp_path: Path) -> None:
    from copy import copy

    env = gym.make("Pendulum-v1")
    path = tmp_path / "sde.zip"
    trained(name, env, use_sde=True).save(path)
    one = make_agent(str(path), env.observation_space, env.action_space)
    other = copy(one)  # as episodes in lockstep share one network
    state = states(env, 1)[0]
    one.reset(1)
    other.reset(2)
    alone = [one.act(state, {}) for _ in range(3)]
    one.reset(1)
    between = []
    for _ in range(3):
        between.append(one.act(state, {}))
        assert not np.array_equal(other.act(state, {}), between[-1])
    assert np.array_equal(alone, between)


def normalised(name: str, env_id: str, **settings: Any) -> tuple[Any, VecNormalize]:
    """An agent that has seen nothing but observations shifted and scaled by what a VecNormalize had learned of them."""
    envs = VecNormalize(DummyVecEnv([lambda: gym.make(env_id)]), **settings)
    return trained(name, envs), envs


Saves = Callable[[Path], tuple[Path, Path]]
PLACES: list[Saves] = [
    lambda folder: (folder / "agent.zip", folder / "agent_vecnormalize.pkl"),
    lambda folder: (folder / "agent.zip", folder / "vecnormalize.pkl"),
    lambda folder: (folder / "agent.zip", folder / "vec_normalize.pkl"),
    lambda folder: (folder / "rl_model_800_steps.zip", folder / "rl_model_vecnormalize_800_steps.pkl"),
    lambda folder: (folder / "Pendulum-v1.zip", folder / "Pendulum-v1" / "vecnormalize.pkl"),
    lambda folder: (folder / "best_model.zip", folder / "Pendulum-v1" / "vecnormalize.pkl"),
]


@pytest.mark.parametrize("name", ["PPO", "TD3", "DQN"])
def test_statistics_beside_a_file_are_used_wherever_they_are_saved(name: str, tmp_path: Path) -> None:
    env = gym.make("CartPole-v1" if name == "DQN" else "Pendulum-v1")
    model, envs = normalised(name, env.spec.id)  # type: ignore[union-attr]
    envs.training = False
    for number, place in enumerate(PLACES):
        path, statistics = place(tmp_path / str(number))
        statistics.parent.mkdir(parents=True)
        model.save(path)
        envs.save(str(statistics))
        agent = make_agent(str(path), env.observation_space, env.action_space)
        for state in states(env):
            expected = envs.normalize_obs(state[None])[0]
            assert np.allclose(agent._preprocess(state), expected)  # type: ignore[attr-defined]
            if name != "PPO":
                agent.reset(0)
                assert np.array_equal(agent.act(state, {}), model.predict(expected, deterministic=True)[0])


@pytest.mark.parametrize(("name", "env_id"), [("PPO", "CartPole-v1"), ("A2C", "Pendulum-v1"), ("SAC", "Pendulum-v1")])
def test_an_agent_whose_statistics_are_missing_is_refused(name: str, env_id: str, tmp_path: Path) -> None:
    env = gym.make(env_id)
    path = tmp_path / "agent.zip"
    envs = VecNormalize(DummyVecEnv([lambda: gym.make(env_id)]))
    model = trained(name, envs)
    if name == "SAC":  # off-policy files tell by what cannot have been shown as it is
        model._last_original_obs, model._last_obs = np.zeros((1, 3), np.float32), np.full((1, 3), 3, np.float32)
    model.save(path)
    with pytest.raises(
        ConfigError, match=r"agent.zip was trained behind a VecNormalize.*env.save\('.*agent_vecnormalize.pkl"
    ) as e:
        make_agent(str(path), env.observation_space, env.action_space)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_statistics_of_another_agent_in_the_folder_are_not_used(name: str, tmp_path: Path) -> None:
    env = gym.make("Pendulum-v1")
    _, envs = normalised(name, "Pendulum-v1")
    envs.obs_rms.mean, envs.obs_rms.var = np.full(3, 4.0), np.full(3, 0.01)
    envs.save(str(tmp_path / "vecnormalize.pkl"))
    path = tmp_path / "plain.zip"
    trained(name, DummyVecEnv([lambda: gym.make("Pendulum-v1")])).save(path)
    agent = make_agent(str(path), env.observation_space, env.action_space)
    state = states(env, 1)[0]
    assert np.array_equal(agent._preprocess(state), state)  # type: ignore[attr-defined]


def test_rewards_alone_may_be_normalised(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    path = tmp_path / "agent.zip"
    model, envs = normalised("PPO", "CartPole-v1", norm_obs=False)
    model.save(path)
    envs.save(str(tmp_path / "vecnormalize.pkl"))
    agent = make_agent(str(path), env.observation_space, env.action_space)
    state = states(env, 1)[0]
    assert np.array_equal(agent._preprocess(state), state)  # type: ignore[attr-defined]


def test_statistics_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    path, beside = tmp_path / "agent.zip", tmp_path / "agent_vecnormalize.pkl"
    model, _ = normalised("PPO", "CartPole-v1")
    model.save(path)
    _, others = normalised("A2C", "Pendulum-v1")
    others.save(str(beside))
    shutil.copy(beside, tmp_path / "kept")
    for content, said in (
        (None, r"shape \(3,\)"),
        (b"nothing", "cannot be read"),
        (b"\x80\x04K\x01.", "contains a int"),
    ):
        if content is not None:
            beside.write_bytes(content)
        with pytest.raises(ConfigError, match=said) as caught:
            make_agent(str(path), env.observation_space, env.action_space)
        assert "agent_vecnormalize.pkl" in str(caught.value) and "\n" not in str(caught.value)


def test_a_finished_cell_is_run_again_with_other_statistics(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    path.write_bytes(b"weights")
    digests = [agent_digest(str(path), {})]
    for content in (b"one", b"two"):
        (tmp_path / "agent_vecnormalize.pkl").write_bytes(content)
        digests.append(agent_digest(str(path), {}))
    assert len(set(digests)) == 3


class Counted(gym.Env[Any, Any]):
    """Its classes begin at 5 and at -3; the right action, worth 1, is what it shows plus 8."""

    metadata = {"render_modes": []}  # noqa: RUF012
    observation_space = gym.spaces.Discrete(4, start=-3)
    action_space: gym.Space[Any] = gym.spaces.Discrete(4, start=5)

    def _show(self) -> Any:
        self.shown = np.int64(self.np_random.integers(-3, 1))
        return self.shown

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        right = action == self.shown + 8
        self.steps += 1
        return self._show(), float(right), False, self.steps >= 20, {}


class Several(Counted):
    action_space = gym.spaces.MultiDiscrete([4, 2], start=[5, 1])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        right = action[0] == self.shown + 8
        self.steps += 1
        return self._show(), float(right), False, self.steps >= 20, {}


gym.register("WorldsimTestCounted-v0", Counted)
gym.register("WorldsimTestSeveral-v0", Several)


@pytest.mark.parametrize("name", ["Counted", "Several"])
def test_ppo_learns_where_classes_are_counted_from_another_number(name: str, tmp_path: Path) -> None:
    from worldsim.envs.make import EnvConfig, make_env
    from worldsim.evaluation.ppo import PPOConfig, train_ppo

    config = EnvConfig(id=f"tests.test_stable_baselines:WorldsimTest{name}-v0")
    path = train_ppo(PPOConfig(env=config, steps=16384, num_envs=4, out=tmp_path / "ppo.zip"), progress=False)
    env = make_env(config)
    agent = make_agent(str(path), env.observation_space, env.action_space)
    rewards = []
    for seed in range(10):
        agent.reset(seed)
        observation, _ = env.reset(seed=seed)
        for _ in range(20):
            observation, reward, *_ = env.step(agent.act(observation, {}))
            rewards.append(reward)
    assert np.mean(rewards) > 0.5, "by chance it is a quarter"
