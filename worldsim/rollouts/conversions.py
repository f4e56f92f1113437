"""Converts imported arrays to values of a Gymnasium space, which is chosen by their shape, type and statistics."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.envs.resize import pictures
from worldsim.spaces import Leaf, Space

Array = NDArray[Any]
MOST_CLASSES = 1 << 16  # integers from here on are quantities and not class indices
LEVEL = 1e-3  # tolerance of whether a float is a rounded integer


@dataclass
class ColumnStatistics:
    """Statistics of an array's rows, added some rows at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    low: Array = field(init=False)  # (*shape), in the array's type
    high: Array = field(init=False)
    rows: int = 0
    whole: bool = True  # only whole numbers
    levels: bool = True  # only multiples of 1/255
    one_hot: bool = True  # a single 1 among zeros in each row

    def add(self, rows: Array) -> None:
        """rows: (n, *shape), finite."""
        if not len(rows):
            return
        low, high = rows.min(0), rows.max(0)
        self.low = np.minimum(self.low, low) if self.rows else low
        self.high = np.maximum(self.high, high) if self.rows else high
        self.rows += len(rows)
        floats = self.dtype.kind == "f"
        self.whole = self.whole and (not floats or bool((rows == np.rint(rows)).all()))
        self.levels = self.levels and floats and bool((np.abs(255 * rows - np.rint(255 * rows)) < LEVEL).all())
        flat = rows.reshape(len(rows), -1)
        self.one_hot = self.one_hot and bool(((flat == 1).sum(1) == 1).all() and ((flat != 0).sum(1) == 1).all())


class Conversion(NamedTuple):
    """A space, and how rows of the array (n, *shape) become values of it."""

    space: Space
    change: Callable[[Array], Array]
    note: str = ""  # for the user, where values are changed


def may_be_picture(shape: tuple[int, ...]) -> bool:
    """Whether arrays of this shape would be pictures if they were uint8."""
    return bool(pictures(spaces.Box(0, 255, shape, np.uint8)))


def observation_conversion(found: ColumnStatistics) -> Conversion:
    """The space and conversion of an observation array.

    `found` needs rows only where the values decide: for floats that may be images, and for single integers.
    """
    shape, dtype = found.shape, found.dtype
    if dtype.kind in "iu" and not shape and found.low >= 0 and found.high < MOST_CLASSES:
        return Conversion(spaces.Discrete(int(found.high) + 1), lambda rows: rows.astype(np.int64))
    if dtype.kind == "f":
        picture = _picture_of_floats(found) if may_be_picture(shape) else None
        if picture is None:
            return Conversion(spaces.Box(-np.inf, np.inf, shape, dtype.type), _same)
    elif dtype.kind == "b":
        return Conversion(spaces.Box(0, 1, shape, np.bool_), _same)
    else:
        bounds = np.iinfo(dtype)
        picture = Conversion(spaces.Box(bounds.min, bounds.max, shape, dtype.type), _same)
    return _channels_last(picture)


def _picture_of_floats(found: ColumnStatistics) -> Conversion | None:
    """For frames stored as floats, 0 to 1 or 0 to 255; None for other floats, such as depth maps."""
    low, high = float(found.low.min()), float(found.high.max())
    space = spaces.Box(0, 255, found.shape, np.uint8)
    if found.whole and low >= 0 and 1 < high <= 255:
        return Conversion(space, _rounded, "whole numbers in floats became uint8")
    if 0 <= low < high <= 1 and (found.levels or Leaf((), space).channels >= 3):
        loss = "" if found.levels else ", to the nearest of 256 levels"
        return Conversion(space, lambda rows: _rounded(255 * rows), f"floats of 0 to 1 became uint8 of 0 to 255{loss}")
    return None


def _channels_last(conversion: Conversion) -> Conversion:
    """Converts images with channels first, (C, H, W), to (H, W, C), also in stacks of frames."""
    space = conversion.space
    if not pictures(space):
        return conversion
    assert isinstance(space, spaces.Box)
    layout = Leaf((), space).layout
    if not layout.endswith("CHW"):
        return conversion
    to = layout.replace("CHW", "HWC")
    order = [layout.index(axis) for axis in to]
    shape = tuple(space.shape[axis] for axis in order)
    turned = f"channels first became last, {space.shape} is now {shape}"

    def change(rows: Array) -> Array:
        return np.ascontiguousarray(conversion.change(rows).transpose(0, *(1 + axis for axis in order)))

    return Conversion(spaces.Box(0, 255, shape, np.uint8), change, "; ".join(filter(None, (conversion.note, turned))))


def action_conversion(found: ColumnStatistics) -> Conversion:
    """One-hot rows and single integers become Discrete, several integers MultiDiscrete, everything else a Box."""
    size = int(np.prod(found.shape))
    if found.one_hot and len(found.shape) == 1 and size > 1:
        return Conversion(
            spaces.Discrete(size), lambda rows: rows.argmax(-1), f"one-hot rows became one of {size} choices"
        )
    # Whole numbers in floats are quantities, unless they stand alone: replay buffers store everything in float32.
    positive = bool((found.low >= 0).all())
    if found.dtype.kind == "b" or (found.dtype.kind in "iu" and positive and (found.high < MOST_CLASSES).all()):
        counts = found.high.astype(np.int64).reshape(-1) + 1
        counts = np.maximum(counts, 2) if found.dtype.kind == "b" else counts
        if size == 1:
            return Conversion(spaces.Discrete(int(counts[0])), lambda rows: rows.reshape(len(rows)).astype(np.int64))
        return Conversion(spaces.MultiDiscrete(counts), lambda rows: rows.reshape(len(rows), -1).astype(np.int64))
    if found.dtype.kind == "f" and not found.shape and found.whole and positive and found.high < MOST_CLASSES:
        note = f"whole numbers in floats became one of {int(found.high) + 1} choices"
        return Conversion(spaces.Discrete(int(found.high) + 1), lambda rows: rows.astype(np.int64), note)
    shape = found.shape or (1,)
    low, high = (each.reshape(shape) for each in (found.low, found.high))
    if found.dtype.kind == "f" and (np.abs((low, high)) <= 1).all():
        low, high = np.full_like(low, -1), np.full_like(high, 1)
    return Conversion(spaces.Box(low, high, shape, found.dtype.type), lambda rows: rows.reshape(len(rows), *shape))


def conversion_to(space: Space, inferred: Conversion, found: ColumnStatistics) -> Conversion | None:
    """A conversion of the rows to a given space; None where they do not fit it."""
    if isinstance(space, spaces.Discrete) and isinstance(inferred.space, spaces.Discrete):
        return inferred._replace(space=space)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) and found.whole and found.shape == space.shape:
        return Conversion(space, lambda rows: rows.astype(space.dtype))
    if not isinstance(space, spaces.Box):
        return None
    to = space.dtype
    if found.shape == space.shape and (found.dtype == to or (to.kind == "f" and found.dtype.kind != "b")):
        return Conversion(space, lambda rows: rows.astype(to))
    if inferred.space.shape == space.shape and isinstance(inferred.space, spaces.Box) and inferred.space.dtype == to:
        return inferred._replace(space=space)
    return None


def _same(rows: Array) -> Array:
    return rows


def _rounded(rows: Array) -> Array:
    return np.rint(rows).astype(np.uint8)
