"""What goes wrong in frames: blocks, rows, channels. Each function returns a new array of the same shape and type."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Frame = NDArray[Any]


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


def as_image(frame: Frame, axes: Axes) -> Frame:
    """A frame as (height, width, channels), a grey one with one channel. Shares memory with the frame."""
    if axes.channels is None:
        return frame[..., None]
    return np.moveaxis(frame, (axes.rows, axes.columns, axes.channels), (0, 1, 2))


def as_frame(image: Frame, axes: Axes) -> Frame:
    """The inverse of `as_image`."""
    if axes.channels is None:
        return image[..., 0]
    return np.ascontiguousarray(np.moveaxis(image, (0, 1, 2), (axes.rows, axes.columns, axes.channels)))


def shift_rows(frame: Frame, axes: Axes, severity: float, rng: np.random.Generator) -> Frame:
    """A band of rows, up to `severity` of all, slipped sideways."""
    changed = frame.copy()
    view = _rows_first(changed, axes)
    height, width = view.shape[:2]
    band = max(1, round(severity * height))
    top = int(rng.integers(height - band + 1))
    view[top : top + band] = np.roll(view[top : top + band], int(rng.integers(1, width)), axis=1)
    return changed


def swap_channels(frame: Frame, axes: Axes, severity: float, rng: np.random.Generator) -> Frame:
    """Two channels in each other's place."""
    changed = frame.copy()
    if axes.channels is not None and frame.shape[axes.channels] > 1:
        view = np.moveaxis(changed, axes.channels, 0)
        one, other = rng.choice(len(view), 2, replace=False)
        view[[one, other]] = view[[other, one]]
    return changed


def tear_block(frame: Frame, axes: Axes, severity: float, rng: np.random.Generator) -> Frame:
    """A block of about `severity` of each side, overwritten by what is elsewhere in the frame."""
    changed = frame.copy()
    view, source = _rows_first(changed, axes), _rows_first(frame, axes)
    rows, columns = block(view.shape, severity, rng)
    down, right = int(rng.integers(1, view.shape[0])), int(rng.integers(1, view.shape[1]))
    view[rows, columns] = np.roll(source, (down, right), axis=(0, 1))[rows, columns]
    return changed


def occlude(frame: Frame, axes: Axes, severity: float, rng: np.random.Generator) -> Frame:
    """A black block of about `severity` of each side."""
    changed = frame.copy()
    view = _rows_first(changed, axes)
    view[block(view.shape, severity, rng)] = 0
    return changed


def block(shape: tuple[int, ...], severity: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random block with sides of `severity` of the frame's, at least one pixel."""
    sides = [max(1, round(severity * length)) for length in shape[:2]]
    top, left = (int(rng.integers(length - side + 1)) for length, side in zip(shape[:2], sides, strict=True))
    return slice(top, top + sides[0]), slice(left, left + sides[1])


def _rows_first(frame: Frame, axes: Axes) -> Frame:
    return np.moveaxis(frame, (axes.rows, axes.columns), (0, 1))
