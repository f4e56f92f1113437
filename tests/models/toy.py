"""A world small enough to be learned in seconds, and whose every future is known: a square on a ring and a counter."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.envs.make import EnvConfig
from worldsim.rollouts.arrays import EpisodeArrays
from worldsim.rollouts.collect import CollectConfig, collect
from worldsim.rollouts.dataset import Rollouts

PLACES, COUNTS, SIZE = 4, 3, 16


def drawn(place: int) -> NDArray[np.uint8]:
    """A white square of 4x4 pixels, 4 pixels further right for each place."""
    frame = np.zeros((SIZE, SIZE), np.uint8)
    frame[6:10, 4 * place : 4 * place + 4] = 255
    return frame


class Ring(gym.Env[dict[str, Any], np.int64]):
    """Action 0 waits, 1 goes right, 2 goes left, and the counter grows by the action. Reward 1 at place 0.

    Terminates where the square is at the last place and the counter at its greatest value.
    """

    metadata = {"render_modes": [], "render_fps": 4}

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {"frame": spaces.Box(0, 255, (SIZE, SIZE), np.uint8), "count": spaces.Discrete(COUNTS)}
        )
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self.place, self.count = int(self.np_random.integers(PLACES)), int(self.np_random.integers(COUNTS - 1))
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.place = (self.place + (0, 1, -1)[int(action)]) % PLACES
        self.count = (self.count + int(action)) % COUNTS
        ended = self.place == PLACES - 1 and self.count == COUNTS - 1
        return self._seen(), float(self.place == 0), ended, False, {}

    def _seen(self) -> dict[str, Any]:
        return {"frame": drawn(self.place), "count": np.int64(self.count)}


gym.register("WorldsimTestRing-v0", Ring, max_episode_steps=16)


def ring_arrays(episodes: int, length: int, seed: int) -> EpisodeArrays:
    """Random walks of `length` steps that no termination ends, as the arrays of a data set."""
    rng = np.random.default_rng(seed)
    action = rng.integers(3, size=(episodes, length + 1))
    action[:, 0] = 0
    place = rng.integers(PLACES, size=(episodes, 1)) + np.array([0, 1, -1])[action].cumsum(1)
    count = rng.integers(COUNTS, size=(episodes, 1)) + action.cumsum(1)
    place, count = place.ravel() % PLACES, count.ravel() % COUNTS
    frames = np.stack([drawn(p) for p in range(PLACES)])[place][..., None]
    ended = np.zeros(len(place), np.bool_)
    starts = np.arange(0, len(place) + 1, length + 1)
    ends = np.zeros_like(ended)
    ends[starts[1:] - 1] = True
    reward = (place == 0).astype(np.float32)
    reward[starts[:-1]] = 0
    observation = {"frame": frames, "count": count[:, None]}
    return EpisodeArrays(observation, {"value": action.reshape(-1, 1)}, reward, ended, ends, starts)


ENV = EnvConfig(id="tests.models.toy:WorldsimTestRing-v0")


def ring_rollouts(out: Path, steps: int = 400) -> Rollouts:
    """Recorded random walks in the ring."""
    return collect(CollectConfig(env=ENV, steps=steps, seed=3, out=out), progress=False)
