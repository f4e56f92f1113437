"""Payloads leaf by leaf: read one, put one in its place without touching the original, compare, describe."""

import copy
import math
from typing import Any

import numpy as np
from gymnasium import spaces

from worldsim.spaces import Leaf

_SMALL = 16  # values with more entries than this are not written into records


def leaves_of(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """The leaves of a space like `worldsim.spaces.leaves`, but whatever is no Dict or Tuple counts as a leaf.

    A fault can act on an observation that has a part which worldsim cannot encode; it leaves that part alone.
    """
    found: list[Leaf] = []

    def walk(inner: spaces.Space[Any], path: tuple[str | int, ...]) -> None:
        if isinstance(inner, spaces.Dict | spaces.Tuple):
            items = inner.spaces.items() if isinstance(inner, spaces.Dict) else enumerate(inner.spaces)
            for key, below in items:
                walk(below, (*path, key))
        else:
            found.append(Leaf(path, inner))

    walk(space, ())
    return tuple(found)


def get(payload: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path of keys and positions."""
    for step in path:
        payload = payload[step]
    return payload


def put(payload: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A payload with another value at `path`; only the containers on the way are copied."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    inner = put(payload[first], rest, value)
    if isinstance(payload, tuple):
        return tuple(inner if position == first else item for position, item in enumerate(payload))
    changed = copy.copy(payload)
    changed[first] = inner
    return changed


def copied(payload: Any) -> Any:
    """A payload that shares no memory with the original."""
    if isinstance(payload, np.ndarray):
        return payload.copy()
    if isinstance(payload, dict):
        changed = copy.copy(payload)
        changed.update((key, copied(value)) for key, value in payload.items())
        return changed
    if type(payload) is tuple:
        return tuple(map(copied, payload))
    return payload if isinstance(payload, int | float | str | np.generic) else copy.deepcopy(payload)


def same(left: Any, right: Any) -> bool:
    """Whether two leaf values are alike in shape, type and every bit (NaN equals NaN)."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        left, right = np.asarray(left), np.asarray(right)
        return bool(left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes())
    both_nan = left != left and right != right
    return type(left) is type(right) and (bool(left == right) or bool(both_nan))


def usual(leaf: Leaf, value: Any) -> bool:
    """Whether a value has the type and shape of its leaf. After another fault has been at it, it may not."""
    space = leaf.space
    if isinstance(space, spaces.Text):
        return isinstance(value, str)
    if isinstance(space, spaces.Discrete) and not isinstance(value, np.ndarray):
        return isinstance(value, int | np.integer)
    return isinstance(value, np.ndarray) and value.shape == space.shape and value.dtype.kind in ("b", "i", "u", "f")


def plain(value: Any) -> Any:
    """A small leaf value as plain JSON, non-finite numbers as strings; "..." for a large one."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.ravel().tolist()] if value.size <= _SMALL else "..."
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, int | float | str) else str(value)


def like(old: Any, new: int) -> Any:
    """An integer in the type in which the old value came (int, numpy scalar or 0-d array)."""
    return np.asarray(new, old.dtype) if isinstance(old, np.ndarray) else type(old)(new)


def clipped(value: np.ndarray[Any, Any], space: spaces.Box) -> Any:
    """An array brought inside the bounds of a space, in its own type."""
    return np.asarray(np.clip(value, space.low, space.high), value.dtype)


def from_json(leaf: Leaf, given: Any) -> Any:
    """A value of the leaf's space from plain JSON: zero-based classes, a text, or numbers of any shape that fits."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return np.asarray(int(given) + int(space.start), space.dtype)[()]
    if isinstance(space, spaces.Text):
        return str(given)
    array = np.broadcast_to(np.asarray(given), space.shape or ())
    if isinstance(space, spaces.MultiDiscrete):
        array = array + space.start
    return array.astype(space.dtype)
