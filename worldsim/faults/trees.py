"""Payloads leaf by leaf: read one, put one in its place without touching the original, compare, describe."""

import base64
import copy
import json
import math
import string
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from worldsim.spaces import Leaf

SMALL = 16  # values with more entries than this are not written into records

TreePath = tuple[str | int, ...]
"""Where something is in nested mappings and lists: their keys and positions from the outside in."""

# What the leaves of plain JSON are, which has no space.
_FLAG = spaces.Discrete(2)
_NUMBER = spaces.Box(-np.inf, np.inf, (), np.float64)
_STRING = spaces.Text(10**9, min_length=0, charset=string.ascii_letters + string.digits + string.punctuation + " ")
ANY: Final = spaces.OneOf((_FLAG, _NUMBER, _STRING))  # of places in it that are no leaves


class Absent(Enum):
    """What `get` finds where a payload has no such place, because another fault has been at it."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


def leaves_of(space: spaces.Space[Any]) -> tuple[Leaf, ...]:
    """The leaves of a space like `worldsim.spaces.leaves`, but whatever is no Dict or Tuple counts as a leaf.

    A fault can act on an observation that has a part which worldsim cannot encode; it leaves that part alone.
    """
    found: list[Leaf] = []

    def walk(inner: spaces.Space[Any], path: TreePath) -> None:
        if isinstance(inner, spaces.Dict | spaces.Tuple):
            items = inner.spaces.items() if isinstance(inner, spaces.Dict) else enumerate(inner.spaces)
            for key, below in items:
                walk(below, (*path, key))
        else:
            found.append(Leaf(path, inner))

    walk(space, ())
    return tuple(found)


def plain_leaves(payload: Any) -> Iterator[Leaf]:
    """The leaves of plain JSON: flags, numbers and strings, wherever they stand. A null is none."""
    for path, value in nodes(payload):
        if isinstance(value, bool):
            yield Leaf(path, _FLAG)
        elif isinstance(value, int | float):
            yield Leaf(path, _NUMBER)
        elif isinstance(value, str):
            yield Leaf(path, _STRING)


def nodes(payload: Any, path: TreePath = ()) -> Iterator[tuple[TreePath, Any]]:
    """Every place of a payload with what stands there, containers before what is in them."""
    yield path, payload
    if isinstance(payload, Mapping):
        for key, value in payload.items():
            yield from nodes(value, (*path, key))
    elif isinstance(payload, list | tuple):
        for position, value in enumerate(payload):
            yield from nodes(value, (*path, position))


def get(payload: Any, path: TreePath) -> Any:
    """The value at a path of keys and positions; ABSENT where there is no such place."""
    try:
        for step in path:
            if isinstance(payload, str):  # its letters are no places
                return ABSENT
            payload = payload[step]
    except (KeyError, IndexError, TypeError):
        return ABSENT
    return payload


def read(payload: Any, leaf: Leaf) -> Any:
    """The value of a leaf like `get`, but floats of plain JSON as 0-d arrays, as a Box has them.

    Whole numbers of plain JSON stay what they are: an array would lose the digits of those beyond 2**53.
    """
    value = get(payload, leaf.path)
    return np.asarray(value) if leaf.space is _NUMBER and type(value) is float else value


def is_plain_integer(leaf: Leaf, value: Any) -> bool:
    """Whether a value is a whole number of plain JSON."""
    return leaf.space is _NUMBER and type(value) is int


def write(payload: Any, leaf: Leaf, value: Any) -> Any:
    """A payload with another value in a leaf like `put`; arrays become numbers and lists again in plain JSON."""
    return put(payload, leaf.path, written(leaf, value))


def written(leaf: Leaf, value: Any) -> Any:
    plain_json = any(leaf.space is each for each in (_FLAG, _NUMBER, _STRING))
    return value.tolist() if plain_json and isinstance(value, np.ndarray | np.generic) else value


def put(payload: Any, path: TreePath, value: Any) -> Any:
    """A payload with another value at `path`; only the containers on the way are copied.

    Where the value is ABSENT the object that has such a field has none.
    """
    if not path:
        return value
    first, rest = path[0], path[1:]
    if value is ABSENT and not rest:
        return {key: inner for key, inner in payload.items() if key != first}
    inner = put(payload[first], rest, value)
    if isinstance(payload, tuple):
        return tuple(inner if position == first else item for position, item in enumerate(payload))
    changed = payload.copy() if type(payload) is dict else copy.copy(payload)
    changed[first] = inner
    return changed


def copied(payload: Any) -> Any:
    """A payload that shares no memory with the original."""
    if isinstance(payload, _FIXED):
        return payload
    if isinstance(payload, np.ndarray):
        return payload.copy()
    if type(payload) is dict:
        return {key: copied(value) for key, value in payload.items()}
    if isinstance(payload, dict):
        changed = copy.copy(payload)
        changed.update((key, copied(value)) for key, value in payload.items())
        return changed
    if type(payload) in (tuple, list):
        return type(payload)(map(copied, payload))
    return copy.deepcopy(payload)


_FIXED = (str, int, float, np.generic, type(None))  # immutable values


def identical(left: Any, right: Any) -> bool:
    """Whether two leaf values are alike in shape, type and every bit (NaN equals NaN)."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        left, right = np.asarray(left), np.asarray(right)
        return bool(left.shape == right.shape and left.dtype == right.dtype and left.tobytes() == right.tobytes())
    if type(left) is not type(right):
        return False
    if isinstance(left, float):  # 0.0 is not -0.0
        left, right = repr(left), repr(right)
    return bool(left == right) or bool(left != left and right != right)


def alike(left: Any, right: Any) -> bool:
    """Whether two payloads are alike in structure and in every leaf, to the bit."""
    if isinstance(left, _FIXED):
        return type(left) is type(right) and identical(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return list(left) == list(right) and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and type(left) is type(right):
        return len(left) == len(right) and all(map(alike, left, right))
    return type(left) is type(right) and identical(left, right)


def has_leaf_form(leaf: Leaf, value: Any) -> bool:
    """Whether a value has the type and shape of its leaf, and anything in it. After another fault it may not."""
    space = leaf.space
    if isinstance(space, spaces.Text):
        return isinstance(value, str)
    if is_plain_integer(leaf, value):
        return True
    if isinstance(space, spaces.Discrete) and not isinstance(value, np.ndarray):
        return isinstance(value, int | np.integer)
    is_array = isinstance(value, np.ndarray) and value.shape == space.shape and value.size > 0
    return is_array and value.dtype.kind in ("b", "i", "u", "f")


def to_plain_json(value: Any) -> Any:
    """A small leaf value as plain JSON, non-finite numbers as strings; "..." for a large one."""
    if isinstance(value, np.ndarray):
        return [to_plain_json(item) for item in value.ravel().tolist()] if value.size <= SMALL else "..."
    if isinstance(value, list) and len(value) <= SMALL:
        return [to_plain_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, int | float | str) else str(value)


def described(before: Any, after: Any) -> dict[str, Any]:
    """Two small values for a record, nothing where one of them is large."""
    small = {"before": to_plain_json(before), "after": to_plain_json(after)}
    return {} if "..." in small.values() else small


def as_text(payload: Any) -> str:
    """A payload as the JSON text that a service would send: arrays as lists, frames as base64 of their bytes."""
    return _ENCODER.encode(payload)


def canonical(value: Any) -> str:
    """A value as canonical JSON: sorted keys, no spaces, and 1.0 is 1: equal requests have equal texts (RFC 8785)."""
    return _CANONICAL.encode(_plainest(value))


def _plainest(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plainest(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plainest(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plainest(value.tolist())
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _json_of(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim >= 2:
        data = base64.b64encode(value.tobytes()).decode()
        return {"dtype": "uint8", "shape": list(value.shape), "base64": data}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


_ENCODER = json.JSONEncoder(default=_json_of, ensure_ascii=False)
_CANONICAL = json.JSONEncoder(default=str, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def cast_like(old: Any, new: int) -> Any:
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


def empty_value(space: spaces.Space[Any], value: Any, out_of_space: bool = False) -> Any:
    """What an absent value looks like; spaces of unknown kinds stay as they are."""
    if isinstance(space, spaces.Box):
        if out_of_space:
            return np.full(value.shape, np.nan, np.promote_types(value.dtype, np.float32))
        return clipped(np.zeros_like(value), space)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Text) and out_of_space:
        return None
    if isinstance(space, spaces.Discrete):
        return cast_like(value, int(space.start))
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return np.zeros_like(value) + np.asarray(getattr(space, "start", 0), value.dtype)
    return space.character_list[0] * space.min_length if isinstance(space, spaces.Text) else value
