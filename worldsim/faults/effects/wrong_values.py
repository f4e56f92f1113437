"""Wrong values for a leaf: valid in its space and different, or not even valid.

Each way of being wrong takes values (n, ...) of a leaf, its space, a severity and four uniforms for each, and returns
other values; where it can make no difference it returns the value as it was, and another way is taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.columns import (
    Values,
    bounded,
    by_form,
    cast_like_old,
    differing,
    fit_column,
    one_by_one,
    select,
    within,
)
from worldsim.faults.effects import frames
from worldsim.faults.effects.frames import Uniforms
from worldsim.faults.keys import CallRandom, integers_below
from worldsim.spaces import Floats, Leaf

Column = NDArray[Any]
Corruption = Callable[[Any, Any, float, Uniforms], Any]


def wrong_values(
    leaf: Leaf, values: Values, severity: float, random: CallRandom, out_of_space: bool
) -> tuple[Values, NDArray[np.object_]]:
    """Wrong values, and how each went wrong; where nothing different can be made of one it stays as it is.

    Out of space half of them go wrong in a way that is not valid, and all for which there is no valid way.
    """
    hows = np.full(len(values), None, object)
    if not isinstance(values, np.ndarray):
        changed = list(values)
        for at, column in by_form(leaf, values):
            after, hows[at] = _listed_wrong(leaf, column, severity, random[at], out_of_space)
            for position, new in zip(at, after, strict=True):
                changed[position] = cast_like_old(values[position], new)
        return changed, hows
    return _column_wrong(leaf, values, severity, random, out_of_space) if values.size else (values, hows)


def _listed_wrong(
    leaf: Leaf, values: Values, severity: float, random: CallRandom, out_of_space: bool
) -> tuple[Values, NDArray[np.object_]]:
    """Values one by one. Whole numbers of plain JSON that no float holds are left alone."""
    if not isinstance(values, list) or isinstance(values[0], str):
        return _column_wrong(leaf, values, severity, random, out_of_space)
    if max(map(abs, values)) > 2**53:
        return values, np.full(len(values), None, object)
    after, hows = _column_wrong(leaf, np.array(values), severity, random, out_of_space)
    return after.tolist() if isinstance(after, np.ndarray) else after, hows


def _column_wrong(
    leaf: Leaf, values: Values, severity: float, random: CallRandom, out_of_space: bool
) -> tuple[Values, NDArray[np.object_]]:
    valid, invalid = _valid_ways(leaf.space), _invalid_ways(leaf.space) if out_of_space else ()
    if not invalid:
        return _each_wrong(leaf, values, valid, severity, random.uniform(_VALID, len(valid), 5))
    changed, hows = values.copy(), np.full(len(values), None, object)
    astray = random.uniform(_ASTRAY) < (0.5 if valid else 1.0)
    for ways, stream, rows in ((valid, _VALID, np.flatnonzero(~astray)), (invalid, _INVALID, np.flatnonzero(astray))):
        if len(rows):
            chance = random.uniform(stream, len(ways), 5)[rows]
            after, hows[rows] = _each_wrong(leaf, select(values, rows), ways, severity, chance)
            changed = _with_rows(leaf, changed, rows, after)
    return changed, hows


_VALID, _INVALID, _ASTRAY = 0, 1, 2  # streams: of either kind of ways, and of which kind it is


def _each_wrong(
    leaf: Leaf, values: Values, ways: Sequence[Corruption], severity: float, chance: NDArray[np.float64]
) -> tuple[Values, NDArray[np.object_]]:
    """Every value goes every way, and the first way that makes a difference, in an order drawn for each, is kept.

    chance: (n, ways, 5) uniforms: four for a way, one for its place in the order.
    """
    hows = np.full(len(values), None, object)
    if not ways:
        return values, hows
    results = [way(values, leaf.space, severity, chance[:, number]) for number, way in enumerate(ways)]
    differs = np.stack([differing(values, each) for each in results], 1)
    first = np.where(differs, chance[..., 4], 2.0).argmin(1)
    first[~differs.any(1)] = -1
    changed = values.copy()
    for number, (way, result) in enumerate(zip(ways, results, strict=True)):
        rows = np.flatnonzero(first == number)
        hows[rows] = way.__name__.strip("_")
        changed = _with_rows(leaf, changed, rows, select(result, rows))
    return changed, hows


def _with_rows(leaf: Leaf, values: Values, rows: NDArray[np.int64], others: Values) -> Values:
    """A column with some of its values replaced, written into it; one by one from where they are of several forms."""
    if not len(rows):
        return values
    if isinstance(values, np.ndarray) and fit_column(others, values):
        values[rows] = others
        return values
    listed = one_by_one(leaf, values)
    for row, other in zip(rows.tolist(), one_by_one(leaf, others), strict=True):
        listed[row] = other
    return listed


def _valid_ways(space: spaces.Space[Any]) -> Sequence[Corruption]:
    if frames.frame_axes(space):
        return (_rows_shifted, _channels_swapped, _block_torn)
    if isinstance(space, spaces.Box):
        return (_swapped, _scaled, _offset)
    if isinstance(space, spaces.Discrete):
        return (digits_transposed, _other_class)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return (_swapped, _other_class)
    return (_letters_swapped, _other_letter) if isinstance(space, spaces.Text) else ()


def _invalid_ways(space: spaces.Space[Any]) -> Sequence[Corruption]:
    if frames.frame_axes(space):
        return (wrong_shape, wrong_type)
    if isinstance(space, spaces.Box):
        return (nan, infinite, out_of_range, wrong_type, wrong_shape)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return (out_of_range, wrong_type, _null)
    return (_null,)


# --- valid and wrong ---


def _rows_shifted(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    return _redrawn(frames.shift_rows, values, space, severity, chance)


def _channels_swapped(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    return _redrawn(frames.swap_channels, values, space, severity, chance)


def _block_torn(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    return _redrawn(frames.tear_block, values, space, severity, chance)


def _redrawn(how: Any, values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    axes = frames.frame_axes(space)
    assert axes is not None, f"{space} is no frame"
    return bounded(frames.as_frames(how(frames.as_images(values, axes), severity, chance), axes), space)


def _swapped(values: Column, space: Any, severity: float, chance: Uniforms) -> Column:
    """Two entries in each other's place."""
    changed = values.reshape(len(values), -1).copy()
    count = changed.shape[1]
    if count > 1:
        rows, one = np.arange(len(values)), integers_below(chance[:, 0], count)
        other = (one + 1 + integers_below(chance[:, 1], count - 1)) % count
        changed[rows, one], changed[rows, other] = changed[rows, other], changed[rows, one]
    swapped = changed.reshape(values.shape)
    if isinstance(space, spaces.Box):
        return bounded(swapped, space)
    keep = within(space, swapped).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(keep, swapped, values)


_SCALES = np.array([-1.0, 0.01, 0.1, 10.0, 100.0])


def _scaled(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    """One entry in another unit, or with its sign turned."""
    index, scales = integers_below(chance[:, 0], values[0].size), _SCALES[integers_below(chance[:, 1], len(_SCALES))]
    with np.errstate(over="ignore"):  # the greatest numbers become infinite, which is cut to the space's bounds
        return _with_entries(values, space, index, _entries(values, index) * scales)


def _offset(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    """One entry moved by about `severity` times its size, or times its bounds where it has them."""
    index = integers_below(chance[:, 0], values[0].size)
    entries = _entries(values, index)
    low, high = (bound.ravel()[index].astype(np.float64) for bound in (space.low, space.high))
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.where(np.isfinite(high - low), high - low, np.abs(entries) + 1.0)
        steps = severity * spread * (0.5 + 0.5 * chance[:, 1])
        steps = np.maximum(steps, 0.0 if values.dtype.kind == "f" else 1.0)
        moved = np.where(entries + steps <= high, entries + steps, entries - steps)
    return _with_entries(values, space, index, moved)


def digits_transposed(values: Column, space: spaces.Discrete, severity: float, chance: Uniforms) -> Column:
    """Two neighbouring digits in each other's place (ids, amounts)."""
    return existing(transposed(values.astype(np.int64), chance[:, 0]), values, space)


def _other_class(values: Column, space: Any, severity: float, chance: Uniforms) -> Column:
    """Another class, in one entry."""
    if isinstance(space, spaces.Discrete):
        steps = 1 + integers_below(chance[:, 1], space.n - 1)
        return np.asarray(space.start + (values - space.start + steps) % space.n, values.dtype)
    changed = values.reshape(len(values), -1).copy()
    size = changed.shape[1]
    counts = space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else np.full(size, 2)
    starts = np.broadcast_to(np.ravel(getattr(space, "start", 0)), size)
    free = np.flatnonzero(counts > 1)
    if len(free):
        rows, index = np.arange(len(values)), free[integers_below(chance[:, 0], len(free))]
        classes = changed[rows, index] - starts[index] + 1 + integers_below(chance[:, 1], counts[index] - 1)
        changed[rows, index] = starts[index] + classes % counts[index]
    return changed.reshape(values.shape)


def _letters_swapped(values: list[str], space: spaces.Text, severity: float, chance: Uniforms) -> list[str]:
    places = integers_below(chance[:, 0], [max(len(text) - 1, 1) for text in values]).tolist()
    return [
        text[:place] + text[place + 1 : place + 2] + text[place : place + 1] + text[place + 2 :]
        for text, place in zip(values, places, strict=True)
    ]


def _other_letter(values: list[str], space: spaces.Text, severity: float, chance: Uniforms) -> list[str]:
    letters = space.character_list
    places = integers_below(chance[:, 0], [max(len(text), 1) for text in values]).tolist()
    drawn = integers_below(chance[:, 1], len(letters)).tolist()
    return [
        text[:place] + letters[letter] + text[place + 1 :] if text else text
        for text, place, letter in zip(values, places, drawn, strict=True)
    ]


# --- not even valid ---


def _null(values: Values, space: Any, severity: float, chance: Uniforms) -> list[None]:
    return [None] * len(values)


def nan(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    return poked(values, integers_below(chance[:, 0], values[0].size), np.nan)


def infinite(values: Column, space: spaces.Box, severity: float, chance: Uniforms) -> Column:
    return poked(values, integers_below(chance[:, 0], values[0].size), np.inf)


def out_of_range(values: Column, space: Any, severity: float, chance: Uniforms) -> Column:
    """Above what the space allows, one entry of a vector; its type grows if it must."""
    if isinstance(space, spaces.Discrete):
        next_class = int(space.start) + int(space.n)
        return np.full(len(values), next_class, np.promote_types(values.dtype, np.min_scalar_type(next_class)))
    index = integers_below(chance[:, 0], values[0].size)
    if isinstance(space, spaces.Box):
        with np.errstate(over="ignore"):  # twice the largest number there is, is infinite
            return poked(values, index, 2 * np.abs(space.high.ravel()[index].astype(np.float64)) + 1)
    counts = space.nvec.ravel() if isinstance(space, spaces.MultiDiscrete) else np.full(values[0].size, 2)
    wide = values.astype(np.int64)
    wide.reshape(len(wide), -1)[np.arange(len(wide)), index] += counts[index]
    return wide


def wrong_type(values: Column, space: Any, severity: float, chance: Uniforms) -> Values:
    """Numbers as text; a frame as floats from 0 to 1."""
    if frames.frame_axes(space):
        return _GREYS[values] if values.dtype == np.uint8 else (values / 255).astype(np.float32)
    texts = values.astype(str)
    return texts if values.ndim > 1 else texts.tolist()


_GREYS = (np.arange(256) / 255).astype(np.float32)


def wrong_shape(values: Column, space: Any, severity: float, chance: Uniforms) -> Column:
    """The first half, or twice all entries where there is no half."""
    if values.ndim == 1 or values.shape[1] < 2:
        return np.tile(values.reshape(len(values), -1), 2)
    return values[:, : values.shape[1] // 2].copy()


# --- helpers ---


def transposed(numbers: NDArray[np.int64], chance: Floats) -> NDArray[np.int64]:
    """Whole numbers with two neighbouring digits in each other's place; of one digit as they are. chance: (n,)."""
    sizes = np.abs(numbers)
    digits = np.searchsorted(_TENS, sizes, "right")
    lower = _TENS[integers_below(chance, np.maximum(digits - 1, 1))]
    one, other = sizes // lower % 10, sizes // (10 * lower) % 10
    return np.where(digits > 1, np.sign(numbers) * (sizes + (one - other) * 9 * lower), numbers)


_TENS = 10 ** np.arange(19)  # 1, 10, 100, ...


def numbers_changed(leaf: Leaf, values: Column, chance: Floats, change: Callable[[Floats], Floats]) -> Column:
    """Numbers, or one entry of each vector, (n,), put through `change`; a vector is cut to its space's bounds.

    What is not finite stays as it is, and so does what would be a class that does not exist.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # the greatest numbers become infinite
        if isinstance(leaf.space, spaces.Box):
            index = integers_below(chance, values[0].size)
            changed = _with_entries(values, leaf.space, index, change(_entries(values, index)))
            keep = np.isfinite(values.reshape(len(values), -1)).all(1).reshape(-1, *[1] * (values.ndim - 1))
            return np.where(keep, changed, values)
        assert isinstance(leaf.space, spaces.Discrete), f"{leaf.name} is no number"
        return existing(np.rint(change(values.astype(np.float64))), values, leaf.space)


def existing(changed: Column, values: Column, space: spaces.Space[Any]) -> Column:
    """Changed whole numbers, (n,), and the values instead of classes that do not exist."""
    if not isinstance(space, spaces.Discrete):
        return changed.astype(values.dtype)
    exist = (changed >= space.start) & (changed < space.start + space.n)
    result = values.copy()
    result[exist] = changed[exist]
    return result


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


def poked(values: Column, index: NDArray[np.int64], entries: Any) -> Column:
    """Vectors with one entry each replaced by one that does not belong there; whole numbers arrive as floats then."""
    changed = values.astype(np.promote_types(values.dtype, np.float32))
    with np.errstate(over="ignore"):  # twice the largest number there is, is infinite
        changed.reshape(len(changed), -1)[np.arange(len(changed)), index] = entries
    return changed
