"""Many replies as the JSON texts that a service would send, and how long these are without making them.

Payloads of a batch are turned into text leaf by leaf, overrides one by one: the text of each is what `as_text` makes
of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Rows
from worldsim.faults.columns import Values
from worldsim.faults.replies import Replies
from worldsim.faults.trees import TreePath, as_text, put
from worldsim.spaces import Leaf

LeafChange = tuple[Leaf, Rows, Values]  # a leaf, the sessions in whose payloads it is to change, other values


def plain_payloads(replies: Replies, rows: Rows, changes: Iterable[LeafChange] = ()) -> list[Any]:
    """Payloads of these sessions, none of them lost, with lists and numbers for arrays other than frames.

    `as_text` makes the same of them as of the payloads. changes: what they have in some of their leaves instead.
    """
    replies.merge()
    others = {leaf.path: dict(zip(touched.tolist(), _listed(values), strict=True)) for leaf, touched, values in changes}
    inside = replies.in_batch(rows)
    found = {row: replies.payload(row) for row in rows[~inside].tolist()}
    for path, values in others.items():
        for row in values.keys() & found.keys():
            found[row] = put(found[row], path, values[row])
    if inside.any():
        there = _rows_of(replies.space, replies.batch, rows[inside], others, ())
        found.update(zip(rows[inside].tolist(), there, strict=True))
    return [found[row] for row in rows.tolist()]


def sizes(replies: Replies, rows: Rows) -> NDArray[np.int64]:
    """The lengths in bytes, (n,), of the texts of payloads of these sessions, none of them lost."""
    replies.merge()
    inside = replies.in_batch(rows)
    found = np.zeros(len(rows), np.int64)
    for position in np.flatnonzero(~inside).tolist():
        found[position] = _bytes(as_text(replies.payload(int(rows[position]))))
    if inside.any():
        found[inside] = _sizes_of(replies.space, replies.batch, rows[inside])
    return found


def _sizes_of(space: gym.Space[Any], batch: Any, rows: Rows) -> NDArray[np.int64]:
    if isinstance(space, spaces.Dict):
        keys = _bytes(as_text(dict.fromkeys(space.spaces, 0))) - len(space.spaces)  # all but the values
        return sum(
            (_sizes_of(inner, batch[key], rows) for key, inner in space.spaces.items()), np.full(len(rows), keys)
        )
    if isinstance(space, spaces.Tuple):
        parts = [_sizes_of(inner, part, rows) for inner, part in zip(space.spaces, batch, strict=True)]
        return sum(parts, np.full(len(rows), 2 * max(1, len(parts))))
    if not isinstance(batch, np.ndarray):
        return np.array([_bytes(as_text(batch[row])) for row in rows.tolist()])
    if _are_frames(batch):
        return np.full(len(rows), _bytes(as_text(batch[0])))  # it follows from the shape
    return _number_sizes(batch[rows])


def _number_sizes(column: NDArray[Any]) -> NDArray[np.int64]:
    """Of numbers and lists of them, (n, ...): the numbers' own and what brackets and commas take."""
    flat = column.reshape(len(column), -1)
    around = len(as_text(np.zeros(column.shape[1:], np.int8))) - flat.shape[1]
    if column.dtype.kind == "f":
        written = map(len, map(repr, flat.ravel().tolist()))
        each = np.fromiter(written, np.int64, flat.size).reshape(flat.shape)
        each += (len("Infinity") - len("inf")) * np.isinf(flat)
    elif column.dtype.kind == "b":
        each = np.where(flat, len("true"), len("false"))
    else:
        each = 1 + np.searchsorted(_POWERS, _magnitudes(flat), "right") + (flat < 0)
    return np.asarray(around + each.sum(1))


_POWERS = np.array([10**power for power in range(1, 20)], np.uint64)


def _magnitudes(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """Whole numbers without their sign; the least of all has one, too."""
    words = numbers.astype(np.uint64)
    return np.where(numbers < 0, ~words + np.uint64(1), words)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _rows_of(
    space: gym.Space[Any], batch: Any, rows: Rows, others: Mapping[TreePath, Any], path: TreePath
) -> list[Any]:
    """Those of a batch."""
    if isinstance(space, spaces.Dict):
        parts = [_rows_of(inner, batch[key], rows, others, (*path, key)) for key, inner in space.spaces.items()]
        return [dict(zip(space.spaces, values, strict=True)) for values in _across(parts, len(rows))]
    if isinstance(space, spaces.Tuple):
        numbered = enumerate(zip(space.spaces, batch, strict=True))
        parts = [_rows_of(*both, rows, others, (*path, key)) for key, both in numbered]
        return [list(values) for values in _across(parts, len(rows))]
    values = _listed(batch[rows] if isinstance(batch, np.ndarray) else [batch[row] for row in rows.tolist()])
    if path in others:
        values = [others[path].get(row, value) for row, value in zip(rows.tolist(), values, strict=True)]
    return values


def _across(parts: list[list[Any]], count: int) -> Iterable[tuple[Any, ...]]:
    return zip(*parts, strict=True) if parts else [()] * count


def _listed(values: Values) -> list[Any]:
    """The values of a column as plain JSON, frames as they are."""
    return values.tolist() if isinstance(values, np.ndarray) and not _are_frames(values) else list(values)


def _are_frames(column: NDArray[Any]) -> bool:
    """Whether values are written as base64 of their bytes."""
    return column.dtype == np.uint8 and column.ndim >= 3
