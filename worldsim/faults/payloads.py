"""Payloads of N sessions: a batch, and beside it the payloads of single sessions that override their rows of it.

A vector of environments answers with a batch, whose leaves are columns: faults change those with arrays. What a plain
tool answers, and what a fault has made of a reply that fits into no array any more, is an override.
"""

import copy
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.faults import columns, trees
from worldsim.faults.arrays import Rows
from worldsim.faults.batch_rows import copy_rows, row_of, with_any_rows, with_rows
from worldsim.faults.columns import Values
from worldsim.spaces import Leaf


class Payloads:
    """What N sessions are answered, or ask. The batch that is given is never written to.

    count: N. space: of one payload. batch: of payloads, as Gymnasium's vector environments batch them.
    in_space: payloads that faults touch stay inside their space, so overrides can be merged into the batch.
    overrides: by row, payloads that count instead of those of the batch; all of them where there is none.
    """

    def __init__(
        self,
        count: int,
        space: gym.Space[Any] | None = None,
        batch: Any = None,
        in_space: bool = False,
        overrides: dict[int, Any] | None = None,
    ) -> None:
        self.count = count
        self.batch, self.overrides = batch, {} if overrides is None else overrides
        self._space, self._in_space = space, in_space
        self._copied_columns: set[trees.TreePath] = set()  # columns of the batch that are copies

    @property
    def space(self) -> gym.Space[Any]:
        """Of one payload."""
        assert self._space is not None, "there is no batch"
        return self._space

    def payload(self, row: int) -> Any:
        """That of one session. Arrays share memory with the batch."""
        return self.overrides[row] if row in self.overrides else row_of(self.space, self.batch, row)

    def in_batch(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these payloads, (n,), stand in the batch."""
        self.merge()
        if not self.overrides:
            return np.ones(len(rows), np.bool_)
        if self.batch is None:
            return np.zeros(len(rows), np.bool_)
        found = np.ones(self.count, np.bool_)
        found[list(self.overrides)] = False
        return found[rows]

    def values(self, leaf: Leaf, rows: Rows) -> Values:
        """What stands in a leaf of the payloads of these sessions, none of them lost; not to be written to."""
        self.merge()
        overrides = self.overrides
        if overrides and self.batch is None:
            return [trees.read(overrides[row], leaf) for row in rows.tolist()]
        column = trees.get(self.batch, leaf.path)
        if not self._all_in_batch(rows):
            return [
                trees.read(overrides[row], leaf) if row in overrides else row_of(leaf.space, column, row)
                for row in rows.tolist()
            ]
        if isinstance(column, np.ndarray):
            return column if len(rows) == len(column) else column[rows]
        return [column[row] for row in rows.tolist()]

    def write(self, leaf: Leaf, rows: Rows, values: Values) -> None:
        """Put other values into a leaf of the payloads of these sessions."""
        self.merge()
        column = trees.get(self.batch, leaf.path)
        if not self.overrides and columns.fit_column(values, column):
            self._write_column(leaf, column, rows, values)
            return
        stay = self.in_batch(rows) & _fitting(values, column)
        staying, going = np.flatnonzero(stay), np.flatnonzero(~stay)
        if len(staying):
            self._write_column(leaf, column, rows[staying], columns.select(values, staying))
        values = columns.select(values, going)
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = values.copy()
        for row, value in zip(rows[going].tolist(), columns.one_by_one(leaf, values), strict=True):
            self.overrides[row] = trees.write(self.payload(row), leaf, value)

    def _write_column(self, leaf: Leaf, column: Any, rows: Rows, values: Values) -> None:
        """Put other values into a leaf of the batch, in which they fit."""
        if isinstance(column, tuple):
            texts = with_rows(leaf.space, column, dict(zip(rows.tolist(), values, strict=True)))
            self.batch = trees.put(self.batch, leaf.path, texts)
            return
        whole = np.asarray(values)
        if len(rows) == len(column):
            whole = whole if whole.flags.writeable else whole.copy()
            self.batch = trees.put(self.batch, leaf.path, whole)
            self._copied_columns.discard(leaf.path)
            return
        if leaf.path not in self._copied_columns:
            column = column.copy()
            self.batch = trees.put(self.batch, leaf.path, column)
            self._copied_columns.add(leaf.path)
        column[rows] = whole

    def rows_with_leaf(self, leaf: Leaf, rows: Rows) -> Rows:
        """Those of these sessions whose payloads have such a leaf."""
        if self._all_in_batch(rows):
            return rows
        return rows[[trees.get(self.payload(row), leaf.path) is not trees.ABSENT for row in rows.tolist()]]

    def merge(self) -> None:
        """Take overrides into the batch, where payloads stay in their space."""
        if self._in_space and self.overrides and self.batch is not None:
            self.batch, self.overrides = with_rows(self.space, self.batch, self.arrived), {}

    @property
    def arrived(self) -> dict[int, Any]:
        """Of the overrides those that were not lost."""
        return self.overrides

    def stacked(self) -> Any:
        """The whole batch, with `Ragged` for what fits into no array; the rows of lost replies mean nothing."""
        self.merge()
        return with_any_rows(self.space, self.batch, self.arrived, self.count) if self.overrides else self.batch

    def copy(self) -> "Payloads":
        """The same, to be written to by itself."""
        other = copy.copy(self)
        other.overrides, other._copied_columns = dict(self.overrides), set()
        return other

    def copy_leaf(self, leaf: Leaf, rows: Rows, into: NDArray[Any]) -> None:
        """Copy a leaf of the payloads of these sessions, none of them lost, into an array (N, ...), if it fits."""
        self.merge()
        for row in self.overrides.keys() & rows.tolist() if self.overrides else ():
            value = trees.get(self.overrides[row], leaf.path)
            if isinstance(value, np.ndarray) and columns.fit_column(value[None], into):
                into[row] = value
        column = trees.get(self.batch, leaf.path)
        if isinstance(column, np.ndarray) and columns.fit_column(column, into):
            copy_rows(column, np.setdiff1d(rows, list(self.overrides)) if self.overrides else rows, into)

    def _all_in_batch(self, rows: Rows) -> bool:
        return not self.overrides or self.overrides.keys().isdisjoint(rows.tolist())


def _fitting(values: Values, column: Any) -> NDArray[np.bool_]:
    """Which values can stand in a column and still be what they are."""
    if column is trees.ABSENT or column is None:
        return np.zeros(len(values), np.bool_)
    if isinstance(values, np.ndarray):
        return np.full(len(values), columns.fit_column(values, column))
    if isinstance(column, tuple):
        return np.array([isinstance(value, str) for value in values], np.bool_)
    arrays = [np.asarray(value)[None] if isinstance(value, np.ndarray | np.generic) else [value] for value in values]
    return np.array([columns.fit_column(each, column) for each in arrays], np.bool_)


def object_array(values: Iterable[Any], count: int) -> NDArray[np.object_]:
    """So many values of any kind as an array (count,) of objects."""
    return np.fromiter(values, object, count)
