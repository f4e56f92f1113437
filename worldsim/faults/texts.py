"""Many replies as the JSON texts that a service would send, and how long these are without making them.

Payloads of a batch are turned into text leaf by leaf, those that are apart from it one by one: the text of each is what
`as_text` makes of it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.leafwise import Values, put
from worldsim.faults.replies import Replies, Rows
from worldsim.spaces import Leaf

Change = tuple[Leaf, Rows, Values]  # a leaf, the environments in whose payloads it is to change, other values
Path = tuple[str | int, ...]


def plain_payloads(replies: Replies, rows: Rows, changes: Iterable[Change] = ()) -> list[Any]:
    """Payloads of these environments, none of them lost, with lists and numbers for arrays other than frames.

    `as_text` makes the same of them as of the payloads. changes: what they have in some of their leaves instead.
    """
    replies.settle()
    others = {leaf.path: dict(zip(touched.tolist(), _listed(values), strict=True)) for leaf, touched, values in changes}
    apart = {row: replies.payload(row) for row in rows.tolist() if row in replies.apart}
    for path, values in others.items():
        for row in values.keys() & apart.keys():
            apart[row] = put(apart[row], path, values[row])
    if not apart:
        return _rows_of(replies.space, replies.batch, rows, others, ())
    inside = rows[[row not in apart for row in rows.tolist()]]
    if len(inside):
        apart.update(zip(inside.tolist(), _rows_of(replies.space, replies.batch, inside, others, ()), strict=True))
    return [apart[row] for row in rows.tolist()]


def _rows_of(space: gym.Space[Any], batch: Any, rows: Rows, others: Mapping[Path, Any], path: Path) -> list[Any]:
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
