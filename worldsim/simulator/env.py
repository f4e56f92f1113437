"""The learned world as a Gymnasium environment, with the spaces of the real one, snapshots and forks."""

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np

from worldsim.errors import ConfigError, SpaceMismatchError
from worldsim.simulator.drawing import draw
from worldsim.spaces import Arrays, flatten, leaves, unflatten

if TYPE_CHECKING:
    from worldsim.simulator.world import Step, World, WorldState

RENDER_MODES = ("rgb_array",)
SEED_LIMIT = 2**63  # exclusive limit of episode seeds, which must fit an int64


class Snapshot(NamedTuple):
    """The complete state of one WorldEnv: restored, it continues bit for bit. Can be pickled."""

    state: "WorldState"
    elapsed: int  # steps since reset
    random: dict[str, Any]  # state of np_random, which seeds later episodes


class TruncationRules(NamedTuple):
    """When an episode is truncated."""

    horizon: int  # steps
    min_trust: float | None  # in [0, 1]; None: never

    def truncates(self, elapsed: Any, trust: Any, terminated: Any) -> Any:
        """Whether an episode is truncated after this step, unless it terminated; scalars or (N,) arrays."""
        over = np.asarray(elapsed) >= self.horizon
        if self.min_trust is not None:
            over = over | (np.asarray(trust, dtype=np.float64) < self.min_trust)
        return over & ~np.asarray(terminated)


def as_world(world: "World | str | os.PathLike[str]") -> "World":
    """The world, loaded if a directory is given. Raises CheckpointError where there is none."""
    if isinstance(world, (str, os.PathLike)):
        from worldsim.simulator.world import load

        return load(os.fspath(world))
    return world


def make_rules(world: "World", horizon: int | None, min_trust: float | None) -> TruncationRules:
    """Checked rules; the horizon defaults to the longest recorded episode. Raises ConfigError for bad values."""
    if horizon is not None and horizon < 1:
        raise ConfigError(f"horizon={horizon} leaves no step to take: give at least 1, or None for {world.horizon}")
    if min_trust is not None and not 0 <= min_trust <= 1:
        raise ConfigError(f"min_trust={min_trust} is not a probability: give a number in [0, 1], or None")
    if min_trust and world.trust is None:
        raise ConfigError(f"min_trust={min_trust} needs a calibrated world: run worldsim validate, or leave it out")
    return TruncationRules(world.horizon if horizon is None else int(horizon), min_trust)


def make_metadata(world: "World", render_mode: str | None) -> dict[str, Any]:
    """The real environment's metadata with the learned one's render modes. Raises ConfigError for an unknown mode."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ConfigError(f"render_mode={render_mode!r} is not one of {', '.join(RENDER_MODES)} or None")
    metadata = {key: value for key, value in world.metadata.items() if (key, value) != ("render_fps", None)}
    return {"render_fps": 8, **metadata, "render_modes": list(RENDER_MODES)}


def check_member(space: gym.Space[Any], observation: Any) -> None:
    """Raises SpaceMismatchError unless the observation to start from is in the observation space."""
    if not space.contains(observation):
        raise SpaceMismatchError(f"options['observation'] is not in the world's observation space {space}")


def check_classes(space: gym.Space[Any], actions: Arrays) -> None:
    """Raises SpaceMismatchError for a class that the action space does not have; Box bounds are not checked."""
    for leaf in leaves(space):
        if leaf.is_discrete and not ((actions[leaf.name] >= 0) & (actions[leaf.name] < leaf.nvec)).all():
            got = (actions[leaf.name] + leaf.start).squeeze().tolist()
            raise SpaceMismatchError(f"action '{leaf.name}' is {got}, which is not in {leaf.space}")


def _row(arrays: Arrays) -> Arrays:
    """The arrays as a batch of one, copied, because the caller may reuse them."""
    return {name: np.array(array)[None] for name, array in arrays.items()}


class WorldEnv(gym.Env[Any, Any]):
    """One learned world. Rewards and termination come from the model, starts from the recorded ones.

    world: a World, or the directory of one.
    horizon: steps after which an episode is truncated; default: the longest episode that was recorded.
    min_trust: an episode is truncated as soon as info["trust"] falls below; in [0, 1], default never.
    render_mode: None or "rgb_array", the image leaves side by side, (H, W, 3) uint8.

    The seed of reset(seed=s) and the actions determine the episode; reset() draws the next seed from np_random.
    reset(options={"observation": o}) starts from that observation instead of a recorded one.
    info["trust"]: calibrated probability that the step is within tolerance of the real environment; 1 at a start.

    Raises CheckpointError (no world there), ConfigError (values out of range) and SpaceMismatchError (an observation or
    action that the spaces do not have).
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 8}

    def __init__(
        self,
        world: "World | str | os.PathLike[str]",
        horizon: int | None = None,
        min_trust: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.world = as_world(world)
        self.observation_space = self.world.observation_space
        self.action_space = self.world.action_space
        self.rules = make_rules(self.world, horizon, min_trust)
        self.metadata = make_metadata(self.world, render_mode)
        self.render_mode = render_mode
        self._state: WorldState | None = None
        self._elapsed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        episode_seed = int(self.np_random.integers(SEED_LIMIT))
        observation = (options or {}).get("observation")
        if observation is None:
            self._state = self.world.start_seeds([episode_seed])
        else:
            check_member(self.observation_space, observation)
            self._state = self.world.encode(_row(flatten(self.observation_space, observation)), [episode_seed])
        self._elapsed = 0
        return self._emit(self.world.observation(self._state)), {"trust": 1.0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        actions = _row(flatten(self.action_space, action))
        check_classes(self.action_space, actions)
        self._state, step = self._advance(self._current_state(), actions)
        self._elapsed += 1
        trust, terminated = float(step.trust[0]), bool(step.terminated[0])
        truncated = bool(self.rules.truncates(self._elapsed, trust, terminated))
        return self._emit(step.observation), float(step.reward[0]), terminated, truncated, {"trust": trust}

    def _advance(self, state: "WorldState", actions: Arrays) -> "tuple[WorldState, Step]":
        """One step of this world; overridden where several episodes are stepped as one batch."""
        return self.world.step(state, actions)

    def render(self) -> Any:
        """The last observation as a picture, (H, W, 3) uint8; None where no render_mode was given."""
        if self.render_mode is None:
            gym.logger.warn('render() needs render_mode="rgb_array" when the environment is made')
            return None
        observation = self.world.observation(self._current_state())
        return draw(leaves(self.observation_space), {name: array[0] for name, array in observation.items()})

    def snapshot(self) -> Snapshot:
        """The current state, as a value that later steps do not change."""
        return Snapshot(self._current_state(), self._elapsed, dict(self.np_random.bit_generator.state))

    def restore(self, snapshot: Snapshot) -> Any:
        """Continues where a snapshot was taken, of this or another WorldEnv of this world; returns the observation."""
        self._state, self._elapsed = snapshot.state, snapshot.elapsed
        self.np_random.bit_generator.state = snapshot.random
        return self._emit(self.world.observation(self._state))

    def fork(self) -> "WorldEnv":
        """A second environment in the same state, independent from here on."""
        other = type(self)(self.world, self.rules.horizon, self.rules.min_trust, self.render_mode)
        other.restore(self.snapshot())
        return other

    def _current_state(self) -> "WorldState":
        if self._state is None:
            raise gym.error.ResetNeeded("Cannot use a WorldEnv without a state: call reset() or restore() first")
        return self._state

    def _emit(self, observation: Arrays) -> Any:
        """The only row of a batch as a member of the observation space, copied."""
        return unflatten(self.observation_space, {name: np.array(array[0]) for name, array in observation.items()})
