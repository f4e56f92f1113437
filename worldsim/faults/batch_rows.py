"""Batches row by row: reads and writes the values of some environments in a batch of all."""

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Mask
from worldsim.faults.trees import copied


def row_of(space: gym.Space[Any], batch: Any, row: int) -> Any:
    """The value of one environment in a batch of values of `space`. Arrays share memory with the batch."""
    if isinstance(space, spaces.Dict):
        return {key: row_of(inner, batch[key], row) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(row_of(inner, part, row) for inner, part in zip(space.spaces, batch, strict=True))
    value = batch[row]
    return np.asarray(value) if isinstance(space, spaces.Box) else value


def with_rows(space: gym.Space[Any], batch: Any, rows: Mapping[int, Any]) -> Any:
    """A batch with the values of some environments replaced; the batch itself is not written to."""
    if not rows:
        return batch
    if isinstance(space, spaces.Dict):
        parts = {key: with_rows(inner, batch[key], _inner(rows, key)) for key, inner in space.spaces.items()}
        changed = copy.copy(batch)
        changed.update(parts)
        return changed
    if isinstance(space, spaces.Tuple):
        numbered = enumerate(zip(space.spaces, batch, strict=True))
        return tuple(with_rows(inner, part, _inner(rows, key)) for key, (inner, part) in numbered)
    if isinstance(batch, tuple):
        return tuple(rows.get(row, value) for row, value in enumerate(batch))
    changed = batch.copy()
    changed[list(rows)] = list(rows.values())
    return changed


class Ragged(tuple[Any, ...]):
    """In the place of a batch, the values of N environments one by one: some of them fit into no array."""


def with_any_rows(space: gym.Space[Any], batch: Any, rows: Mapping[int, Any], count: int) -> Any:
    """Like `with_rows` for values that may be outside the space: `Ragged` of `count` where one fits into no array.

    Where values have another structure than the space, all that is below it is `Ragged`.
    """
    if not rows:
        return batch
    alike = _structured(space, rows)
    if alike and isinstance(space, spaces.Dict):
        changed = copy.copy(batch)
        changed.update(
            (key, with_any_rows(inner, batch[key], _inner(rows, key), count)) for key, inner in space.spaces.items()
        )
        return changed
    if alike and isinstance(space, spaces.Tuple):
        numbered = enumerate(zip(space.spaces, batch, strict=True))
        return tuple(with_any_rows(inner, part, _inner(rows, key), count) for key, (inner, part) in numbered)
    if alike and (isinstance(batch, tuple) or all(_fits(space, value, batch) for value in rows.values())):
        return with_rows(space, batch, rows)
    each = _each(space, batch, count)
    for row, value in rows.items():
        each[row] = value
    return Ragged(each)


def _each(space: gym.Space[Any], batch: Any, count: int) -> list[Any]:
    """The values of a batch one by one: `row_of` each."""
    if isinstance(space, spaces.Dict | spaces.Tuple) or (isinstance(space, spaces.Box) and not space.shape):
        return [row_of(space, batch, row) for row in range(count)]
    return list(batch)


def _structured(space: gym.Space[Any], rows: Mapping[int, Any]) -> bool:
    """Whether values have the parts that those of the space have."""
    if isinstance(space, spaces.Dict):
        return all(isinstance(value, Mapping) and value.keys() == space.spaces.keys() for value in rows.values())
    if isinstance(space, spaces.Tuple):
        return all(isinstance(value, tuple) and len(value) == len(space) for value in rows.values())
    return True


def _fits(space: gym.Space[Any], value: Any, column: NDArray[Any]) -> bool:
    """Whether a value can stand in an array and still be what it is."""
    if type(value) is int and isinstance(space, spaces.Discrete):
        return True
    is_array = isinstance(value, np.ndarray | np.generic)
    return is_array and value.dtype == column.dtype and value.shape == column.shape[1:]


def _inner(rows: Mapping[int, Any], key: Any) -> dict[int, Any]:
    return {row: value[key] for row, value in rows.items()}


def where_rows(space: gym.Space[Any], mask: Mask, one: Any, other: Any) -> Any:
    """A batch with the rows of `one` where mask, else those of `other`."""
    if isinstance(space, spaces.Dict):
        return {key: where_rows(inner, mask, one[key], other[key]) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(where_rows(inner, mask, *both) for inner, *both in zip(space.spaces, one, other, strict=True))
    if isinstance(one, tuple):
        return tuple(left if here else right for here, left, right in zip(mask.tolist(), one, other, strict=True))
    picked = other.copy()
    picked[mask] = one[mask]
    return picked


def copy_into(space: gym.Space[Any], old: Any, new: Any) -> Any:
    """A copy of the batch `new`, written into the arrays of `old`: fresh memory for frames costs more than copying."""
    if isinstance(space, spaces.Dict):
        return {key: copy_into(inner, old[key], new[key]) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(copy_into(inner, *both) for inner, *both in zip(space.spaces, old, new, strict=True))
    if isinstance(new, np.ndarray) and isinstance(old, np.ndarray) and (old.shape, old.dtype) == (new.shape, new.dtype):
        np.copyto(old, new)
        return old
    return copied(new)


def copy_rows(column: NDArray[Any], rows: NDArray[np.int64], into: NDArray[Any]) -> None:
    """Copy some rows of an array into another one. Where they are most, all are copied: half as much is moved."""
    others = np.ones(len(into), np.bool_)
    others[rows] = False
    if 2 * len(rows) > len(into):
        held = into[others]
        np.copyto(into, column)
        into[others] = held
    else:
        into[rows] = column[rows]


def merge_infos(mask: Mask, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Infos in Gymnasium's vector format: those of `one` where mask is true, else those of `other`."""
    result = {key: value for key, value in {**one, **other}.items() if f"_{key}" not in {**one, **other}}
    result = {key: value for key, value in result.items() if not key.startswith("_")}
    for key in [key for key in dict.fromkeys((*other, *one)) if f"_{key}" in other or f"_{key}" in one]:
        known = np.where(mask, one.get(f"_{key}", False), other.get(f"_{key}", False))
        if known.any():
            result[key], result[f"_{key}"] = _picked(mask, one.get(key), other.get(key)), known
    return result


def _picked(mask: Mask, one: Any, other: Any) -> Any:
    if isinstance(one, dict) or isinstance(other, dict):
        return merge_infos(mask, one or {}, other or {})
    like = one if other is None else other
    blank = np.full_like(like, None if like.dtype == object else 0)
    here, there = blank if one is None else one, blank if other is None else other
    return np.where(mask.reshape(-1, *[1] * (like.ndim - 1)), here, there)
