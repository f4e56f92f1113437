"""Frames at the size that a model takes, wherever in the observation they are."""

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from worldsim.spaces import Leaf, leaves


def has_images_to_resize(space: spaces.Space[Any], size: int) -> bool:
    return any(leaf.kind == "image" and leaf.space.shape[:2] != (size, size) for leaf in leaves(space))  # type: ignore[index]


class ResizeImages(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Resizes every image leaf of a (nested) observation space to (size, size), averaging over areas.

    Gymnasium's ResizeObservation does this for a space that is one image. Leaves of other kinds pass unchanged.
    """

    def __init__(self, env: gym.Env[Any, Any], size: int):
        gym.utils.RecordConstructorArgs.__init__(self, size=size)
        gym.ObservationWrapper.__init__(self, env)
        self.size = size
        self._from = env.observation_space
        self.observation_space = self._resized_space(env.observation_space)

    def observation(self, observation: Any) -> Any:
        return self._resized(self._from, observation)

    def _resized_space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._resized_space(child) for key, child in space.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized_space(child) for child in space])
        if Leaf((), space).kind != "image":
            return space
        channels = (space.shape or ())[2:]
        return spaces.Box(0, 255, (self.size, self.size, *channels), np.uint8)

    def _resized(self, space: spaces.Space[Any], value: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._resized(child, value[key]) for key, child in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._resized(child, item) for child, item in zip(space, value, strict=True))
        if Leaf((), space).kind != "image":
            return value
        small = cv2.resize(value, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return small.reshape(self.size, self.size, *value.shape[2:])  # cv2 drops a single channel
