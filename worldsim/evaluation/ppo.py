"""A small PPO agent of Stable-Baselines3, trained in the real environment: somebody better than chance to test."""

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
MARK = b"worldsim ppo"  # the comment of the file: other agents of Stable-Baselines3 are never overwritten


class PPOConfig(Settings):
    """Where the agent learns and for how long."""

    env: EnvConfig = Field(description="where it learns")
    steps: StepCount = Field(8192, description="environment steps that it learns from, at least")
    # a rollout of 128 steps in each is learned from as a whole
    num_envs: int = Field(4, ge=1, le=128, description="environments side by side; part of what the agent becomes")
    seed: Seed = Field(0, description="of everything: same seed and settings, same agent")
    out: Path = Field(
        Path("runs/ppo.zip"), description="file of the agent; load only files that you trust, it is a pickle"
    )


def train_ppo(config: PPOConfig, progress: bool = True) -> Path:
    """Trains the agent and writes it, whole or not at all, to `config.out`, which it returns.

    A nested observation is given as its leaves by name (FlattenDict), as agents from a file also get it in a test.
    Raises MissingExtraError without Stable-Baselines3, ConfigError for spaces that its PPO does not take and where
    `config.out` is somebody else's file.
    """
    if config.out.suffix != ".zip":
        raise ConfigError(f"out={config.out} must be a file ending in .zip")
    with alone_at(config.out):
        if not _is_ours(config.out):
            refuse_foreign([config.out], "ppo")
        write_atomically(config.out, _trained(config, progress))
    return config.out


def _is_ours(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.comment == MARK
    except (OSError, zipfile.BadZipFile):
        return False


def _trained(config: PPOConfig, progress: bool) -> bytes:
    """The agent as a file."""
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

    envs = DummyVecEnv([lambda: Monitor(_one_level(config.env))] * config.num_envs)
    space = envs.observation_space
    # Images alone go through convolutions; MultiInputPolicy finds the images among other leaves by itself.
    policy = "MultiInputPolicy" if isinstance(space, gym.spaces.Dict) else "MlpPolicy"
    policy = "CnnPolicy" if is_image_space(space) else policy
    try:
        with _global_generators_kept(), torch.random.fork_rng(devices=[]), Bar("ppo", config.steps, progress) as bar:
            sizes = (ROLLOUT, BATCH, EPOCHS)
            model = PPO(policy, envs, 3e-4, *sizes, seed=config.seed, device="cpu")
            model.learn(config.steps, callback=ShowProgress())
            saved = io.BytesIO()
            model.save(saved)
    except EnvError:  # is a ValueError, too, and names its line already
        raise
    except (AssertionError, ValueError) as error:  # as which Stable-Baselines3 refuses a space
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"PPO cannot be trained in env '{config.env.id}': {reason}") from error
    finally:
        envs.close()
    with zipfile.ZipFile(saved, "a") as archive:
        archive.comment = MARK
    return saved.getvalue()


def _one_level(config: EnvConfig) -> gym.Env[Any, Any]:
    """The environment as Stable-Baselines3 takes it."""
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
    """Counts classes from 0, the only way that Stable-Baselines3 knows; a Discrete may begin anywhere."""

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
    """Stable-Baselines3 seeds the global generators: they are put back as they were."""
    kept = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
