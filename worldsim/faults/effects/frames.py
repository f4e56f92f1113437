"""What goes wrong in frames: blocks, rows, channels. Each function returns a new array of the same shape and type."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.keys import integers_below
from worldsim.spaces import Floats

FrameArray = NDArray[Any]


class Axes(NamedTuple):
    """Which axes of an array are a frame's rows, columns and channels."""

    rows: int
    columns: int
    channels: int | None


def frame_axes(space: spaces.Space[Any]) -> Axes | None:
    """The axes of a frame (uint8; grey, channels last or channels first), None for everything else."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return None
    if len(space.shape) == 2:
        axes = Axes(0, 1, None)
    elif space.shape[0] < space.shape[2]:
        axes = Axes(1, 2, 0)
    else:
        axes = Axes(0, 1, 2)
    return axes if min(space.shape[axes.rows], space.shape[axes.columns]) >= 4 else None


def as_images(frames: FrameArray, axes: Axes) -> FrameArray:
    """n frames as (n, height, width, channels). Shares memory with the frames."""
    if axes.channels is None:
        return np.expand_dims(frames, -1)
    return np.moveaxis(frames, (1 + axes.rows, 1 + axes.columns, 1 + axes.channels), (1, 2, 3))


def as_frames(images: FrameArray, axes: Axes) -> FrameArray:
    """The inverse of `as_images`."""
    if axes.channels is None:
        return images[..., 0]
    return np.ascontiguousarray(np.moveaxis(images, (1, 2, 3), (1 + axes.rows, 1 + axes.columns, 1 + axes.channels)))


# What follows changes n images (n, height, width, channels) in copies, with four uniforms for each. Where a loop goes
# over images it moves blocks of pixels, whose copying costs more than the loop does.

Uniforms = Floats  # (n, 4), in [0, 1)


def shift_rows(images: FrameArray, severity: float, chance: Uniforms) -> FrameArray:
    """A band of rows, up to `severity` of all, slipped sideways."""
    changed = images.copy()
    height, width = images.shape[1:3]
    band = max(1, round(severity * height))
    tops, steps = integers_below(chance[:, 0], height - band + 1), 1 + integers_below(chance[:, 1], width - 1)
    for image, top, step in zip(changed, tops.tolist(), steps.tolist(), strict=True):
        image[top : top + band] = np.roll(image[top : top + band], step, axis=1)
    return changed


def swap_channels(images: FrameArray, severity: float, chance: Uniforms) -> FrameArray:
    """Two channels in each other's place."""
    changed, channels = images.copy(), images.shape[3]
    if channels < 2:
        return changed
    ones = integers_below(chance[:, 0], channels)
    others = (ones + 1 + integers_below(chance[:, 1], channels - 1)) % channels
    for image, source, one, other in zip(changed, images, ones.tolist(), others.tolist(), strict=True):
        image[..., one], image[..., other] = source[..., other], source[..., one]
    return changed


def tear_block(images: FrameArray, severity: float, chance: Uniforms) -> FrameArray:
    """A block of about `severity` of each side, overwritten by what is elsewhere in the frame."""
    changed = images.copy()
    height, width = images.shape[1:3]
    downs, rights = 1 + integers_below(chance[:, 2], height - 1), 1 + integers_below(chance[:, 3], width - 1)
    moves = zip(random_blocks(images.shape, severity, chance), downs.tolist(), rights.tolist(), strict=True)
    for image, source, (block, down, right) in zip(changed, images, moves, strict=True):
        image[block] = np.roll(source, (down, right), axis=(0, 1))[block]
    return changed


def occlude(images: FrameArray, severity: float, chance: Uniforms) -> FrameArray:
    """A black block of about `severity` of each side."""
    changed = images.copy()
    for image, block in zip(changed, random_blocks(images.shape, severity, chance), strict=True):
        image[block] = 0
    return changed


def random_blocks(shape: tuple[int, ...], severity: float, chance: Uniforms) -> list[tuple[slice, slice]]:
    """A random block in each of n images, with sides of `severity` of the image's, at least one pixel."""
    tall, wide = (max(1, round(severity * length)) for length in shape[1:3])
    tops = integers_below(chance[:, 0], shape[1] - tall + 1).tolist()
    lefts = integers_below(chance[:, 1], shape[2] - wide + 1).tolist()
    return [(slice(top, top + tall), slice(left, left + wide)) for top, left in zip(tops, lefts, strict=True)]
