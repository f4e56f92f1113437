"""A wrapper for MiniGrid that declares exact spaces for its observations."""

from itertools import product
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
from minigrid.core.mission import MissionSpace

CLASSES = [len(OBJECT_TO_IDX), len(COLOR_TO_IDX), len(STATE_TO_IDX)]  # of a cell: what is there, its colour, its state


def has_missions(space: spaces.Space[Any] | None) -> bool:
    """Whether observations hold a mission out of a finite set. BabyAI's do not."""
    return isinstance(space, spaces.Dict) and type(space.get("mission")) is MissionSpace


class NameSpaces(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Declares other spaces for the same observations, and the names of the actions.

    "mission" is a Text that contains every mission of the environment. "image" is a grid of three classes a cell,
    unless a wrapper has turned it into an image.
    """

    def __init__(self, env: gym.Env[Any, Any]):
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        given, level = env.observation_space, env.unwrapped
        assert has_missions(given) and isinstance(given, spaces.Dict) and isinstance(env.action_space, spaces.Discrete)
        side = level.agent_view_size  # type: ignore[attr-defined]
        parts = {**given.spaces, "mission": text_of(cast(MissionSpace, given["mission"]))}
        if given["image"].shape == (side, side, 3):
            parts["image"] = spaces.MultiDiscrete(np.tile(CLASSES, (side, side, 1)), dtype=np.uint8)
        self.observation_space = spaces.Dict(list(parts.items()))
        names = [action.name for action in level.actions]  # type: ignore[attr-defined]
        self.metadata = {**env.metadata, "action_names": names[: int(env.action_space.n)]}


def text_of(missions: MissionSpace) -> spaces.Text:
    """The smallest Text space that contains all missions: their characters and lengths.

    It has a character even where the only mission is the empty text, because Gymnasium needs one.
    """
    every = [missions.mission_func(*words) for words in product(*missions.ordered_placeholders or ())]
    lengths, letters = [len(mission) for mission in every], sorted(set().union(*every)) or [" "]
    return spaces.Text(max(1, *lengths), min_length=min(lengths), charset="".join(letters))
