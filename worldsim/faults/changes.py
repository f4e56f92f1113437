"""What faults of replies have in common: which replies, which leaves or rows, and whether the result can arrive."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import frames, leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.exchange import Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, LeafFault, matches, number
from worldsim.faults.leafwise import Values, by_form, differing, like_old, one_by_one, some, within
from worldsim.faults.log import Details
from worldsim.faults.replies import Replies, Rows
from worldsim.faults.struck import ArrayFault, Floats, Mask, Struck
from worldsim.faults.written import Mistake
from worldsim.spaces import Leaf

Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class ReplyFault(LeafFault):
    """Changes the payload of replies. The call itself is always carried out."""

    @property
    def share(self) -> float:
        """Share of the replies that it touches."""
        return 1.0

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def strikes(self, uniforms: Floats, leaves: tuple[Leaf, ...] | None) -> Mask:
        return uniforms < self.share


@dataclass(frozen=True, kw_only=True)
class PayloadChange(ReplyFault):
    """Changes payloads as a whole, one by one."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        if not reply.ok or context.uniform() >= self.share:
            return reply
        payload = self.changed(reply.payload, context)
        return reply if payload is reply.payload else self.delivered(reply, payload, context)

    @abstractmethod
    def changed(self, payload: Any, context: Context) -> Any:
        """The payload as it is now, recorded; the very same object where nothing could be changed."""

    def delivered(self, reply: Reply, payload: Any, context: Context) -> Reply:
        """The reply with its changed payload."""
        return reply._replace(payload=payload)

    def fits(self, leaf: Leaf, value: Any, context: Context) -> bool:
        """Whether a value may stand in a leaf: plain JSON takes any, a space its own unless asked otherwise."""
        return self.out_of_space or context.plain or bool(value in leaf.space)


@dataclass(frozen=True, kw_only=True)
class BatchChange(ReplyFault, ArrayFault):
    """Changes replies, those of many environments together."""

    def after(self, struck: Struck, replies: Replies) -> None:
        answered = struck[replies.ok[struck.rows]]
        if len(answered):
            self.change(answered, replies)

    @abstractmethod
    def change(self, struck: Struck, replies: Replies) -> None:
        """Change the payloads of struck calls that were answered, one at least."""


_ORDER, _LEAVES = 1, 16  # lanes: of the order in which leaves are tried, and of the first leaf

Changes = list[tuple[Leaf, Rows, Values]]  # leaves, the environments in whose payloads they change, other values


@dataclass(frozen=True, kw_only=True)
class LeafChange(BatchChange):
    """Changes leaves of replies, each by itself: what happens to one does not depend on the others."""

    def change(self, struck: Struck, replies: Replies) -> None:
        leaves = struck.leaves(replies)
        if not leaves:
            return
        before = [replies.values(leaf, struck.rows) for leaf in leaves]
        each = zip(leaves, before, struck.draws.lanes(_LEAVES, len(leaves)), strict=True)
        after = [self.values_changed(leaf, values, draws, struck) for leaf, values, draws in each]
        effective = np.stack([self._effective(*each, struck) for each in zip(leaves, before, after, strict=True)], 1)
        chosen = self.chosen(effective, struck)
        changes: Changes = []
        for leaf, old, new, hit in zip(leaves, before, after, chosen.T, strict=True):
            if hit.any():
                touched = struck[hit]
                touched.record(self.record_kind, self._telling(leaf, old, new, hit, struck))
                changes.append((leaf, touched.rows, some(new, np.flatnonzero(hit))))
        if changes:
            self.deliver(struck[chosen.any(1)], changes, replies)

    def _telling(self, leaf: Leaf, old: Values, new: Values, hit: Mask, struck: Struck) -> Details:
        """What gives the records' details when somebody asks. It holds on to small values only, and to copies."""
        rows = np.flatnonzero(hit)
        if leafwise.small(old) and leafwise.small(new):
            before, after = (leafwise.copied(some(values, rows)) for values in (old, new))
            return lambda: self._named(leaf, self.details(leaf, before, after, hit, struck))
        if isinstance(old, np.ndarray) and isinstance(new, np.ndarray):  # of all of them nothing is told but how many
            before, after = old[: len(rows)], new[: len(rows)]
        else:
            before, after = some(old, rows), some(new, rows)
        told = self.details(leaf, before, after, hit, struck)
        return lambda: self._named(leaf, told)

    def _named(self, leaf: Leaf, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"leaf": leaf.name, **each} for each in told]

    def _effective(self, leaf: Leaf, before: Values, after: Values, struck: Struck) -> Mask:
        """Which of the values differ from what was there, and may arrive."""
        if after is before:
            return np.zeros(len(before), np.bool_)
        differs = differing(before, after)
        free = self.out_of_space or struck.first.plain or not differs.any()
        return differs if free else differs & self.fitting(leaf, after)

    def fitting(self, leaf: Leaf, values: Values) -> Mask:
        """Which values may stand in a leaf."""
        return within(leaf.space, values)

    def chosen(self, effective: Mask, struck: Struck) -> Mask:
        """Which leaves change, (n, leaves), of those for which there is another value. By default all."""
        return effective

    @property
    def record_kind(self) -> str:
        """What a record of a changed leaf is called."""
        return self.kind

    def details(self, leaf: Leaf, before: Values, after: Values, hit: Mask, struck: Struck) -> list[dict[str, Any]]:
        """What records tell of the leaf in the calls `hit`, (n,)."""
        return leafwise.descriptions(leaf, before, after)

    def deliver(self, struck: Struck, changes: Changes, replies: Replies) -> None:
        """What becomes of the replies that have changed: they arrive so."""
        for each in changes:
            replies.write(*each)

    @abstractmethod
    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        """Other values for a leaf, not written into the old ones; the very same where there are none."""


@dataclass(frozen=True, kw_only=True)
class ColumnChange(LeafChange):
    """Changes the values that a leaf has in many replies together: numbers as arrays, texts as lists."""

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        if isinstance(values, np.ndarray):
            fit = self.suits(leaf, one_by_one(leaf, values[:1])[0])
            return self.column_changed(leaf, values, draws, struck) if fit else values
        changed = list(values)
        for at, column in by_form(leaf, values):
            if isinstance(column, list):
                after: Values = self.texts_changed(leaf, column, draws[at], struck[at])
            elif self.suits(leaf, values[at[0]]):
                after = self.column_changed(leaf, column, draws[at], struck[at])
            else:
                continue
            for position, new in zip(at, after, strict=True):
                changed[position] = like_old(values[position], new)
        return changed

    def suits(self, leaf: Leaf, value: Any) -> bool:
        """Whether this is a kind of leaf that the fault acts on: a number or numbers, such as this one."""
        return leafwise.usual(leaf, value)

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        """Other values for a leaf's, (n, ...), which are numbers; not written into the old ones."""
        return values

    def texts_changed(self, leaf: Leaf, texts: list[str], draws: Draws, struck: Struck) -> list[Any]:
        """Other values for a leaf's, which are texts."""
        return texts


@dataclass(frozen=True, kw_only=True)
class SomeReplies(ReplyFault):
    """Changes a share of the replies that grows with severity."""

    rate: float = number(0.4, 0, 1, "share of the replies that it touches at severity 1")

    @property
    def share(self) -> float:
        """Share of the replies that it touches."""
        return self.severity * self.rate


@dataclass(frozen=True, kw_only=True)
class SomeLeaves(SomeReplies, LeafChange):
    """Changes some leaves of some replies; both shares grow with severity."""

    spread: float = number(0.5, 0, 1, "share of the leaves that it changes in such a reply at severity 1, at least one")

    @property
    def reach(self) -> float:
        """Share of the leaves that it changes, at least one."""
        return self.severity * self.spread

    def leaves_wanted(self, count: int) -> int:
        """How many of `count` leaves are to change."""
        return max(1, round(self.reach * count))

    def order(self, effective: Mask, struck: Struck) -> NDArray[np.int64]:
        """In which order leaves are tried, (n, leaves)."""
        return struck.draws.permutation(effective.shape[1], _ORDER)

    def chosen(self, effective: Mask, struck: Struck) -> Mask:
        if effective.shape[1] == 1:
            return effective
        return first_few(effective, self.order(effective, struck), self.leaves_wanted(effective.shape[1]))


def first_few(effective: Mask, order: NDArray[np.int64], wanted: int) -> Mask:
    """Of the effective ones in each row those that come first in an order, (n, leaves)."""
    tried = np.take_along_axis(effective, order, 1)
    chosen = np.zeros_like(effective)
    np.put_along_axis(chosen, order, tried & (tried.cumsum(1) <= wanted), 1)
    return chosen


@dataclass(frozen=True, kw_only=True)
class FrameChange(ColumnChange):
    """Changes every frame: uint8 of 4 by 4 pixels or more, grey, channels last or first."""

    def check(self, leaves: Sequence[Leaf]) -> None:
        aims = [leaf for leaf in leaves if isinstance(leaf.space, spaces.Box) and matches(leaf.name, self.targets)]
        boxes = [(leaf, np.zeros(leaf.space.shape or (), leaf.space.dtype)) for leaf in aims]
        if self.targets != ("*",) and not any(self.suits(leaf, value) for leaf, value in boxes):
            raise Mistake(
                f"{self.kind}: there is nothing for it in {', '.join(self.targets)}; aim at a frame", "targets"
            )

    def suits(self, leaf: Leaf, value: Any) -> bool:
        return frames.frame_axes(leaf.space) is not None and leafwise.usual(leaf, value)

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> NDArray[Any]:
        axes = frames.frame_axes(leaf.space)
        assert axes is not None and isinstance(leaf.space, spaces.Box), f"{leaf.name} is no frame"
        drawn = self.drawn(frames.as_images(values, axes), self.draws(draws, leaf, struck))
        return leafwise.bounded(frames.as_frames(levels(drawn), axes), leaf.space)

    def draws(self, draws: Draws, leaf: Leaf, struck: Struck) -> Draws:
        """What the picture is drawn with: by default anew at each call."""
        return draws

    @abstractmethod
    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        """What is seen instead of n images (n, height, width, channels): the same shape, in grey levels 0 to 255."""


def levels(images: frames.Frame) -> frames.Frame:
    """Grey levels as whole numbers from 0 to 255."""
    return images if images.dtype == np.uint8 else np.clip(np.rint(images), 0, 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class RowChange(SomeReplies, PayloadChange):
    """Replies with other rows than there are. What stands in a row is left alone.

    Rows are the items of a list in plain JSON, and the entries along the first axis of a vector or matrix of numbers or
    classes. A leaf keeps its shape: rows that are gone leave zeros (or what is nearest to them) at the end, those that
    are too many fall off it; with `out_of_space=True` it arrives with as many as there are.
    """

    def changed(self, payload: Any, context: Context) -> Any:
        result = payload
        for lane, (name, path) in enumerate(_tables(payload, context)):
            rows = leafwise.get(result, path)
            chosen = self.chosen(len(rows), context.rng(1 + lane))
            after = (
                [rows[row] for row in chosen] if isinstance(rows, list) else self._array(path, rows, chosen, context)
            )
            if chosen != list(range(len(rows))) and not leafwise.alike(rows, after):
                result = leafwise.put(result, path, leafwise.copied(after))
                context.record(self.kind, leaf=name, before=len(rows), after=len(chosen))
        return result

    @abstractmethod
    def chosen(self, count: int, rng: np.random.Generator) -> list[int]:
        """Which of `count` rows arrive, in what order."""

    def _array(self, path: Path, rows: Any, chosen: list[int], context: Context) -> Any:
        arrived = rows[chosen]
        if self.out_of_space:
            return arrived
        leaf = next(leaf for leaf in context.leaves or () if leaf.path == path)
        kept = leafwise.nothing(leaf.space, rows)
        kept[: len(arrived)] = arrived[: len(rows)]
        return kept if kept in leaf.space else rows


def _tables(payload: Any, context: Context) -> Iterator[tuple[str, Path]]:
    """Name and place of everything in a payload that has two rows or more, innermost first."""
    if context.plain:
        found = [path for path, value in leafwise.nodes(payload) if isinstance(value, list) and len(value) > 1]
        for path in reversed(found):
            name = "/".join(map(str, path)) or "value"
            if context.aims_at(name):
                yield name, path
        return
    for leaf in context.leaves or ():
        value = leafwise.get(payload, leaf.path)
        has_rows = isinstance(value, np.ndarray) and value.ndim > 0 and len(value) > 1
        if has_rows and leafwise.usual(leaf, value) and not frames.frame_axes(leaf.space):
            yield leaf.name, leaf.path
