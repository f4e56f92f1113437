"""Agents from Stable-Baselines3 files, of every algorithm, with their VecNormalize statistics."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.errors import ConfigError, MissingExtraError, SpaceMismatchError
from worldsim.spaces import Space, by_name, is_nested, leaves, recounted, zero_based

ALGORITHMS = "PPO, A2C, DQN, SAC, TD3 and DDPG"
# Replaced when loading: a replay buffer would take memory, a seed would set global generators, closures run code.
TRAINING_ONLY: dict[str, Any] = {
    "buffer_size": 1,
    "replay_buffer_class": None,
    "replay_buffer_kwargs": {},
    "optimize_memory_usage": False,
    "seed": None,
    "learning_rate": 0.0,
    "lr_schedule": 0.0,
    "clip_range": 0.0,
    "clip_range_vf": None,
}


class StableBaselines:
    """A Stable-Baselines3 file as an agent: stochastic policies are sampled, with a generator of their own, and DQN is
    greedy.

    VecNormalize statistics are read from a file beside it, see `statistics_of`.
    """

    def __init__(self, path: str, observation_space: Space, action_space: Space):
        if not Path(path).is_file():
            raise ConfigError(f"there is no agent file {path}")
        try:
            import torch
            from stable_baselines3 import DQN
        except ImportError as error:
            raise MissingExtraError(f"{path} needs Stable-Baselines3: pip install 'worldsim[sb3]'") from error
        with torch.random.fork_rng(devices=[]):  # networks are initialised before their weights are loaded
            self.model = _loaded(path)
        trained_for = self.model.action_space
        if trained_for not in (action_space, zero_based(action_space)):
            raise SpaceMismatchError(f"{path} acts in {trained_for}, the environment takes {action_space}")
        self.observation_space, self.action_space = observation_space, action_space
        self.flat_space = observation_space
        if is_nested(observation_space):
            self.flat_space = gym.spaces.Dict({leaf.name: leaf.space for leaf in leaves(observation_space)})
        self.statistics = _statistics(path, self.model)
        try:
            self.model.policy.obs_to_tensor(self._preprocess(observation_space.sample()))
        except Exception as error:
            trained_on = self.model.observation_space
            raise SpaceMismatchError(
                f"{path} was trained on {trained_on}, the environment gives {observation_space}"
            ) from error
        self.torch = torch
        self.greedy = isinstance(self.model, DQN)
        self.rng = np.random.default_rng(0)
        self.noise_seed = 0

    def reset(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise_seed = int(np.random.default_rng([seed, 1]).integers(2**63))

    def act(self, observation: Any, info: Mapping[str, Any]) -> Any:
        with self.torch.random.fork_rng(devices=[]):  # predict samples from torch's global generator, which is restored
            if self.model.use_sde:  # gSDE draws its noise matrix once for each episode
                self.torch.manual_seed(self.noise_seed)
                self.model.policy.reset_noise()
            self.torch.manual_seed(int(self.rng.integers(2**63)))
            action, _ = self.model.predict(self._preprocess(observation), deterministic=self.greedy)
        action = action[()] if action.ndim == 0 else action
        return recounted(self.model.action_space, self.action_space, action)

    def _preprocess(self, observation: Any) -> Any:
        """An observation as in training: one level of keys (FlattenDict), classes from 0, normalised."""
        named = by_name(self.observation_space, observation) if is_nested(self.observation_space) else observation
        counted = recounted(self.flat_space, self.model.observation_space, named)
        return counted if self.statistics is None else self.statistics.normalize_obs(counted)


def _loaded(path: str) -> Any:
    """The model in a file. Raises ConfigError for other files, and for unknown algorithms."""
    from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.common.save_util import load_from_zip_file
    from stable_baselines3.dqn.policies import DQNPolicy
    from stable_baselines3.sac.policies import SACPolicy
    from stable_baselines3.td3.policies import TD3Policy

    try:
        data = load_from_zip_file(path, device="cpu", custom_objects=TRAINING_ONLY)[0] or {}
        policy = data.get("policy_class")
        if not isinstance(policy, type):
            raise TypeError("its policy cannot be imported")
        actor_critic: Any = PPO if "n_epochs" in data else A2C
        kinds: list[tuple[type, Any]] = [(ActorCriticPolicy, actor_critic), (DQNPolicy, DQN), (SACPolicy, SAC)]
        kinds.append((TD3Policy, TD3))  # and DDPG, which is TD3 with one critic
        known = [algorithm for each, algorithm in kinds if issubclass(policy, each)]
        if not known or policy.__module__.startswith("sb3_contrib"):
            raise TypeError(
                f"{policy.__module__}.{policy.__name__} is of none of them; wrap it, agents=[module:factory]"
            )
        return known[0].load(path, device="cpu", custom_objects=TRAINING_ONLY)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{path} is not a Stable-Baselines3 file of {ALGORITHMS} that can be loaded ({reason})"
        ) from error


def statistics_of(path: Path) -> Path | None:
    """The file of VecNormalize statistics for an agent's file; None if there is none. Searched are, in this order:

    `ppo_vecnormalize.pkl` beside `ppo.zip`; `ppo_vecnormalize_800_steps.pkl` beside `ppo_800_steps.zip`, as
    CheckpointCallback writes them; `vecnormalize.pkl` or `vec_normalize.pkl` in the same folder, or, as RL Zoo has it,
    `vecnormalize.pkl` in a folder named like the file, or in the only folder beside it that has one.
    """
    stem, folder = path.stem, path.parent
    names = [f"{stem}_vecnormalize.pkl", f"{stem}_vec_normalize.pkl"]
    checkpoint = re.fullmatch(r"(.*)_(\d+_steps)", stem)
    if checkpoint:
        names.append(f"{checkpoint[1]}_vecnormalize_{checkpoint[2]}.pkl")
    names += ["vecnormalize.pkl", "vec_normalize.pkl", f"{stem}/vecnormalize.pkl"]
    below = sorted(folder.glob("*/vecnormalize.pkl"))
    candidates = [*(folder / name for name in names), *(below if len(below) == 1 else [])]
    return next((each for each in candidates if each.is_file()), None)


def _statistics(path: str, model: Any) -> Any:
    """The VecNormalize of an agent; None where it was trained without one.

    Raises ConfigError where it was trained with one and no statistics that fit are found: it would act randomly.
    """
    needed, found = _was_normalised(model), statistics_of(Path(path))
    if found is None and needed:
        raise ConfigError(
            f"{path} was trained behind a VecNormalize, whose statistics are not beside it; save them there: "
            f"env.save('{Path(path).with_suffix('')}_vecnormalize.pkl')"
        )
    if found is None or needed is False:  # the file found belongs to another agent
        return None
    statistics = _read(found, path)
    if not statistics.norm_obs:
        return None
    kept, space = statistics.obs_rms, model.observation_space
    shapes = {key: rms.mean.shape for key, rms in kept.items()} if isinstance(kept, dict) else kept.mean.shape
    expected = {
        key: part.shape for key, part in _parts(space, space).items() if not isinstance(kept, dict) or key in kept
    }
    if shapes != (expected if isinstance(kept, dict) else space.shape):
        raise ConfigError(f"{found} has statistics of the shape {shapes}, and {path} sees {expected}; move it away")
    return statistics if needed or _explains_observations(statistics, model) else None


def _read(found: Path, path: str) -> Any:
    """The VecNormalize in a file. Raises ConfigError for other files."""
    from stable_baselines3.common.vec_env import VecNormalize

    try:
        statistics = pickle.loads(found.read_bytes())
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{found}, beside {path}, cannot be read ({reason}); save the VecNormalize again") from error
    if not isinstance(statistics, VecNormalize):
        raise ConfigError(
            f"{found}, beside {path}, contains a {type(statistics).__name__}, not a VecNormalize; move it away"
        )
    return statistics


def _was_normalised(model: Any) -> bool | None:
    """Whether an agent was trained with VecNormalize; None if its file does not show it.

    A model stores its last observations (N, ...), and often also the original ones before normalisation.
    """
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    last, original = model._last_obs, model._last_original_obs
    if last is None:
        return None
    if isinstance(model, OnPolicyAlgorithm):
        return original is not None
    # Off-policy ones always store original observations; without normalisation they are those of the step before.
    space = model.observation_space
    return True if not _could_show(space, last) and original is not None and _could_show(space, original) else None


def _could_show(space: Space, observations: Any) -> bool:
    """Whether observations can be unnormalised: normalised ones are float32 and exceed the bounds of the space."""
    for key, part in _parts(space, observations).items():
        inner = _parts(space, space)[key]
        if isinstance(inner, gym.spaces.Box):
            margin = 0.01 * (1 + np.abs(np.stack([inner.low, inner.high])))
            outside = (part < inner.low - margin[0]) | (part > inner.high + margin[1])
            if outside.any() or (part.dtype == np.float32 and inner.dtype == np.float64):
                return False
    return True


def _explains_observations(statistics: Any, model: Any) -> bool:
    """Whether the agent's last observations are closer to the normalised original ones than to the original ones."""
    last, original = model._last_obs, model._last_original_obs
    return original is None or _distance(last, statistics.normalize_obs(original)) <= _distance(last, original)


def _distance(left: Any, right: Any) -> float:
    """Sum of absolute differences of observations."""
    pairs = [(left[key], right[key]) for key in left] if isinstance(left, dict) else [(left, right)]
    return float(sum(np.abs(np.subtract(one, other, dtype=np.float64)).sum() for one, other in pairs))


def _parts(space: Space, whole: Any) -> dict[str, Any]:
    """The entries of a Dict by key; for another space the value itself, under the key ""."""
    return {key: whole[key] for key in space.spaces} if isinstance(space, gym.spaces.Dict) else {"": whole}
