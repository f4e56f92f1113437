"""Many learned worlds as a Gymnasium vector environment: stepped as one batch, with SyncVectorEnv's semantics."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.simulator.drawing import draw
from worldsim.simulator.env import (
    SEED_LIMIT,
    TruncationRules,
    as_world,
    check_classes,
    check_member,
    make_metadata,
    make_rules,
)
from worldsim.spaces import Arrays, Bools, flatten, flatten_batch, leaves, unflatten_batch

if TYPE_CHECKING:
    from worldsim.simulator.world import World, WorldState


class VectorSnapshot(NamedTuple):
    """The complete state of all N worlds: restored, they continue bit for bit. Can be pickled."""

    state: "WorldState"
    elapsed: NDArray[np.int64]  # (N,) steps since each reset
    ended: Bools  # (N,) whose next step is a reset
    random: tuple[dict[str, Any], ...]  # state of each world's generator, which seeds its later episodes


class WorldVectorEnv(VectorEnv[Any, Any, NDArray[Any]]):
    """N learned worlds in one batch; world i with seed s behaves as a WorldEnv with seed s.

    world, horizon, min_trust, render_mode: as for WorldEnv. num_envs: N, at least 1. max_episode_steps: the
    same as horizon, as passed by `gymnasium.make_vec`; the smaller one counts, and -1 means none.

    An episode that ended starts anew at the next step, whose action is ignored and whose reward is 0
    (AutoresetMode.NEXT_STEP). reset(seed=s) seeds the worlds s, s+1, ...; reset(seed=[...]) each by itself;
    reset(options={"observation": o}) starts all from one observation, or each from its own if o is a batch;
    reset(options={"reset_mask": m}) resets only the worlds where m, a boolean array (N,), is true.
    info["trust"]: (N,) probabilities in [0, 1], with info["_trust"] true where there is one.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        world: "World | str | os.PathLike[str]",
        num_envs: int = 1,
        horizon: int | None = None,
        min_trust: float | None = None,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs={num_envs} is no number of worlds: give at least 1")
        self.world = as_world(world)
        self.num_envs = num_envs
        self.single_observation_space = self.world.observation_space
        self.single_action_space = self.world.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rules = _limited(make_rules(self.world, horizon, min_trust), max_episode_steps)
        self.metadata = {**make_metadata(self.world, render_mode), "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = render_mode
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds = [-1] * num_envs
        self._state: WorldState | None = None
        self._elapsed = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, np.bool_)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # a tuple, as SyncVectorEnv has it
        """One generator for each world, which seeds its later episodes."""
        return tuple(self._generator(index) for index in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each generator."""
        return tuple(self._seeds[index] for index, _ in enumerate(self.np_random))

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts new episodes, in all worlds or in some; returns the observations of all N worlds, and info.

        seed: world i gets seed + i, or the i-th of several; None: it goes on with its generator.
        options["observation"]: what to start from, one observation for all worlds or a batch of N; without it they
        start from recorded ones. options["reset_mask"]: booleans (N,), at least one true: only these worlds are reset,
        and the others keep their episode, their generator and their observation.
        info["trust"]: (N,) 1 where a world was reset, and 0 for the others, of which nothing new is known;
        info["_trust"]: (N,) which were reset.

        Raises ConfigError for a mask or seeds of another form, and SpaceMismatchError for an observation that is in no
        world's space.
        """
        options = options or {}
        mask = self._reset_mask(options)
        for index, each in enumerate(self._each_seed(seed)):
            if mask[index] and each is not None:
                self._generators[index], self._seeds[index] = seeding.np_random(each)
        self._restart(mask, options.get("observation"))
        self._elapsed = np.where(mask, 0, self._elapsed)
        self._ended = self._ended & ~mask
        return self._emit(self.world.observation(self._current_state())), {
            "trust": mask.astype(np.float64),
            "_trust": mask,
        }

    def step(self, actions: Any) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step all copies."""
        return self.step_some(actions, np.ones(self.num_envs, np.bool_))

    def step_some(
        self, actions: Any, mask: Bools
    ) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Like `step`, but only the worlds where mask (N,) is true move.

        The others keep their state and observation, with a reward of 0; their actions are ignored.
        """
        batch = flatten_batch(self.single_action_space, actions)
        check_classes(self.single_action_space, batch)
        before = self._current_state()
        after, step = self.world.step(before, batch)
        if mask.all():
            self._state, observation = after, step.observation
        else:
            self._state = self.world.merge(mask, self.world.take(mask, after), before)
            observation = self.world.observation(self._state)
        new = self._ended & mask
        if new.any():
            for name, rows in self._restart(new).items():
                observation[name][new] = rows
        self._elapsed = np.where(new, 0, self._elapsed + mask)
        trust = np.where(new, 1.0, step.trust.astype(np.float64))
        stepped = mask & ~new
        reward = np.where(stepped, step.reward.astype(np.float64), 0.0)
        terminated = step.terminated & stepped
        truncated = self.rules.truncates(self._elapsed, trust, terminated) & stepped
        self._ended = np.where(mask, terminated | truncated, self._ended)
        info = {"trust": np.where(mask, trust, 0.0), "_trust": mask.copy()}
        return self._emit(observation), reward, terminated, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The last observation of each world as a picture, (H, W, 3) uint8; None where no render_mode was given."""
        if self.render_mode is None:
            gym.logger.warn('render() needs render_mode="rgb_array" when the environment is made')
            return None
        observed = leaves(self.single_observation_space)
        arrays = self.world.observation(self._current_state())
        rows = ({name: array[i] for name, array in arrays.items()} for i in range(self.num_envs))
        return tuple(draw(observed, row) for row in rows)

    def snapshot(self) -> VectorSnapshot:
        """The current state of all N worlds, as a value that later steps do not change."""
        random = tuple(dict(generator.bit_generator.state) for generator in self.np_random)
        return VectorSnapshot(self._current_state(), self._elapsed.copy(), self._ended.copy(), random)

    def restore(self, snapshot: VectorSnapshot) -> Any:
        """Continues where a snapshot was taken, of this or another environment of the same world and size.

        Returns the observations. Raises ConfigError when the snapshot holds another number of worlds.
        """
        if len(snapshot.elapsed) != self.num_envs:
            raise ConfigError(f"a snapshot of {len(snapshot.elapsed)} worlds does not fit num_envs={self.num_envs}")
        self._state, self._elapsed, self._ended = snapshot.state, snapshot.elapsed.copy(), snapshot.ended.copy()
        for generator, state in zip(self.np_random, snapshot.random, strict=True):
            generator.bit_generator.state = state
        return self._emit(self.world.observation(self._current_state()))

    def fork(self) -> "WorldVectorEnv":
        """A second environment in the same state, independent from here on."""
        other = type(self)(self.world, self.num_envs, self.rules.horizon, self.rules.min_trust, self.render_mode)
        other.restore(self.snapshot())
        return other

    def _restart(self, mask: Bools, start: Any = None) -> Arrays:
        """Starts new episodes in the worlds where mask is true, from recorded starts or from the observation `start`.

        Returns their observations. Only these worlds are encoded: all of a thousand would cost as much as a step.
        """
        seeds = [int(self._generator(i).integers(SEED_LIMIT)) for i, new in enumerate(mask) if new]
        if start is None:
            fresh = self.world.start_seeds(seeds)
        else:
            fresh = self.world.encode({name: array[mask] for name, array in self._batch(start).items()}, seeds)
        self._state = fresh if mask.all() else self.world.merge(mask, fresh, self._current_state())
        return self.world.observation(fresh)

    def _batch(self, observation: Any) -> Arrays:
        """The observation to start from, one for all worlds or one for each, as flat arrays (N, ...)."""
        if self.observation_space.contains(observation):
            return flatten_batch(self.single_observation_space, observation)
        check_member(self.single_observation_space, observation)
        one = flatten(self.single_observation_space, observation)
        return {name: np.repeat(array[None], self.num_envs, axis=0) for name, array in one.items()}

    def _each_seed(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ConfigError(f"{len(seed)} seeds do not fit num_envs={self.num_envs}: give as many, or one number")
        return [None if each is None else int(each) for each in seed]

    def _reset_mask(self, options: dict[str, Any]) -> Bools:
        mask = options.get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        mask = np.array(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ConfigError(f"options['reset_mask'] must be {self.num_envs} booleans, at least one true, not {mask}")
        return mask

    def _generator(self, index: int) -> np.random.Generator:
        generator = self._generators[index]
        if generator is None:
            generator, self._seeds[index] = seeding.np_random()
            self._generators[index] = generator
        return generator

    def _current_state(self) -> "WorldState":
        if self._state is None:
            raise gym.error.ResetNeeded("Cannot use a WorldVectorEnv without a state: call reset() or restore() first")
        return self._state

    def _emit(self, observation: Arrays) -> Any:
        """Flat arrays as a member of the batched space; not copied, because the world keeps no reference."""
        return unflatten_batch(self.single_observation_space, observation)


def _limited(rules: TruncationRules, max_episode_steps: int | None) -> TruncationRules:
    if max_episode_steps is None or max_episode_steps == -1:
        return rules
    if max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps={max_episode_steps} leaves no step to take: give at least 1, or None")
    return rules._replace(horizon=min(rules.horizon, max_episode_steps))
