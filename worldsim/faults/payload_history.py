"""The last payloads of replies or calls, in ring buffers, so that they can be replayed."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Mask, Rows
from worldsim.faults.columns import Values, differing
from worldsim.faults.payloads import Payloads, object_array
from worldsim.faults.trees import ABSENT, TreePath, alike, copied
from worldsim.spaces import Leaf

Combine = Callable[[Any, Any], Any]  # a payload with leaves of another one, as `AffectedCalls.combine` has it
MIN_BUFFERS = 1024  # named ones that are kept at least, before the oldest is used again


class PayloadHistory:
    """Ring buffers of the last `depth` payloads, in the leaves that a fault may change.

    A buffer holds what belongs together: all replies of a session, or its replies to one and the same request. Payloads
    in a batch are kept leaf by leaf in arrays (buffers, depth, ...), overrides as whole objects. `counts`, (buffers,):
    how many payloads were added to each.

    Each session has a buffer, and may have more by name; when there are too many named ones the oldest are dropped.
    """

    def __init__(self, count: int, depth: int) -> None:
        self.counts = np.zeros(count, np.int64)
        self._count, self._depth = count, depth
        self._leaves: Sequence[Leaf] = ()
        self._columns: dict[str, NDArray[Any]] = {}
        self._whole: dict[tuple[int, int], Any] = {}  # by buffer and slot
        self._buffers: OrderedDict[tuple[int, Hashable], int] = OrderedDict()
        self._buffers_of: dict[int, list[int]] = {}  # by session

    def buffers(self, rows: Rows, names: Sequence[Hashable] | None) -> Rows:
        """The buffers of these sessions, (n,): each session's own, or the one of that name."""
        if names is None:
            return rows
        return np.array([self._buffer(row, name) for row, name in zip(rows.tolist(), names, strict=True)], np.int64)

    def _buffer(self, row: int, name: Hashable) -> int:
        buffer = self._buffers.get((row, name))
        if buffer is None:
            if len(self._buffers) >= max(MIN_BUFFERS, 64 * self._count):
                (owner, _), buffer = self._buffers.popitem(last=False)
                self._buffers_of[owner].remove(buffer)
                self._clear(np.array([buffer]))
            else:
                buffer = len(self.counts)
                self.counts = np.append(self.counts, 0)
            self._buffers[row, name] = buffer
            self._buffers_of.setdefault(row, []).append(buffer)
        return buffer

    def _make_room(self) -> None:
        """Let columns be as long as there are buffers; they grow by doubling."""
        for name, column in self._columns.items():
            if len(column) < len(self.counts):
                self._columns[name] = np.concatenate(
                    [column, np.zeros((len(self.counts), *column.shape[1:]), column.dtype)]
                )

    def begin(self, rows: Rows) -> None:
        """Sessions begin: empty their buffers."""
        mine = [buffer for row in rows.tolist() if row in self._buffers_of for buffer in self._buffers_of[row]]
        self._clear(np.concatenate([rows, np.array(mine, np.int64)]) if mine else rows)

    def _clear(self, buffers: Rows) -> None:
        self.counts[buffers] = 0
        if self._whole:
            gone = set(buffers.tolist())
            self._whole = {slot: payload for slot, payload in self._whole.items() if slot[0] not in gone}

    def add(self, buffers: Rows, rows: Rows, payloads: Payloads, leaves: Sequence[Leaf]) -> None:
        """Add the payloads of sessions, none of them lost, one to each buffer. leaves: those that are kept."""
        self._leaves = leaves
        slots = self.counts[buffers] % self._depth
        self.counts[buffers] += 1
        batched = payloads.in_batch(rows)
        if np.count_nonzero(batched):
            self._add_columns(buffers[batched], slots[batched], rows[batched], payloads)
            for slot in zip(buffers[batched].tolist(), slots[batched].tolist(), strict=True) if self._whole else ():
                self._whole.pop(slot, None)
        outside = ~batched
        if np.count_nonzero(outside):
            at = zip(buffers[outside].tolist(), slots[outside].tolist(), rows[outside].tolist(), strict=True)
            for buffer, slot, row in at:
                self._whole[buffer, slot] = copied(payloads.payload(row))

    def _add_columns(self, buffers: Rows, slots: Rows, rows: Rows, payloads: Payloads) -> None:
        self._make_room()
        for leaf in self._leaves:
            values = _column(payloads.values(leaf, rows))
            if leaf.name not in self._columns:
                shape = len(self.counts), self._depth, *values.shape[1:]
                self._columns[leaf.name] = np.zeros(shape, values.dtype)
            self._columns[leaf.name][buffers, slots] = values

    def look_back(
        self, buffers: Rows, rows: Rows, payloads: Payloads, ages: NDArray[np.int64], combine: Combine
    ) -> "CombinedPayloads":
        """The payloads of these sessions, with the leaves of `ages`, (n,), payloads ago: 0 is the last one added."""
        slots = (self.counts[buffers] - 1 - ages) % self._depth
        batched = self._in_columns(buffers, slots, rows, payloads)
        leaves = self._leaves if np.count_nonzero(batched) else ()
        values = [self._columns[leaf.name][buffers[batched], slots[batched]] for leaf in leaves]
        single = {}
        for at in np.flatnonzero(~batched).tolist():
            payload = payloads.payload(int(rows[at]))
            single[at] = payload, combine(payload, self._payload(int(buffers[at]), int(slots[at]), payloads))
        return CombinedPayloads(rows, batched, self._leaves, values, single)

    def differing_from(self, buffers: Rows, rows: Rows, payloads: Payloads, combine: Combine) -> Mask:
        """Which of the last `depth` payloads would change these, (n, depth): the newest first."""
        ages = np.arange(self._depth)
        here = ages < self.counts[buffers, None]
        slots = (self.counts[buffers, None] - 1 - ages) % self._depth
        every = np.repeat(buffers, self._depth), slots.ravel(), np.repeat(rows, self._depth)
        batched = self._in_columns(*every, payloads).reshape(here.shape).all(1)
        different = np.zeros_like(here)
        for leaf in self._leaves if np.count_nonzero(batched) else ():
            then = self._columns[leaf.name][buffers[batched, None], slots[batched]]
            now = np.repeat(_column(payloads.values(leaf, rows[batched])), self._depth, 0)
            different[batched] |= _differing(now, then.reshape(now.shape)).reshape(-1, self._depth)
        for at in np.flatnonzero(~batched).tolist():
            payload = payloads.payload(int(rows[at]))
            each = (self._payload(int(buffers[at]), slot, payloads) for slot in slots[at, : here[at].sum()].tolist())
            different[at, : here[at].sum()] = [not alike(payload, combine(payload, then)) for then in each]
        return different & here

    def write_last(self, buffers: Rows, rows: Rows, payloads: Payloads) -> None:
        """Replace payloads by the last ones of the buffers."""
        last = self.look_back(buffers, rows, payloads, np.zeros(len(rows), np.int64), replace_whole)
        last.write(np.ones(len(rows), np.bool_), payloads)

    def _in_columns(self, buffers: Rows, slots: Rows, rows: Rows, payloads: Payloads) -> Mask:
        """Where both the slot and the present payload are in columns, (n,)."""
        batched = payloads.in_batch(rows)
        if self._whole:
            slots_of = zip(buffers.tolist(), slots.tolist(), strict=True)
            batched &= np.fromiter((slot not in self._whole for slot in slots_of), np.bool_, len(rows))
        return batched

    def _payload(self, buffer: int, slot: int, payloads: Payloads) -> Any:
        """One payload of a buffer; of one that came in a batch only the leaves that are kept."""
        if (buffer, slot) in self._whole:
            return self._whole[buffer, slot]
        kept = {leaf.path: _value(leaf, self._columns[leaf.name][buffer, slot]) for leaf in self._leaves}
        return _built(payloads.space, (), kept)

    def __deepcopy__(self, memo: Any) -> "PayloadHistory":
        other = PayloadHistory(self._count, self._depth)
        other.counts, other._leaves = self.counts.copy(), self._leaves
        other._columns = {name: column.copy() for name, column in self._columns.items()}
        other._whole, other._buffers = copied(self._whole), self._buffers.copy()
        other._buffers_of = {row: list(buffers) for row, buffers in self._buffers_of.items()}
        return other


class CombinedPayloads:
    """n payloads with leaves of older ones: in columns where they are in a batch, else one by one."""

    def __init__(
        self, rows: Rows, batched: Mask, leaves: Sequence[Leaf], values: list[NDArray[Any]], single: dict[int, Any]
    ) -> None:
        self._rows, self._batched, self._leaves, self._values, self._single = rows, batched, leaves, values, single

    def differ(self, payloads: Payloads) -> Mask:
        """Which of them, (n,), differ from the present payloads."""
        different = np.zeros(len(self._rows), np.bool_)
        for leaf, column in zip(self._leaves, self._values, strict=False):
            values = payloads.values(leaf, self._rows[self._batched])
            different[self._batched] |= _differing(values, column)
        for at, (now, then) in self._single.items():
            different[at] = not alike(now, then)
        return different

    def write(self, which: Mask, payloads: Payloads) -> None:
        """Replace some of the payloads, (n,), by them."""
        written, wanted = which & self._batched, which[self._batched]
        for leaf, column in zip(self._leaves, self._values, strict=False) if np.count_nonzero(written) else ():
            payloads.write(leaf, self._rows[written], _listed(column[wanted]))
        for at, (_, then) in self._single.items():
            if which[at]:
                payloads.overrides[int(self._rows[at])] = then


def replace_whole(now: Any, then: Any) -> Any:
    """The old payload instead of the new one, all of it."""
    return copied(then)


def _column(values: Values) -> NDArray[Any]:
    """As an array: an array as it is, not copied; other values as copies in an array of objects."""
    return values if isinstance(values, np.ndarray) else object_array(map(copied, values), len(values))


def _differing(values: Values, column: NDArray[Any]) -> Mask:
    if column.dtype != object:
        return differing(values, column)
    return np.array([not alike(*both) for both in zip(values, column.tolist(), strict=True)], np.bool_)


def _value(leaf: Leaf, value: Any) -> Any:
    """A value of a column as it stands in a payload of its own."""
    return np.asarray(value) if isinstance(leaf.space, spaces.Box) else value


def _built(space: gym.Space[Any], path: TreePath, counts: Mapping[TreePath, Any]) -> Any:
    """A payload of a space with the leaves that are known, and ABSENT in the place of others."""
    if isinstance(space, spaces.Dict):
        return {key: _built(inner, (*path, key), counts) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_built(inner, (*path, at), counts) for at, inner in enumerate(space.spaces))
    return counts.get(path, ABSENT)


def _listed(column: NDArray[Any]) -> Values:
    """Values that are none of arrays as a list again."""
    return column.tolist() if column.dtype == object else column
