"""Frames at the size that a model takes, wherever in the observation they are."""

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.spaces import Leaf, leaves

Size = tuple[int, int]  # height and width
AT_ONCE = 4  # channels that OpenCV averages over areas


def has_images_to_resize(space: spaces.Space[Any], size: Size) -> bool:
    return any(_is_grid(leaf) and leaf.shape[:2] != size for leaf in leaves(space))


class ResizeImages(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Resizes every image and field of a (nested) observation space, averaging over areas. Channels keep their place.

    Gymnasium's ResizeObservation does this for a space that is one image. Leaves of other kinds pass unchanged, as do
    grids of booleans: the average of a cell that is taken and one that is free is neither.
    """

    def __init__(self, env: gym.Env[Any, Any], size: Size):
        gym.utils.RecordConstructorArgs.__init__(self, size=size)
        gym.ObservationWrapper.__init__(self, env)
        self.size = size
        self._from = env.observation_space
        self.observation_space = self._resized_space(env.observation_space)

    def observation(self, observation: Any) -> Any:
        return self._resized(self._from, self.observation_space, observation)

    def _resized_space(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._resized_space(child) for key, child in space.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized_space(child) for child in space])
        leaf = Leaf((), space)
        if not _is_grid(leaf):
            return space
        assert isinstance(space, spaces.Box)
        channels = leaf.shape[2:] if len(space.shape) == 3 else ()
        shape = (*channels, *self.size) if leaf.channels_first else (*self.size, *channels)
        return spaces.Box(space.low.min(), space.high.max(), shape, space.dtype.type)

    def _resized(self, space: spaces.Space[Any], to: spaces.Space[Any], value: Any) -> Any:
        if isinstance(space, spaces.Dict):
            assert isinstance(to, spaces.Dict)
            return {key: self._resized(child, to[key], value[key]) for key, child in space.items()}
        if isinstance(space, spaces.Tuple):
            assert isinstance(to, spaces.Tuple)
            return tuple(self._resized(*parts) for parts in zip(space, to, value, strict=True))
        leaf = Leaf((), space)
        return Leaf((), to).unflatten(self._small(leaf.flatten(value))) if _is_grid(leaf) else value

    def _small(self, grid: NDArray[Any]) -> NDArray[Any]:
        parts = [grid[:, :, at : at + AT_ONCE] for at in range(0, grid.shape[2], AT_ONCE)]
        small = [cv2.resize(part, self.size[::-1], interpolation=cv2.INTER_AREA) for part in parts]
        # cv2 drops a single channel
        return np.concatenate([one.reshape(*self.size, -1) for one in small], -1)


def _is_grid(leaf: Leaf) -> bool:
    return leaf.kind in ("image", "field") and leaf.space.dtype != np.bool_
