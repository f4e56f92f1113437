"""Calls of many environments at once, and what came back to them: columns, a row an environment."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.batches import row_of, with_any_rows, with_rows
from worldsim.faults.exchange import LOST, Call, Reply
from worldsim.faults.leafwise import Values
from worldsim.spaces import Leaf

Rows = NDArray[np.int64]  # numbers of environments, ascending


class Calls(NamedTuple):
    """One call of each of some environments."""

    rows: Rows
    tools: NDArray[np.int64]  # (N,) what each environment calls: positions in `names`
    names: Sequence[str]
    numbers: NDArray[np.int64]  # (N,) the calls' numbers in their episodes
    arguments: Callable[[int], Mapping[str, Any]]  # of an environment's call
    changed: Mapping[int, Call]  # what a fault has put in the place of an environment's call

    def of(self, row: int) -> Call:
        """The call of one environment."""
        if row in self.changed:
            return self.changed[row]
        return Call(self.names[self.tools[row]], self.arguments(row), int(self.numbers[row]))

    def only(self, rows: Rows, changed: Mapping[int, Call]) -> "Calls":
        """The calls of some of these environments, some of them changed."""
        return self._replace(rows=rows, changed={**self.changed, **changed})


class Replies:
    """What came back to N environments: a batch of payloads, and a column for each field of `Reply`.

    The batch that is given is never written to.

    space: of one payload. batch: of payloads, as Gymnasium's vector environments batch them.
    tidy: payloads that faults touch stay inside their space, so that they can go back into the batch.
    apart: payloads that are not those of the batch.
    """

    def __init__(
        self,
        count: int,
        space: gym.Space[Any] | None = None,
        batch: Any = None,
        tidy: bool = False,
        apart: dict[int, Any] | None = None,
    ) -> None:
        self.ok = np.ones(count, np.bool_)
        self.error = np.full(count, None, object)
        self.retry_after_s = np.full(count, np.nan)  # NaN: nothing is said
        self.latency_s = np.zeros(count)
        self.raws: dict[int, str] = {}  # of those that could not be read
        self.apart: dict[int, Any] = {} if apart is None else apart
        self.batch = batch
        self._space, self._tidy = space, tidy
        self._own: set[tuple[str | int, ...]] = set()  # columns of the batch that are copies

    @classmethod
    def single(cls, reply: Reply) -> "Replies":
        """One reply, apart from any batch."""
        replies = cls(1)
        replies.put(0, reply)
        return replies

    def payload(self, row: int) -> Any:
        """The payload of one reply, LOST where none came. Arrays share memory with the batch."""
        if not self.ok[row]:
            return LOST
        return self.apart[row] if row in self.apart else row_of(self.space, self.batch, row)

    def of(self, row: int) -> Reply:
        """The reply to one environment."""
        retry_after_s = float(self.retry_after_s[row])
        return Reply(
            self.payload(row),
            bool(self.ok[row]),
            self.error[row],
            None if np.isnan(retry_after_s) else retry_after_s,
            float(self.latency_s[row]),
            self.raws.get(row),
        )

    def put(self, row: int, reply: Reply) -> None:
        """Give an environment another reply."""
        self.ok[row], self.error[row], self.latency_s[row] = reply.payload is not LOST, reply.error, reply.latency_s
        self.raws.pop(row, None)
        if reply.raw is not None:
            self.raws[row] = reply.raw
        self.retry_after_s[row] = np.nan if reply.retry_after_s is None else reply.retry_after_s
        self.apart[row] = reply.payload

    def lose(self, rows: Sequence[int] | Rows, error: str | None, raw: str | None = None) -> None:
        """No payload comes back to these environments, but an error, and perhaps a text that cannot be read."""
        self.ok[rows], self.error[rows], self.retry_after_s[rows] = False, error, np.nan
        if raw is not None:
            self.raws.update((int(row), raw) for row in rows)
        elif self.raws:
            self.raws = {row: text for row, text in self.raws.items() if row not in rows}

    def garble(self, rows: Rows, texts: Sequence[str]) -> None:
        """Texts come back to these environments, one to each, that cannot be read."""
        self.lose(rows, "malformed")
        self.raws.update(zip(rows.tolist(), texts, strict=True))

    def values(self, leaf: Leaf, rows: Rows) -> Values:
        """What stands in a leaf of the payloads of these environments, none of them lost; not to be written to."""
        self.settle()
        column, apart = leafwise.get(self.batch, leaf.path), self.apart
        if apart and not apart.keys().isdisjoint(rows.tolist()):
            return [
                leafwise.read(apart[row], leaf) if row in apart else row_of(leaf.space, column, row)
                for row in rows.tolist()
            ]
        if isinstance(column, np.ndarray):
            return column if len(rows) == len(column) else column[rows]
        return [column[row] for row in rows.tolist()]

    def write(self, leaf: Leaf, rows: Rows, values: Values) -> None:
        """Put other values into a leaf of the payloads of these environments."""
        column = leafwise.get(self.batch, leaf.path)
        if not self.apart and leafwise.belong(values, column):
            self._write_column(leaf, column, rows, values)
            return
        stay = self.inside(rows) & _fitting(values, column)
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
            listed = list(column)
            for row, value in zip(rows.tolist(), values, strict=True):
                listed[row] = value
            self.batch = leafwise.put(self.batch, leaf.path, tuple(listed))
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

    def inside(self, rows: Rows) -> NDArray[np.bool_]:
        """Which of these environments, (n,), have their payloads in the batch."""
        apart = self.apart
        return (
            np.array([row not in apart for row in rows.tolist()], np.bool_) if apart else np.ones(len(rows), np.bool_)
        )

    @property
    def space(self) -> gym.Space[Any]:
        """Of one payload of the batch."""
        assert self._space is not None, "there is no batch"
        return self._space

    def having(self, leaf: Leaf, rows: Rows) -> Rows:
        """Those of these environments whose payloads have such a leaf."""
        if self.apart.keys().isdisjoint(rows.tolist()):
            return rows
        return rows[[leafwise.get(self.payload(row), leaf.path) is not leafwise.ABSENT for row in rows.tolist()]]

    def settle(self) -> None:
        """Take what is apart back into the batch, where payloads are tidy."""
        if self._tidy and self.apart:
            self.batch, self.apart = with_rows(self.space, self.batch, self.arrived), {}

    @property
    def arrived(self) -> dict[int, Any]:
        """Of the payloads that are apart those that were not lost."""
        return {row: payload for row, payload in self.apart.items() if self.ok[row]}

    def settled(self) -> Any:
        """The whole batch, with `Apart` for what fits into no array; the rows of lost replies mean nothing."""
        self.settle()
        return with_any_rows(self.space, self.batch, self.arrived, len(self.ok)) if self.apart else self.batch


def _fitting(values: Values, column: Any) -> NDArray[np.bool_]:
    """Which values can stand in a column and still be what they are."""
    if isinstance(values, np.ndarray):
        return np.full(len(values), leafwise.belong(values, column))
    if isinstance(column, tuple):
        return np.array([isinstance(value, str) for value in values], np.bool_)
    arrays = [np.asarray(value)[None] if isinstance(value, np.ndarray | np.generic) else [value] for value in values]
    return np.array([leafwise.belong(each, column) for each in arrays], np.bool_)
