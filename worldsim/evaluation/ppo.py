"""`worldsim ppo`: trains a small PPO agent of Stable-Baselines3 in the real environment, as an agent to test."""

import io
import random
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from pydantic import Field

from worldsim.envs.make import EnvConfig, make_env
from worldsim.errors import ConfigError, EnvError, MissingExtraError
from worldsim.files import alone_at, refuse_foreign, write_atomically
from worldsim.rollouts.progress import Bar
from worldsim.settings import Seed, Settings, StepCount
from worldsim.spaces import is_nested, leaves, recounted, zero_based
from worldsim.wrappers import FlattenDict

ROLLOUT = 128  # steps of an environment between updates
BATCH, EPOCHS = 128, 4  # rows of a minibatch, passes over the rows
MARK = b"worldsim ppo"  # comment of the zip file, because only files with it are overwritten


class PPOConfig(Settings):
    """The environment of the agent, and how long it is trained."""

    env: EnvConfig = Field(description="the environment to train in")
    steps: StepCount = Field(8192, description="environment steps of training, at least")
    # at most 128: each update needs a rollout of 128 steps from every environment in memory
    num_envs: int = Field(4, ge=1, le=128, description="parallel environments; the agent depends on their number")
    seed: Seed = Field(0, description="of everything: same seed and settings, same agent")
    out: Path = Field(
        Path("runs/ppo.zip"), description="file of the agent; load only files that you trust, it is a pickle"
    )


def train_ppo(config: PPOConfig, progress: bool = True) -> Path:
    """Trains the agent and writes it, whole or not at all, to `config.out`, which it returns.

    Nested observations are flattened to a Dict of leaves (FlattenDict), as in tests of agents from files.
    Raises MissingExtraError without Stable-Baselines3, ConfigError for spaces that its PPO does not take and where
    `config.out` is a file that worldsim did not write.
    """
    if config.out.suffix != ".zip":
        raise ConfigError(f"out={config.out} must be a file ending in .zip")
    with alone_at(config.out):
        if not _is_ours(config.out):
            refuse_foreign([config.out], "ppo")
        write_atomically(config.out, _train(config, progress))
    return config.out


def _is_ours(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.comment == MARK
    except (OSError, zipfile.BadZipFile):
        return False


def _train(config: PPOConfig, progress: bool) -> bytes:
    """The trained agent, as the bytes of its file."""
    # Imported here, with the callback class that needs them, because Stable-Baselines3 is optional.
    try:
        import torch
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.preprocessing import is_image_space
        from stable_baselines3.common.vec_env import DummyVecEnv
    except ImportError as error:
        raise MissingExtraError("a PPO agent needs Stable-Baselines3: pip install 'worldsim[sb3]'") from error

    class ShowProgress(BaseCallback):
        def _on_step(self) -> bool:
            bar.at(self.num_timesteps)
            return True

    envs = DummyVecEnv([lambda: Monitor(_make_flat_env(config.env))] * config.num_envs)
    space = envs.observation_space
    # MultiInputPolicy detects images among other leaves; a single image needs CnnPolicy.
    policy = "MultiInputPolicy" if isinstance(space, gym.spaces.Dict) else "MlpPolicy"
    policy = "CnnPolicy" if is_image_space(space) else policy
    try:
        with _global_generators_kept(), torch.random.fork_rng(devices=[]), Bar("ppo", config.steps, progress) as bar:
            sizes = (ROLLOUT, BATCH, EPOCHS)
            model = PPO(policy, envs, 3e-4, *sizes, seed=config.seed, device="cpu")
            model.learn(config.steps, callback=ShowProgress())
            saved = io.BytesIO()
            model.save(saved)
    except EnvError:  # is a ValueError, too, but has a message of its own
        raise
    except (AssertionError, ValueError) as error:  # raised by Stable-Baselines3 for spaces that it does not support
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"PPO cannot be trained in env '{config.env.id}': {reason}") from error
    finally:
        envs.close()
    with zipfile.ZipFile(saved, "a") as archive:
        archive.comment = MARK
    return saved.getvalue()


def _make_flat_env(config: EnvConfig) -> gym.Env[Any, Any]:
    """The environment with spaces that Stable-Baselines3 supports: one level of keys, classes from 0."""
    env = make_env(config)
    texts = [leaf.name for leaf in leaves(env.observation_space) if isinstance(leaf.space, gym.spaces.Text)]
    if texts:
        env.close()
        raise ConfigError(
            f"PPO cannot be trained in env '{config.id}': it reads no text, and the observation has {', '.join(texts)};"
            " leave that out (gymnasium.wrappers.FilterObservation), or test your own agent, agents=[module:factory]"
        )
    env = FlattenDict(env) if is_nested(env.observation_space) else env
    counted = zero_based(env.observation_space), zero_based(env.action_space)
    return env if counted == (env.observation_space, env.action_space) else _ZeroBased(env, *counted)


class _ZeroBased(gym.Wrapper[Any, Any, Any, Any]):
    """Makes classes start at 0, as Stable-Baselines3 needs; a Discrete may start anywhere."""

    def __init__(self, env: gym.Env[Any, Any], observed: gym.Space[Any], acted: gym.Space[Any]) -> None:
        super().__init__(env)
        self.observation_space, self.action_space = observed, acted

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._counted(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        recounted_action = recounted(self.action_space, self.env.action_space, action)
        observation, *rest, info = self.env.step(recounted_action)
        return self._counted(observation), *rest, info

    def _counted(self, observation: Any) -> Any:
        return recounted(self.env.observation_space, self.observation_space, observation)


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Restores the global random generators, which Stable-Baselines3 seeds."""
    kept = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
