"""Columns: the values that one leaf has in many payloads, as an array (n, ...), or as a list where they are none."""

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.trees import (
    ABSENT,
    SMALL,
    described,
    has_leaf_form,
    identical,
    is_plain_integer,
    to_plain_json,
    written,
)
from worldsim.spaces import Leaf

Values = NDArray[Any] | list[Any]  # of one leaf in many payloads, (n, ...)


def one_by_one(leaf: Leaf, values: Values) -> list[Any]:
    """The values of a leaf in many payloads, each as it stands in its own."""
    if isinstance(values, np.ndarray) and isinstance(leaf.space, spaces.Box):
        return [np.asarray(value) for value in values]
    return list(values)


def each_like_first(leaf: Leaf, values: Values, change: Callable[[Any], Any]) -> Values:
    """Values put through `change`, whose result depends on their type and shape alone."""
    if not isinstance(values, np.ndarray):
        return [change(value) for value in values]
    changed = change(one_by_one(leaf, values[:1])[0])
    if isinstance(changed, np.ndarray | np.generic | int):
        return np.broadcast_to(np.asarray(changed), (len(values), *np.shape(changed)))
    return [changed] * len(values)


def by_form(leaf: Leaf, values: Sequence[Any]) -> Iterator[tuple[list[int], Any]]:
    """Values one by one as columns of one form, each with their positions: numbers as arrays, the rest as lists.

    Lists are texts, or whole numbers of plain JSON. Left out are those that have another type or shape than their leaf.
    """
    found: dict[Any, list[int]] = {}
    for position, value in enumerate(values):
        if has_leaf_form(leaf, value):
            listed = isinstance(value, str) or is_plain_integer(leaf, value)
            form = type(value) if listed else (np.asarray(value).dtype, np.shape(value))
            found.setdefault(form, []).append(position)
    for form, positions in found.items():
        column = [values[position] for position in positions]
        yield positions, column if form in (str, int) else np.stack(column)


def cast_like_old(old: Any, new: Any) -> Any:
    """A value of a changed column in the form in which the old value came; what has no such form stays as it is."""
    if isinstance(old, np.ndarray):
        return np.asarray(new) if isinstance(new, np.generic) else new
    return type(old)(new) if isinstance(new, np.generic) else new


def fit_column(values: Values, column: Any) -> bool:
    """Whether values can stand in an array and still be what they are."""
    if not isinstance(column, np.ndarray) or not isinstance(values, np.ndarray):
        return False
    return bool(values.dtype == column.dtype and values.shape[1:] == column.shape[1:])


def select(values: Values, rows: NDArray[np.int64]) -> Values:
    """Some of the values of a column, by their positions in ascending order."""
    if len(rows) == len(values):
        return values
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]


def differing(left: Values, right: Values) -> NDArray[np.bool_]:
    """Which values of two columns, (n,), are not alike: the `identical` of every two."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.shape != right.shape or left.dtype != right.dtype:
            return np.ones(len(left), np.bool_)
        bits = _bits(left) != _bits(right)
        return bits[:, 0] if bits.shape[1] == 1 else np.asarray(bits.any(1))
    return np.array([not identical(*both) for both in zip(left, right, strict=True)], np.bool_)


def _bits(column: NDArray[Any]) -> NDArray[Any]:
    """A column as whole numbers, (n, any)."""
    flat = np.ascontiguousarray(column).reshape(len(column), -1)
    width = 8 if flat.shape[1] * flat.itemsize % 8 == 0 else flat.itemsize
    return flat.view(f"u{width}")


def hashes(values: Values) -> NDArray[np.uint64]:
    """Hashes of the values of a column, (n, any): equal where their bits are, and else most likely not."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return _bits(values).astype(np.uint64)
    digests = [blake2b(repr(value).encode(), digest_size=8).digest() for value in values]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(len(digests), 1)


def within(space: spaces.Space[Any], values: Values) -> NDArray[np.bool_]:
    """Which values of a column, (n,), are in the space."""
    if type(space) is spaces.Text:
        return np.array([_is_text_of(space, value) for value in values], np.bool_)
    if not isinstance(values, np.ndarray) or values.dtype != space.dtype or not isinstance(space, _COUNTED):
        return np.array([value is not ABSENT and value in space for value in values], np.bool_)
    if isinstance(space, spaces.Box):
        if _spans_dtype(space):
            return np.ones(len(values), np.bool_)
        inside = (values >= space.low) & (values <= space.high)
    elif isinstance(space, spaces.MultiBinary):
        inside = values <= 1
    else:
        classes = values - space.start
        inside = (classes >= 0) & (classes < (space.n if isinstance(space, spaces.Discrete) else space.nvec))
    return np.asarray(inside if inside.ndim == 1 else inside.reshape(len(values), -1).all(1))


def _is_text_of(space: spaces.Text, value: Any) -> bool:
    """Whether a value is in a space of texts: as `value in space`, which takes ten times as long."""
    is_text = isinstance(value, str) and space.min_length <= len(value) <= space.max_length
    return is_text and space.character_set.issuperset(value)


_COUNTED = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


def _spans_dtype(space: spaces.Box) -> bool:
    """Whether the bounds are the limits of an integer type, so that every value of the type is inside them."""
    if space.dtype.kind not in "iu":
        return False
    limits = np.iinfo(space.dtype)  # type: ignore[type-var]
    return bool((space.low == limits.min).all() and (space.high == limits.max).all())


def bounded(values: NDArray[Any], space: spaces.Box) -> NDArray[Any]:
    """A column brought inside the bounds of a space, in its own type."""
    return values if _spans_dtype(space) else np.asarray(np.clip(values, space.low, space.high), values.dtype)


def are_small(values: Values) -> bool:
    """Whether the values of a column, one at least, are small enough for records."""
    if isinstance(values, np.ndarray):
        return bool(values[0].size <= SMALL)
    return all(not isinstance(value, np.ndarray) or value.size <= SMALL for value in values)


def descriptions(leaf: Leaf, before: Values, after: Values) -> list[dict[str, Any]]:
    """`described` for every two of many values."""
    if not (isinstance(before, np.ndarray) and isinstance(after, np.ndarray)):
        each = zip(one_by_one(leaf, before), one_by_one(leaf, after), strict=True)
        return [described(*(written(leaf, value) for value in both)) for both in each]
    if not (are_small(before) and are_small(after)):
        return [{} for _ in before]
    both = zip(_plain_column(leaf, before), _plain_column(leaf, after), strict=True)
    return [{"before": old, "after": new} for old, new in both]


def _plain_column(leaf: Leaf, values: NDArray[Any]) -> list[Any]:
    """`to_plain_json` of each value of a column."""
    scalars = isinstance(leaf.space, spaces.Discrete)
    rows: list[Any] = (values if scalars else values.reshape(len(values), -1)).tolist()
    return rows if values.dtype.kind != "f" or np.isfinite(values).all() else [to_plain_json(row) for row in rows]
