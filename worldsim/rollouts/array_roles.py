"""Infers the observation space or the action space from plain arrays, and converts their rows to values of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.errors import DatasetError, SpaceMismatchError
from worldsim.rollouts import conversions
from worldsim.rollouts.array_files import NUMBERS, ArrayColumn
from worldsim.rollouts.conventions import KeyPath, chunks
from worldsim.rollouts.conversions import ColumnStatistics, Conversion
from worldsim.spaces import Space, leaves


@dataclass
class ArrayRole:
    """The arrays of all groups that make up the observation, or the action: their statistics and their space."""

    name: str  # "observation" or "action"
    found: dict[KeyPath, ColumnStatistics] = field(default_factory=dict)
    named: dict[KeyPath, str] = field(default_factory=dict)  # where each array was first found
    conversions: dict[KeyPath, Conversion] = field(default_factory=dict)

    def inspect(self, columns: Mapping[KeyPath, ArrayColumn], edges: NDArray[np.bool_]) -> None:
        """Adds the columns of another group to the statistics. edges: rows that are ignored where they are all zeros.

        Raises DatasetError where arrays are missing, not numeric, or differ in shape or type from earlier groups.
        """
        first = not self.found
        for place, column in columns.items():
            if column.dtype.kind not in NUMBERS:
                raise column.error(f"is of type {column.dtype}", "numbers are needed; save it as an array of numbers")
            if not first and place not in self.found:
                raise column.error(f"is in no file before, such as {self._example()}", "give files of the same arrays")
            found = self.found.setdefault(place, ColumnStatistics(column.shape[1:], column.dtype))
            self.named.setdefault(place, column.where)
            if (column.shape[1:], column.dtype) != (found.shape, found.dtype):
                raise column.error(
                    f"has rows of {column.dtype} {column.shape[1:]}, and {self.named[place]} has "
                    f"{found.dtype} {found.shape}",
                    "give files of the same arrays",
                )
            if self._matters(found):  # not for frames: reading terabytes of them would add nothing
                for begin, end in chunks(column):
                    rows = column.rows(begin, end)
                    check_finite(column, rows, begin)
                    found.add(rows[~(edges[begin:end] & _zeros(rows))] if edges.any() else rows)
        for place, where in self.named.items():
            if place not in columns:
                raise DatasetError(
                    f"{next(iter(columns.values())).where} stands alone, without {where.split(': ')[-1]}"
                )

    def _example(self) -> str:
        return next(iter(self.named.values()))

    def _matters(self, found: ColumnStatistics) -> bool:
        """Whether the space depends on the values: for floats that may be images, single integers and actions."""
        floats = found.dtype.kind == "f" and conversions.may_be_picture(found.shape)
        return self.name == "action" or floats or (found.dtype.kind in "iu" and not found.shape)

    def space(self, given: Space | None, env: str) -> Space:
        """The inferred space; or `given`, the space of the environment `env`, if the arrays fit it.

        Raises SpaceMismatchError where they do not.
        """
        make = conversions.observation_conversion if self.name == "observation" else conversions.action_conversion
        self.conversions = {place: make(found) for place, found in self.found.items()}
        if given is None:
            return _nested({place: conversion.space for place, conversion in self.conversions.items()})
        wanted = {tuple(map(str, leaf.path)): leaf.space for leaf in leaves(given)}
        if wanted.keys() != self.found.keys():
            names = [" and ".join("/".join(place) or "one array" for place in each) for each in (wanted, self.found)]
            raise SpaceMismatchError(
                f"the {self.name} of env {env} has {names[0]}, the arrays have {names[1]}; name those that it has: "
                f"keys.{self.name}=..., or spaces=arrays"
            )
        for place, found in self.found.items():
            fitting = conversions.conversion_to(wanted[place], self.conversions[place], found)
            if fitting is None:
                raise SpaceMismatchError(
                    f"{self.named[place]} has rows of {found.dtype} {found.shape}, and env {env} has {wanted[place]} "
                    "there; give the env of these arrays with its env.resize and env.kwargs, or spaces=arrays"
                )
            self.conversions[place] = fitting
        return given

    def values(self, place: KeyPath, column: ArrayColumn, rows: slice) -> NDArray[Any]:
        """Rows of a column as values of the space. Raises DatasetError, naming the index, where one is outside."""
        read = column.rows(rows.start, rows.stop)
        check_finite(column, read, rows.start)
        conversion = self.conversions[place]
        made = conversion.change(read)
        low, high = _bounds(conversion.space)
        if low is not None:
            outside = ((made < low) | (made > high)).reshape(len(made), -1).any(1)
            if outside.any():
                index = rows.start + int(outside.argmax())
                fix = "mend the data, or give spaces=arrays"
                raise column.error(f"is outside {conversion.space} at index {index}", fix)
        return made


def check_finite(column: ArrayColumn, rows: NDArray[Any], begin: int) -> None:
    """Raises DatasetError with the first row of NaN or an infinity. begin: the index of the first row."""
    if rows.dtype.kind == "f":
        bad = ~np.isfinite(rows).reshape(len(rows), -1).all(1)
        if bad.any():
            raise column.error(f"has NaN or an infinity at index {begin + int(bad.argmax())}", "mend the data")


def _zeros(rows: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray((rows.reshape(len(rows), -1) == 0).all(1))


def _bounds(space: Space) -> tuple[Any, Any]:
    """Least and greatest values of a space; None where every value of its type is a member."""
    if isinstance(space, spaces.Box):
        every = space.dtype == np.uint8 and space.low.min() == 0 and space.high.max() == 255
        return (None, None) if every else (space.low, space.high)
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1


def _nested(parts: Mapping[KeyPath, Space]) -> Space:
    """Nested Dicts of the spaces, by their key paths; a single space with an empty path is returned as it is."""
    if () in parts:
        return parts[()]
    inner: dict[str, dict[KeyPath, Space]] = {}
    for place, space in parts.items():
        inner.setdefault(place[0], {})[place[1:]] = space
    return spaces.Dict([(key, _nested(each)) for key, each in inner.items()])
