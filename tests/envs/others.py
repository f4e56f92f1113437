"""Environments as other people write them: each is `Walk`, wrong or old-fashioned in one way."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
FRAME = spaces.Box(0, 255, (16, 16, 3), np.uint8)
LENGTH = 6


class Walk(gym.Env):
    """Nothing is wrong: noise of its seed in three numbers, a reward, six steps."""

    observation_space: Any = VECTOR
    action_space = spaces.Discrete(3)
    metadata: dict[str, Any] = {"render_modes": []}

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def earned(self) -> Any:
        return float(self.np_random.normal())

    def info(self) -> Any:
        return {"step": self.steps}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), self.info()

    def step(self, action):
        self.steps += 1
        return self.observe(), self.earned(), self.steps == LENGTH, False, self.info()


class OneArray(Walk):
    """Writes into one array, nested in one dict, and gives its replies in one dict."""

    observation_space = spaces.Dict(state=VECTOR)

    def __init__(self):
        self.shown, self.reply = {"state": np.zeros(3, np.float32)}, {"reply": {"step": 0}}

    def observe(self):
        self.shown["state"][:] = super().observe()
        return self.shown

    def info(self):
        self.reply["reply"]["step"] = self.steps
        return self.reply


class NewArrays(OneArray):
    """The same with new arrays each time."""

    def observe(self):
        return {"state": super().observe()["state"].copy()}

    def info(self):
        return {"reply": {"step": self.steps}}


class Shows(Walk):
    """Shows what it is asked to."""

    def __init__(self, space, value):
        self.observation_space, self.value = space, value

    def observe(self):
        return self.value


class Pays(Walk):
    """Pays what it is asked to in its third step."""

    def __init__(self, reward):
        self.reward = reward

    def earned(self):
        return self.reward if self.steps == 3 else 0.0


class WrongLater(Walk):
    """Leaves its space in its third episode."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def observe(self):
        return super().observe() if self.episodes < 3 or self.steps < 2 else np.full(3, 9.0, np.float32)


class FloatFrames(Walk):
    observation_space = FRAME

    def observe(self):
        return self.np_random.random((16, 16, 3), np.float32)


class NaNReward(Walk):
    def earned(self):
        return float("nan") if self.steps == 3 else 0.0


class Infos(Walk):
    """Arrays of changing size, numbers of changing type, a key with an underscore, None, text and a list."""

    def info(self):
        many = int(self.np_random.integers(1, 6))
        odd = bool(many % 2)
        return {
            "many": np.arange(many),
            "n": 1 if odd else 2.5,
            "_n": "x" * many,
            "deep": {"none": None, "all": [many]},
        }


class FourValues(Walk):
    """The interface of 2021: reset() gives the observation alone, seed() seeds, step() gives `done`."""

    def seed(self, seed=None):
        gym.Env.reset(self, seed=seed)

    def reset(self):
        self.steps = 0
        return self.observe()

    def step(self, action):
        observation, reward, done, _, info = super().step(action)
        return observation, reward, done, info


class FourValuesCut(FourValues):
    """Its end is a limit of steps, which `done` and info report together."""

    def step(self, action):
        observation, reward, done, info = super().step(action)
        return observation, reward, done, {**info, "TimeLimit.truncated": done}


class NoSeed(Walk):
    def reset(self, options=None):
        return super().reset(options=options)


class NoOptions(Walk):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class PairSpace(FourValues):
    """An old one whose observation looks like an observation with its info."""

    observation_space = spaces.Tuple([VECTOR, spaces.Dict(step=spaces.Discrete(LENGTH + 1))])

    def observe(self):
        return super().observe(), {"step": self.steps}


class NoFrameRate(Walk):
    metadata = {"render_modes": ["rgb_array"], "render_fps": None}


class Board(Walk):
    """A ball that goes down its column of a boolean grid, as in MinAtar."""

    observation_space = spaces.Box(0.0, 1.0, (10, 10, 2), bool)

    def observe(self):
        grid = np.zeros((10, 10, 2), bool)
        grid[self.steps, int(self.np_random.integers(10)), self.steps % 2] = True
        return grid


class NoEnv:
    metadata: dict[str, Any] = {"render_modes": [None]}

    def reset(self, **given):
        return np.zeros(3), {}


OTHERS = {
    each.__name__: each for each in (*Walk.__subclasses__(), *OneArray.__subclasses__(), *FourValues.__subclasses__())
}
for name, made in (OTHERS | {"Walk": Walk, "NoEnv": NoEnv}).items():
    gym.register(f"WorldsimTest{name}-v0", made)


def other(name: str) -> str:
    """The id by which an environment of this module is known."""
    return f"{__name__}:WorldsimTest{name}-v0"
