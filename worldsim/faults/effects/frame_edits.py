"""Frames that are changed: uint8 of 4 by 4 pixels or more, grey, channels last or first."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import columns, trees
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.leaves import LeafEdit, by_column
from worldsim.faults.keys import CallRandom
from worldsim.spaces import Leaf

Draw = Callable[[frames.FrameArray, CallRandom], frames.FrameArray]
"""Draws other images instead of n images (n, height, width, channels): the same shape, in grey levels 0 to 255."""


def is_frame(leaf: Leaf, value: Any = None) -> bool:
    """Whether a leaf is a frame, and a value is one of its."""
    return frames.frame_axes(leaf.space) is not None and (value is None or trees.has_leaf_form(leaf, value))


def by_frame(draw: Draw, lasting: bool = False) -> LeafEdit:
    """An edit of every frame. lasting: what it draws for a leaf is the same for the whole session."""

    def drawn(leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> NDArray[Any]:
        return redrawn(
            leaf, values, lambda images: draw(images, batch.session_random(leaf.name) if lasting else random)
        )

    return by_column(drawn, suits=is_frame)


def redrawn(leaf: Leaf, values: NDArray[Any], draw: Callable[[frames.FrameArray], frames.FrameArray]) -> NDArray[Any]:
    """Frames (n, ...) put through a function of images (n, height, width, channels)."""
    axes = frames.frame_axes(leaf.space)
    assert axes is not None and isinstance(leaf.space, spaces.Box), f"{leaf.name} is no frame"
    images = frames.as_images(values, axes)
    if images.dtype != np.uint8:  # another fault has been at it
        images = levels(np.nan_to_num(images))
    return columns.bounded(frames.as_frames(levels(draw(images)), axes), leaf.space)


def levels(images: frames.FrameArray) -> frames.FrameArray:
    """Grey levels as whole numbers from 0 to 255."""
    return images if images.dtype == np.uint8 else np.clip(np.rint(images), 0, 255).astype(np.uint8)
