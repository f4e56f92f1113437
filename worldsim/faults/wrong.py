"""Wrong values for a leaf: valid in its space and different, or not even valid.

Each way of being wrong takes (value, space, severity, rng) and returns the wrong value; where it cannot make a
difference it returns the value as it was, and the next way is tried.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from worldsim.faults import frames
from worldsim.faults.leafwise import clipped, like, same, usual
from worldsim.spaces import Leaf

Way = Callable[[Any, Any, float, np.random.Generator], Any]


def wrong_value(
    leaf: Leaf, value: Any, severity: float, rng: np.random.Generator, out_of_space: bool
) -> tuple[str, Any] | None:
    """How a leaf's value went wrong and what it is now; None where nothing different can be made of it."""
    if not usual(leaf, value):
        return None
    ways = _valid_ways(leaf.space)
    if out_of_space:
        invalid = _invalid_ways(leaf.space)
        ways = invalid if invalid and (rng.random() < 0.5 or not ways) else ways
    for way in rng.permutation(len(ways)):
        changed = ways[way](value, leaf.space, severity, rng)
        if not same(changed, value):
            return ways[way].__name__.strip("_"), changed
    return None


def _valid_ways(space: spaces.Space[Any]) -> Sequence[Way]:
    if frames.frame_axes(space):
        return (_rows_shifted, _channels_swapped, _block_torn)
    if isinstance(space, spaces.Box):
        return (_swapped, _scaled, _offset)
    if isinstance(space, spaces.Discrete):
        return (_digits_transposed, _other_class)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return (_swapped, _other_class)
    return (_letters_swapped, _other_letter) if isinstance(space, spaces.Text) else ()


def _invalid_ways(space: spaces.Space[Any]) -> Sequence[Way]:
    if frames.frame_axes(space):
        return (wrong_shape, wrong_type)
    if isinstance(space, spaces.Box):
        return (nan, infinite, out_of_range, wrong_type, wrong_shape)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return (out_of_range, wrong_type, _null)
    return (_null,)


# --- valid and wrong ---


def _rows_shifted(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    return clipped(frames.shift_rows(value, _axes(space), severity, rng), space)


def _channels_swapped(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    return clipped(frames.swap_channels(value, _axes(space), severity, rng), space)


def _block_torn(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    return clipped(frames.tear_block(value, _axes(space), severity, rng), space)


def _swapped(value: Any, space: Any, severity: float, rng: np.random.Generator) -> Any:
    """Two entries in each other's place."""
    changed = value.copy()
    if value.size > 1:
        one, other = (int(entry) for entry in rng.choice(value.size, 2, replace=False))
        changed.flat[one], changed.flat[other] = value.flat[other], value.flat[one]
    return clipped(changed, space) if isinstance(space, spaces.Box) else changed if changed in space else value


def _scaled(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    """One entry in another unit, or with its sign turned."""
    return entry_changed(value, space, rng, lambda entry: entry * float(rng.choice([-1.0, 0.01, 0.1, 10.0, 100.0])))


def _offset(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    """One entry moved by about `severity` times its size, or times its bounds where it has them."""

    def moved(entry: float, low: float, high: float) -> float:
        spread = high - low if np.isfinite(high - low) else abs(entry) + 1.0
        step = max(severity * spread * rng.uniform(0.5, 1.0), 0.0 if value.dtype.kind == "f" else 1.0)
        return entry + step if entry + step <= high else entry - step

    index = int(rng.integers(value.size))
    low, high = float(space.low.flat[index]), float(space.high.flat[index])
    return _with_entry(value, space, index, moved(float(value.flat[index]), low, high))


def _digits_transposed(value: Any, space: spaces.Discrete, severity: float, rng: np.random.Generator) -> Any:
    """Two neighbouring digits in each other's place (ids, amounts)."""
    if abs(int(value)) < 10:
        return value
    changed = transposed(int(value), rng)
    return like(value, changed) if space.start <= changed < space.start + space.n else value


def _other_class(value: Any, space: Any, severity: float, rng: np.random.Generator) -> Any:
    """Another class, in one entry."""
    if isinstance(space, spaces.Discrete):
        return like(value, _another(int(value), int(space.start), int(space.n), rng))
    counts = space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else np.full(value.size, 2)
    starts = np.ravel(getattr(space, "start", np.zeros(value.size, np.int64)))
    free = np.flatnonzero(counts > 1)
    changed = value.copy()
    if len(free):
        index = int(rng.choice(free))
        changed.flat[index] = _another(int(value.flat[index]), int(starts[index]), int(counts[index]), rng)
    return changed


def _letters_swapped(value: str, space: spaces.Text, severity: float, rng: np.random.Generator) -> str:
    if len(value) < 2:
        return value
    place = int(rng.integers(len(value) - 1))
    return value[:place] + value[place + 1] + value[place] + value[place + 2 :]


def _other_letter(value: str, space: spaces.Text, severity: float, rng: np.random.Generator) -> str:
    if not value:
        return value
    place = int(rng.integers(len(value)))
    return value[:place] + str(rng.choice(list(space.character_list))) + value[place + 1 :]


# --- not even valid ---


def _null(value: Any, space: Any, severity: float, rng: np.random.Generator) -> None:
    return None


def nan(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    return _poked(value, space, rng, np.nan)


def infinite(value: Any, space: spaces.Box, severity: float, rng: np.random.Generator) -> Any:
    return _poked(value, space, rng, np.inf)


def out_of_range(value: Any, space: Any, severity: float, rng: np.random.Generator) -> Any:
    """Above what the space allows; a vector's type grows if it must."""
    if isinstance(space, spaces.Discrete):
        return type(value)(space.start + space.n) if not isinstance(value, np.ndarray) else value + space.n
    if isinstance(space, spaces.Box):
        high = float(space.high.flat[0])
        return _poked(value, space, rng, 2 * abs(high) + 1 if np.isfinite(high) else np.inf)
    counts = space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else np.full(value.size, 2)
    wide = value.astype(np.int64)
    index = int(rng.integers(value.size))
    wide.flat[index] += counts[index]
    return wide


def wrong_type(value: Any, space: Any, severity: float, rng: np.random.Generator) -> Any:
    """Numbers as text; a frame as floats from 0 to 1."""
    if frames.frame_axes(space):
        return (value / 255).astype(np.float32)
    return value.astype(str) if isinstance(value, np.ndarray) and value.ndim else str(value)


def wrong_shape(value: Any, space: Any, severity: float, rng: np.random.Generator) -> Any:
    """The first half, or one entry more where there is no half."""
    if value.ndim == 0 or len(value) < 2:
        return np.concatenate([value.ravel(), value.ravel()])
    return value[: len(value) // 2].copy()


# --- helpers ---


def transposed(value: int, rng: np.random.Generator) -> int:
    """A whole number of two digits or more with two neighbouring digits in each other's place."""
    digits = list(str(abs(value)))
    place = int(rng.integers(len(digits) - 1))
    digits[place : place + 2] = digits[place + 1], digits[place]
    return int("".join(digits)) * (-1 if value < 0 else 1)


def _axes(space: spaces.Box) -> frames.Axes:
    axes = frames.frame_axes(space)
    assert axes is not None, f"{space} is no frame"
    return axes


def _another(value: int, start: int, count: int, rng: np.random.Generator) -> int:
    """A class from start to start + count - 1 other than `value`, `value` if there is none."""
    return start + (value - start + int(rng.integers(1, count))) % count if count > 1 else value


def entry_changed(value: Any, space: spaces.Box, rng: np.random.Generator, change: Callable[[float], float]) -> Any:
    """The vector with one entry put through `change`, rounded and clipped into the space."""
    index = int(rng.integers(value.size))
    return _with_entry(value, space, index, change(float(value.flat[index])))


def _with_entry(value: Any, space: spaces.Box, index: int, entry: float) -> Any:
    """The vector with one entry replaced by `entry`, rounded and clipped into the space."""
    low, high = space.low.flat[index].item(), space.high.flat[index].item()
    changed = value.copy()
    if value.dtype.kind == "f":
        largest = float(np.finfo(value.dtype).max)
        changed.flat[index] = min(max(entry, low, -largest), high, largest)
    else:
        limits = np.iinfo(value.dtype if value.dtype.kind in "iu" else np.uint8)
        bounded = min(max(entry, float(limits.min)), float(limits.max))
        changed.flat[index] = int(min(max(round(bounded), low, limits.min), high, limits.max))
    return changed


def _poked(value: Any, space: spaces.Box, rng: np.random.Generator, entry: float) -> Any:
    """The vector with one entry replaced by one that does not belong there; whole numbers arrive as floats then."""
    changed = value.astype(np.promote_types(value.dtype, np.float32))
    with np.errstate(over="ignore"):  # twice the largest number there is, is infinite
        changed.flat[int(rng.integers(value.size))] = entry
    return changed
