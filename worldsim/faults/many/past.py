"""What N environments were answered, or asked, lately: to be shown or done again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.leafwise import ABSENT, Values, alike, copied, differing
from worldsim.faults.many.payloads import Payloads, Rows, one_each
from worldsim.spaces import Leaf

Mask = NDArray[np.bool_]
Mix = Callable[[Any, Any], Any]  # a payload with parts of another one, as `Context.mixed` has it


class Past:
    """The last `depth` payloads of each of N environments, in the leaves that count.

    What stands in a batch is kept leaf by leaf in arrays (N, depth, ...); a payload that is apart is kept whole.
    `known`, (N,), says how many there have been since each environment's episode began.
    """

    def __init__(self, count: int, depth: int) -> None:
        self.known = np.zeros(count, np.int64)
        self._depth = depth
        self._leaves: Sequence[Leaf] = ()
        self._columns: dict[str, NDArray[Any]] = {}
        self._whole: dict[tuple[int, int], Any] = {}  # by environment and place

    def begin(self, rows: Rows) -> None:
        """Episodes of these environments begin, and nothing has been yet."""
        self.known[rows] = 0
        begun = set(rows.tolist()) if self._whole else ()
        self._whole = {place: payload for place, payload in self._whole.items() if place[0] not in begun}

    def add(self, rows: Rows, payloads: Payloads, leaves: Sequence[Leaf]) -> None:
        """These environments have one more payload, none of them lost; `leaves` are those that count."""
        self._leaves = leaves
        places = self.known[rows] % self._depth
        self.known[rows] += 1
        batched = payloads.batched(rows)
        if np.count_nonzero(batched):
            self._add_columns(rows[batched], places[batched], payloads)
            for place in zip(rows[batched].tolist(), places[batched].tolist(), strict=True) if self._whole else ():
                self._whole.pop(place, None)
        for row, place in zip(rows[~batched].tolist(), places[~batched].tolist(), strict=True):
            self._whole[row, place] = copied(payloads.payload(row))

    def _add_columns(self, rows: Rows, places: NDArray[np.int64], payloads: Payloads) -> None:
        for leaf in self._leaves:
            values = _column(payloads.values(leaf, rows))
            if leaf.name not in self._columns:
                shape = len(self.known), self._depth, *values.shape[1:]
                self._columns[leaf.name] = np.zeros(shape, values.dtype)
            self._columns[leaf.name][rows, places] = values

    def back(self, rows: Rows, payloads: Payloads, ages: NDArray[np.int64], mix: Mix) -> "Mixed":
        """These payloads with what was there `ages`, (n,), payloads ago: 0 is the last one that was added."""
        places = (self.known[rows] - 1 - ages) % self._depth
        batched = self._in_columns(rows, places, payloads)
        leaves = self._leaves if np.count_nonzero(batched) else ()
        columns = [self._columns[leaf.name][rows[batched], places[batched]] for leaf in leaves]
        alone = {}
        for at in np.flatnonzero(~batched).tolist():
            payload = payloads.payload(int(rows[at]))
            alone[at] = payload, mix(payload, self._payload(int(rows[at]), int(places[at]), payloads))
        return Mixed(rows, batched, self._leaves, columns, alone)

    def others(self, rows: Rows, payloads: Payloads, mix: Mix) -> Mask:
        """Which of the last `depth` would make other payloads of these, (n, depth): the newest first."""
        ages = np.arange(self._depth)
        here = ages < self.known[rows, None]
        places = (self.known[rows, None] - 1 - ages) % self._depth
        batched = self._in_columns(np.repeat(rows, self._depth), places.ravel(), payloads).reshape(here.shape).all(1)
        different = np.zeros_like(here)
        for leaf in self._leaves if np.count_nonzero(batched) else ():
            then = self._columns[leaf.name][rows[batched, None], places[batched]]
            now = np.repeat(_column(payloads.values(leaf, rows[batched])), self._depth, 0)
            different[batched] |= _differing(now, then.reshape(now.shape)).reshape(-1, self._depth)
        for at in np.flatnonzero(~batched).tolist():
            payload = payloads.payload(int(rows[at]))
            each = (self._payload(int(rows[at]), place, payloads) for place in places[at, : here[at].sum()].tolist())
            different[at, : here[at].sum()] = [not alike(payload, mix(payload, then)) for then in each]
        return different & here

    def repeat(self, rows: Rows, payloads: Payloads) -> None:
        """Put the last ones, as they were, in the place of the payloads."""
        self.back(rows, payloads, np.zeros(len(rows), np.int64), unmixed).write(np.ones(len(rows), np.bool_), payloads)

    def _in_columns(self, rows: Rows, places: NDArray[np.int64], payloads: Payloads) -> Mask:
        """Which of these places, (n,), and of the payloads there are now, stand in batches."""
        batched = payloads.batched(rows)
        if self._whole:
            kept = zip(rows.tolist(), places.tolist(), strict=True)
            batched &= np.fromiter((place not in self._whole for place in kept), np.bool_, len(rows))
        return batched

    def _payload(self, row: int, place: int, payloads: Payloads) -> Any:
        """One of the payloads; of one that stood in a batch the leaves that count."""
        if (row, place) in self._whole:
            return self._whole[row, place]
        known = {leaf.path: _value(leaf, self._columns[leaf.name][row, place]) for leaf in self._leaves}
        return _built(payloads.space, (), known)

    def __deepcopy__(self, memo: Any) -> "Past":
        other = Past(len(self.known), self._depth)
        other.known, other._leaves = self.known.copy(), self._leaves
        other._columns = {name: column.copy() for name, column in self._columns.items()}
        other._whole = copied(self._whole)
        return other


class Mixed:
    """Payloads as they would be with parts of others: n of them, in columns where they stand in a batch."""

    def __init__(
        self, rows: Rows, batched: Mask, leaves: Sequence[Leaf], columns: list[NDArray[Any]], alone: dict[int, Any]
    ) -> None:
        self._rows, self._batched, self._leaves, self._columns, self._alone = rows, batched, leaves, columns, alone

    def differ(self, payloads: Payloads) -> Mask:
        """Which of them, (n,), are others than the payloads are now."""
        different = np.zeros(len(self._rows), np.bool_)
        for leaf, column in zip(self._leaves, self._columns, strict=False):
            values = payloads.values(leaf, self._rows[self._batched])
            different[self._batched] |= _differing(values, column)
        for at, (now, then) in self._alone.items():
            different[at] = not alike(now, then)
        return different

    def write(self, which: Mask, payloads: Payloads) -> None:
        """Put some of them, (n,), in the place of the payloads."""
        columns, wanted = which & self._batched, which[self._batched]
        for leaf, column in zip(self._leaves, self._columns, strict=False) if np.count_nonzero(columns) else ():
            payloads.write(leaf, self._rows[columns], _listed(column[wanted]))
        for at, (_, then) in self._alone.items():
            if which[at]:
                payloads.apart[int(self._rows[at])] = then


def unmixed(now: Any, then: Any) -> Any:
    """All of a payload as it was then."""
    return copied(then)


def _column(values: Values) -> NDArray[Any]:
    return values if isinstance(values, np.ndarray) else one_each(map(copied, values), len(values))


def _differing(values: Values, column: NDArray[Any]) -> Mask:
    if column.dtype != object:
        return differing(values, column)
    return np.array([not alike(*both) for both in zip(values, column.tolist(), strict=True)], np.bool_)


def _value(leaf: Leaf, value: Any) -> Any:
    """A value of a column as it stands in a payload of its own."""
    return np.asarray(value) if isinstance(leaf.space, spaces.Box) else value


def _built(space: gym.Space[Any], path: tuple[str | int, ...], known: Mapping[tuple[str | int, ...], Any]) -> Any:
    """A payload of a space with the leaves that are known, and ABSENT in the place of others."""
    if isinstance(space, spaces.Dict):
        return {key: _built(inner, (*path, key), known) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_built(inner, (*path, at), known) for at, inner in enumerate(space.spaces))
    return known.get(path, ABSENT)


def _listed(column: NDArray[Any]) -> Values:
    """Values that are none of arrays as a list again."""
    return column.tolist() if column.dtype == object else column
