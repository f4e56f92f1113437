"""Wrong values for a leaf: valid in its space and different, or not even valid.

Each way of being wrong takes values (n, ...) of a leaf, its space, a severity and four uniforms for each, and returns
other values; where it can make no difference it returns the value as it was, and another way is taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import frames
from worldsim.faults.chance import Draws, whole
from worldsim.faults.leafwise import Values, bounded, differing, like_column, one_by_one, same, usual, within
from worldsim.spaces import Leaf

Column = NDArray[Any]
Chance = NDArray[np.float64]  # (n, 4) uniforms in [0, 1)
Way = Callable[[Any, Any, float, Chance], Any]
InvalidWay = Callable[[Any, Any, float, np.random.Generator], Any]


def wrong_values(
    leaf: Leaf, values: Values, severity: float, draws: Draws, out_of_space: bool
) -> tuple[Values, NDArray[np.object_]]:
    """Wrong values, and how each went wrong; where nothing different can be made of one it stays as it is."""
    if isinstance(values, np.ndarray) and not out_of_space:
        return _all_wrong(leaf, values, severity, draws)
    hows = np.full(len(values), None, object)
    changed: list[Any] = []
    for position, value in enumerate(one_by_one(leaf, values)):
        after, hows[position] = _one_wrong(leaf, value, severity, draws[[position]], out_of_space)
        changed.append(after)
    return changed, hows


def _one_wrong(leaf: Leaf, value: Any, severity: float, draws: Draws, out_of_space: bool) -> tuple[Any, str | None]:
    if not usual(leaf, value):
        return value, None
    invalid = _invalid_ways(leaf.space) if out_of_space else ()
    if invalid and (draws.random(_INVALID)[0] < 0.5 or not _valid_ways(leaf.space)):
        rng = draws.generator()
        for way in rng.permutation(len(invalid)):
            changed = invalid[way](value, leaf.space, severity, rng)
            if not same(changed, value):
                return changed, invalid[way].__name__.strip("_")
        return value, None
    text = isinstance(value, str)
    after, hows = _all_wrong(leaf, [value] if text else np.asarray(value)[None], severity, draws)
    return after[0] if text else like_column(value, after), hows[0]


def _all_wrong(leaf: Leaf, values: Any, severity: float, draws: Draws) -> tuple[Any, NDArray[np.object_]]:
    """Every value goes every way, and the first way that makes a difference, in an order drawn for each, is kept."""
    ways = _valid_ways(leaf.space)
    hows = np.full(len(values), None, object)
    if not ways:
        return values, hows
    chance = draws.random(0, len(ways), 5)  # four for the way, one for its place in the order
    results = [way(values, leaf.space, severity, chance[:, number]) for number, way in enumerate(ways)]
    differs = np.stack([differing(values, each) for each in results], 1)
    first = np.where(differs, chance[..., 4], 2.0).argmin(1)
    first[~differs.any(1)] = -1
    changed = values.copy()
    for number, (way, result) in enumerate(zip(ways, results, strict=True)):
        rows = np.flatnonzero(first == number)
        hows[rows] = way.__name__.strip("_")
        if isinstance(values, np.ndarray):
            changed[rows] = result[rows]
        else:
            changed = [result[row] if row in rows else text for row, text in enumerate(changed)]
    return changed, hows


_INVALID = 100  # lane: whether a value is not even valid


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


def _invalid_ways(space: spaces.Space[Any]) -> Sequence[InvalidWay]:
    if frames.frame_axes(space):
        return (wrong_shape, wrong_type)
    if isinstance(space, spaces.Box):
        return (nan, infinite, out_of_range, wrong_type, wrong_shape)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return (out_of_range, wrong_type, _null)
    return (_null,)


# --- valid and wrong ---


def _rows_shifted(values: Column, space: spaces.Box, severity: float, chance: Chance) -> Column:
    return _redrawn(frames.shift_rows, values, space, severity, chance)


def _channels_swapped(values: Column, space: spaces.Box, severity: float, chance: Chance) -> Column:
    return _redrawn(frames.swap_channels, values, space, severity, chance)


def _block_torn(values: Column, space: spaces.Box, severity: float, chance: Chance) -> Column:
    return _redrawn(frames.tear_block, values, space, severity, chance)


def _redrawn(how: Any, values: Column, space: spaces.Box, severity: float, chance: Chance) -> Column:
    axes = frames.frame_axes(space)
    assert axes is not None, f"{space} is no frame"
    return bounded(frames.as_frames(how(frames.as_images(values, axes), severity, chance), axes), space)


def _swapped(values: Column, space: Any, severity: float, chance: Chance) -> Column:
    """Two entries in each other's place."""
    changed = values.reshape(len(values), -1).copy()
    count = changed.shape[1]
    if count > 1:
        rows, one = np.arange(len(values)), whole(chance[:, 0], count)
        other = (one + 1 + whole(chance[:, 1], count - 1)) % count
        changed[rows, one], changed[rows, other] = changed[rows, other], changed[rows, one]
    swapped = changed.reshape(values.shape)
    if isinstance(space, spaces.Box):
        return bounded(swapped, space)
    keep = within(space, swapped).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(keep, swapped, values)


_SCALES = np.array([-1.0, 0.01, 0.1, 10.0, 100.0])


def _scaled(values: Column, space: spaces.Box, severity: float, chance: Chance) -> Column:
    """One entry in another unit, or with its sign turned."""
    index, scales = whole(chance[:, 0], values[0].size), _SCALES[whole(chance[:, 1], len(_SCALES))]
    with np.errstate(over="ignore"):  # the greatest numbers become infinite, which is cut to the space's bounds
        return _with_entries(values, space, index, _entries(values, index) * scales)


def _offset(values: Column, space: spaces.Box, severity: float, chance: Chance) -> Column:
    """One entry moved by about `severity` times its size, or times its bounds where it has them."""
    index = whole(chance[:, 0], values[0].size)
    entries = _entries(values, index)
    low, high = (bound.ravel()[index].astype(np.float64) for bound in (space.low, space.high))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.where(np.isfinite(high - low), high - low, np.abs(entries) + 1.0)
        steps = severity * spread * (0.5 + 0.5 * chance[:, 1])
        steps = np.maximum(steps, 0.0 if values.dtype.kind == "f" else 1.0)
        moved = np.where(entries + steps <= high, entries + steps, entries - steps)
    return _with_entries(values, space, index, moved)


def _digits_transposed(values: Column, space: spaces.Discrete, severity: float, chance: Chance) -> Column:
    """Two neighbouring digits in each other's place (ids, amounts)."""
    changed = values.astype(np.int64)
    digits = np.char.str_len(np.abs(changed).astype(str))
    lower = 10 ** whole(chance[:, 0], np.maximum(digits - 1, 1))
    sizes = np.abs(changed)
    one, other = sizes // lower % 10, sizes // (10 * lower) % 10
    changed = np.sign(changed) * (sizes + (one - other) * 9 * lower)
    keep = (digits > 1) & within(space, changed.astype(space.dtype))
    return np.where(keep, changed, values).astype(values.dtype)


def _other_class(values: Column, space: Any, severity: float, chance: Chance) -> Column:
    """Another class, in one entry."""
    flat = values.reshape(len(values), -1)
    size = flat.shape[1]
    counts = (
        np.full(size, 2)
        if isinstance(space, spaces.MultiBinary)
        else np.ravel(getattr(space, "nvec", getattr(space, "n", 0)))
    )
    starts = np.broadcast_to(np.ravel(getattr(space, "start", 0)), size)
    free = np.flatnonzero(counts > 1)
    changed = flat.copy()
    if len(free):
        rows, index = np.arange(len(values)), free[whole(chance[:, 0], len(free))]
        classes = changed[rows, index] - starts[index] + 1 + whole(chance[:, 1], counts[index] - 1)
        changed[rows, index] = starts[index] + classes % counts[index]
    return changed.reshape(values.shape)


def _letters_swapped(values: list[str], space: spaces.Text, severity: float, chance: Chance) -> list[str]:
    places = whole(chance[:, 0], [max(len(text) - 1, 1) for text in values]).tolist()
    return [
        text[:place] + text[place + 1 : place + 2] + text[place : place + 1] + text[place + 2 :]
        for text, place in zip(values, places, strict=True)
    ]


def _other_letter(values: list[str], space: spaces.Text, severity: float, chance: Chance) -> list[str]:
    letters = space.character_list
    places = whole(chance[:, 0], [max(len(text), 1) for text in values]).tolist()
    drawn = whole(chance[:, 1], len(letters)).tolist()
    return [
        text[:place] + letters[letter] + text[place + 1 :] if text else text
        for text, place, letter in zip(values, places, drawn, strict=True)
    ]


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


def entry_changed(value: Any, space: spaces.Box, rng: np.random.Generator, change: Callable[[float], float]) -> Any:
    """The vector with one entry put through `change`, rounded and clipped into the space."""
    index = int(rng.integers(value.size))
    entry = np.array([change(float(value.flat[index]))])
    return np.asarray(_with_entries(value[None], space, np.array([index]), entry)[0])


def _entries(values: Column, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """One entry of each vector."""
    return values.reshape(len(values), -1)[np.arange(len(values)), index].astype(np.float64)


def _with_entries(values: Column, space: spaces.Box, index: NDArray[np.int64], entries: NDArray[np.float64]) -> Column:
    """Vectors with one entry each replaced by one of `entries`, (n,), rounded and clipped into the space."""
    low, high = space.low.ravel()[index], space.high.ravel()[index]
    kind, changed = values.dtype.kind, values.reshape(len(values), -1).copy()
    limits = np.finfo(values.dtype) if kind == "f" else np.iinfo(values.dtype if kind in "iu" else np.uint8)
    largest = 2.0**63 - 1025 if limits.dtype == np.int64 else float(limits.max)
    entries = np.clip(np.where(np.isnan(entries), 0.0, entries), float(limits.min), largest)
    whole = entries if kind == "f" else np.rint(entries).astype(limits.dtype)
    changed[np.arange(len(values)), index] = np.clip(whole.astype(values.dtype), low, high)
    return changed.reshape(values.shape)


def _poked(value: Any, space: spaces.Box, rng: np.random.Generator, entry: float) -> Any:
    """The vector with one entry replaced by one that does not belong there; whole numbers arrive as floats then."""
    changed = value.astype(np.promote_types(value.dtype, np.float32))
    with np.errstate(over="ignore"):  # twice the largest number there is, is infinite
        changed.flat[int(rng.integers(value.size))] = entry
    return changed
