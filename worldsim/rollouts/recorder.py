"""Records episodes in parallel environments; an episode's seed depends on its index, not on the environment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from worldsim import spaces
from worldsim.agents import Mixture
from worldsim.envs.checked import info_of
from worldsim.errors import ConfigError, DatasetError
from worldsim.rollouts.recording import EpisodeBuilder, EpisodeFiles


@dataclass
class _Slot:
    """One of the parallel environments, with its policy and its current episode."""

    policy: Mixture
    index: int = -1
    episode: EpisodeBuilder | None = None
    observation: Any = None
    info: Mapping[str, Any] = field(default_factory=dict)


class Recorder:
    """Steps N environments with a policy each and saves every finished episode, by index, to `parts`."""

    def __init__(
        self,
        envs: gym.vector.VectorEnv[Any, Any, Any],
        policies: list[Mixture],
        parts: EpisodeFiles,
        seed: int,
        steps: int,
    ):
        """steps: how many to record in all; also the length at which an episode is truncated."""
        self.envs, self.parts, self.seed, self.steps = envs, parts, seed, steps
        self.observed, self.acted = envs.single_observation_space, envs.single_action_space
        _check_names(self.observed, self.acted)
        self.slots = [_Slot(policy) for policy in policies]
        self.next = 0

    def run(self, report: Callable[[int], None]) -> int:
        """Record until there are enough steps; returns how many of the first episodes hold them.

        report: called with the number of steps so far.
        """
        free = np.ones(len(self.slots), np.bool_)
        while (count := self.parts.count_holding(self.steps)) is None:
            saved = self.parts.steps
            self._start_episodes(free)
            while not (free := self._step()).any():
                report(saved + sum(len(slot.episode or ()) for slot in self.slots))
        return count

    def _start_episodes(self, free: NDArray[np.bool_]) -> None:
        """Give every free slot the next episode that is not recorded yet."""
        seeds: list[int | None] = [None] * len(self.slots)
        for i in np.flatnonzero(free).tolist():
            while self.next in self.parts.lengths:
                self.next += 1
            self.slots[i].index, self.next = self.next, self.next + 1
            seeds[i], policy_seed = episode_seeds(self.seed, self.slots[i].index)
            self.slots[i].policy.reset(policy_seed)
        observations, infos = self.envs.reset(seed=cast(Any, seeds), options={"reset_mask": free.copy()})
        for i, observation in enumerate(iterate(self.envs.observation_space, observations)):
            if free[i]:
                slot = self.slots[i]
                slot.observation, slot.info = observation, info_of(infos, i)
                slot.episode = EpisodeBuilder(
                    self.observed, self.acted, cast(int, seeds[i]), slot.policy.drawn, observation
                )

    def _step(self) -> NDArray[np.bool_]:
        """One step in every environment; returns which of them ended their episode."""
        actions = [self._act(slot) for slot in self.slots]
        batch = concatenate(self.acted, actions, cast(Any, create_empty_array(self.acted, len(actions))))
        observations, rewards, terminated, truncated, infos = self.envs.step(batch)
        ended = np.zeros(len(self.slots), np.bool_)
        for i, observation in enumerate(iterate(self.envs.observation_space, observations)):
            slot = self.slots[i]
            slot.observation, slot.info = observation, info_of(infos, i)
            assert slot.episode is not None
            cut = len(slot.episode) + 1 >= self.steps and not terminated[i]  # for environments whose episodes never end
            slot.episode.add(actions[i], observation, rewards[i], terminated[i], truncated[i] or cut)
            if terminated[i] or truncated[i] or cut:
                self.parts.save(slot.index, slot.episode.raw())
                slot.episode, ended[i] = None, True
        return ended

    def _act(self, slot: _Slot) -> Any:
        action = slot.policy.act(slot.observation, slot.info)
        if not self.acted.contains(action):
            raise ConfigError(
                f"agent '{slot.policy.drawn}' returned the action {action!r}, which is not in {self.acted}"
            )
        return action


def episode_seeds(seed: int, index: int) -> tuple[int, int]:
    """The seeds of the environment and of the policy in episode `index`, each in [0, 2**31)."""
    env_seed, policy_seed = np.random.SeedSequence([seed, index]).generate_state(2) >> 1
    return int(env_seed), int(policy_seed)


def _check_names(*all_spaces: gym.Space[Any]) -> None:
    for space in all_spaces:
        for leaf in spaces.leaves(space):
            if any("/" in str(step) for step in leaf.path):
                raise DatasetError(f"key '{leaf.path[-1]}' of {space} has a '/', which Minari cannot store; rename it")
