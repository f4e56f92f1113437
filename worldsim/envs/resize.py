"""Resizes the images in an observation."""

from collections.abc import Sequence
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.spaces import Leaf, leaves

Size = tuple[int, int]  # height and width
AT_ONCE = 4  # most channels that OpenCV resizes with INTER_AREA
SMALLEST_PICTURE = 32  # smaller uint8 grids are taken for boards or tables


def pictures(space: spaces.Space[Any], named: Sequence[str] | None = None) -> list[str]:
    """The leaves of an observation that are images: by default uint8 grids, 0 to 255, with 1, 3 or 4 channels.

    Stacks of such frames are included. Only colours can be averaged: averages of classes or flags have no meaning. So
    grids smaller than SMALLEST_PICTURE, or of another type, are images only if they are `named`.

    Raises ConfigError for a name that is not a grid of numbers.
    """
    grids = {leaf.name: leaf for leaf in leaves(space) if leaf.kind in ("image", "field")}
    if named is None:
        return [name for name, leaf in grids.items() if _looks_like_a_picture(leaf)]
    for name in named:
        if name not in grids:
            there = f"there are {', '.join(grids)}" if grids else "there is none in this observation"
            raise ConfigError(f"env.images: '{name}' is not a grid of numbers that can be resized; {there}")
    return list(named)


def _looks_like_a_picture(leaf: Leaf) -> bool:
    return leaf.kind == "image" and min(leaf.shape[:2]) >= SMALLEST_PICTURE and leaf.channels in (1, 3, 4)


class ResizeImages(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Resizes some leaves of a (nested) observation by averaging over areas; all other leaves are unchanged.

    Gymnasium's ResizeObservation does this for a space that is one image. `metadata["resized"]` describes the change.

    Args:
        env: any environment.
        size: height and width in pixels.
        images: names of the leaves, grids of numbers.
    """

    def __init__(self, env: gym.Env[Any, Any], size: Size, images: Sequence[str]):
        gym.utils.RecordConstructorArgs.__init__(self, size=size, images=list(images))
        gym.ObservationWrapper.__init__(self, env)
        self.size, self._images = size, frozenset(images)
        self._from = env.observation_space
        self.observation_space = self._resized_space(env.observation_space)
        was = {leaf.name: leaf.shape for leaf in leaves(self._from)}
        each = [f"{name} from {was[name][0]}x{was[name][1]}" for name in images]
        self.metadata = {**env.metadata, "resized": f"{', '.join(each)} to {size[0]}x{size[1]} pixels"}

    def observation(self, observation: Any) -> Any:
        return self._resized(self._from, self.observation_space, observation)

    def _resized_space(self, space: spaces.Space[Any], path: tuple[str | int, ...] = ()) -> spaces.Space[Any]:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._resized_space(child, (*path, key)) for key, child in space.items()})
        if isinstance(space, spaces.Tuple):
            return spaces.Tuple([self._resized_space(child, (*path, at)) for at, child in enumerate(space)])
        leaf = Leaf(path, space)
        if leaf.name not in self._images:
            return space
        assert isinstance(space, spaces.Box)
        sizes = dict(zip("HW", self.size, strict=True))
        shape = tuple(sizes.get(axis, size) for axis, size in zip(leaf.layout, space.shape, strict=True))
        return spaces.Box(space.low.min(), space.high.max(), shape, space.dtype.type)

    def _resized(self, space: spaces.Space[Any], to: spaces.Space[Any], value: Any) -> Any:
        if space is to:  # nothing in it is resized
            return value
        if isinstance(space, spaces.Dict):
            assert isinstance(to, spaces.Dict)
            return {key: self._resized(child, to[key], value[key]) for key, child in space.items()}
        if isinstance(space, spaces.Tuple):
            assert isinstance(to, spaces.Tuple)
            return tuple(self._resized(*parts) for parts in zip(space, to, value, strict=True))
        return Leaf((), to).unflatten(self._small(Leaf((), space).flatten(value)))

    def _small(self, grid: NDArray[Any]) -> NDArray[Any]:
        parts = [grid[:, :, at : at + AT_ONCE] for at in range(0, grid.shape[2], AT_ONCE)]
        small = [cv2.resize(part, self.size[::-1], interpolation=cv2.INTER_AREA) for part in parts]
        # cv2 drops a single channel
        return np.concatenate([one.reshape(*self.size, -1) for one in small], -1)
