"""Payloads of N environments: a batch, and beside it those that are apart because they fit into no array."""

import copy
from collections.abc import Iterable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.leafwise import Values
from worldsim.faults.many.batches import copy_rows, row_of, with_any_rows, with_rows
from worldsim.spaces import Leaf

Rows = NDArray[np.int64]  # numbers of environments, ascending


class Payloads:
    """What N environments answer or are asked. The batch that is given is never written to.

    count: N. space: of one payload. batch: of payloads, as Gymnasium's vector environments batch them.
    tidy: payloads that faults touch stay inside their space, so that they can go back into the batch.
    apart: payloads that are not those of the batch; all of them where there is none.
    """

    def __init__(
        self,
        count: int,
        space: gym.Space[Any] | None = None,
        batch: Any = None,
        tidy: bool = False,
        apart: dict[int, Any] | None = None,
    ) -> None:
        self.count = count
        self.batch, self.apart = batch, {} if apart is None else apart
        self._space, self._tidy = space, tidy
        self._own: set[tuple[str | int, ...]] = set()  # columns of the batch that are copies

    @property
    def space(self) -> gym.Space[Any]:
        """Of one payload."""
        assert self._space is not None, "there is no batch"
        return self._space

    def payload(self, row: int) -> Any:
        """That of one environment. Arrays share memory with the batch."""
        return self.apart[row] if row in self.apart else row_of(self.space, self.batch, row)

    def batched(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these payloads, (n,), stand in the batch."""
        self.settle()
        if not self.apart:
            return np.ones(len(rows), np.bool_)
        batched = np.ones(self.count, np.bool_)
        batched[list(self.apart)] = False
        return batched[rows]

    def values(self, leaf: Leaf, rows: Rows) -> Values:
        """What stands in a leaf of the payloads of these environments, none of them lost; not to be written to."""
        self.settle()
        column, apart = leafwise.get(self.batch, leaf.path), self.apart
        if not self._in_batch(rows):
            return [
                leafwise.read(apart[row], leaf) if row in apart else row_of(leaf.space, column, row)
                for row in rows.tolist()
            ]
        if isinstance(column, np.ndarray):
            return column if len(rows) == len(column) else column[rows]
        return [column[row] for row in rows.tolist()]

    def write(self, leaf: Leaf, rows: Rows, values: Values) -> None:
        """Put other values into a leaf of the payloads of these environments."""
        self.settle()
        column = leafwise.get(self.batch, leaf.path)
        if not self.apart and leafwise.belong(values, column):
            self._write_column(leaf, column, rows, values)
            return
        stay = self.batched(rows) & _fitting(values, column)
        staying, going = np.flatnonzero(stay), np.flatnonzero(~stay)
        if len(staying):
            self._write_column(leaf, column, rows[staying], leafwise.some(values, staying))
        values = leafwise.some(values, going)
        if isinstance(values, np.ndarray) and not values.flags.writeable:
            values = values.copy()
        for row, value in zip(rows[going].tolist(), leafwise.one_by_one(leaf, values), strict=True):
            self.apart[row] = leafwise.write(self.payload(row), leaf, value)

    def _write_column(self, leaf: Leaf, column: Any, rows: Rows, values: Values) -> None:
        """Put other values into a leaf of the batch, in which they fit."""
        if isinstance(column, tuple):
            texts = with_rows(leaf.space, column, dict(zip(rows.tolist(), values, strict=True)))
            self.batch = leafwise.put(self.batch, leaf.path, texts)
            return
        whole = np.asarray(values)
        if len(rows) == len(column):
            whole = whole if whole.flags.writeable else whole.copy()
            self.batch = leafwise.put(self.batch, leaf.path, whole)
            self._own.discard(leaf.path)
            return
        if leaf.path not in self._own:
            column = column.copy()
            self.batch = leafwise.put(self.batch, leaf.path, column)
            self._own.add(leaf.path)
        column[rows] = whole

    def having(self, leaf: Leaf, rows: Rows) -> Rows:
        """Those of these environments whose payloads have such a leaf."""
        if self._in_batch(rows):
            return rows
        return rows[[leafwise.get(self.payload(row), leaf.path) is not leafwise.ABSENT for row in rows.tolist()]]

    def settle(self) -> None:
        """Take what is apart back into the batch, where payloads are tidy."""
        if self._tidy and self.apart:
            self.batch, self.apart = with_rows(self.space, self.batch, self.arrived), {}

    @property
    def arrived(self) -> dict[int, Any]:
        """Of the payloads that are apart those that were not lost."""
        return self.apart

    def settled(self) -> Any:
        """The whole batch, with `Apart` for what fits into no array; the rows of lost replies mean nothing."""
        self.settle()
        return with_any_rows(self.space, self.batch, self.arrived, self.count) if self.apart else self.batch

    def copy(self) -> "Payloads":
        """The same, to be written to by itself."""
        other = copy.copy(self)
        other.apart, other._own = dict(self.apart), set()
        return other

    def keep(self, leaf: Leaf, rows: Rows, kept: NDArray[Any]) -> None:
        """Copy a leaf of the payloads of these environments, none of them lost, into `kept`, (N, ...), if it fits."""
        self.settle()
        for row in self.apart.keys() & rows.tolist() if self.apart else ():
            value = leafwise.get(self.apart[row], leaf.path)
            if isinstance(value, np.ndarray) and leafwise.belong(value[None], kept):
                kept[row] = value
        column = leafwise.get(self.batch, leaf.path)
        if isinstance(column, np.ndarray) and leafwise.belong(column, kept):
            copy_rows(column, np.setdiff1d(rows, list(self.apart)) if self.apart else rows, kept)

    def _in_batch(self, rows: Rows) -> bool:
        """Whether none of these payloads is apart."""
        return not self.apart or self.apart.keys().isdisjoint(rows.tolist())


def _fitting(values: Values, column: Any) -> NDArray[np.bool_]:
    """Which values can stand in a column and still be what they are."""
    if isinstance(values, np.ndarray):
        return np.full(len(values), leafwise.belong(values, column))
    if isinstance(column, tuple):
        return np.array([isinstance(value, str) for value in values], np.bool_)
    arrays = [np.asarray(value)[None] if isinstance(value, np.ndarray | np.generic) else [value] for value in values]
    return np.array([leafwise.belong(each, column) for each in arrays], np.bool_)


def one_each(values: Iterable[Any], count: int) -> NDArray[np.object_]:
    """So many values of any kind as an array (count,) of objects."""
    return np.fromiter(values, object, count)
