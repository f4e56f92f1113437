"""What faults of replies have in common: which replies, which leaves, and whether the result can arrive."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.exchange import Passing
from worldsim.faults.fault import LeafFault, Mistake, matches, number
from worldsim.faults.kinds import frames
from worldsim.faults.leafwise import Values, by_form, differing, like_old, one_by_one, some, within
from worldsim.faults.many.log import Details
from worldsim.faults.many.payloads import Rows
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import ArrayFault, Floats, Mask, Struck
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
class BatchChange(ReplyFault, ArrayFault):
    """Changes replies, those of many environments together."""

    def after(self, struck: Struck, replies: Replies) -> None:
        answered = struck[replies.ok[struck.rows]]
        if len(answered):
            self.change(answered, replies)

    @abstractmethod
    def change(self, struck: Struck, replies: Replies) -> None:
        """Change the payloads of struck calls that were answered, one at least."""


_ORDER, LEAVES = 1, 16  # lanes: of the order in which leaves are tried, and of the first leaf

Changes = list[tuple[Leaf, Rows, Values]]  # leaves, the environments in whose payloads they change, other values


class Tried(NamedTuple):
    """What a leaf is in n payloads, what it would become, and where, (n,), that is something else and may arrive."""

    before: Values
    after: Values
    effective: Mask


@dataclass(frozen=True, kw_only=True)
class LeafChange(BatchChange):
    """Changes leaves of replies, each by itself: what happens to one does not depend on the others."""

    def change(self, struck: Struck, replies: Replies) -> None:
        leaves = self.leaves(struck, replies)
        self.change_leaves(leaves, struck.draws.lanes(LEAVES, len(leaves)), struck, replies)

    def change_leaves(self, leaves: Sequence[Leaf], lanes: Sequence[Draws], struck: Struck, replies: Replies) -> None:
        """Change these leaves of the replies; each draws from a lane of its own."""
        changes, changed = Changes(), np.zeros(len(struck), np.bool_)
        for leaf, draws, wanted in zip(leaves, lanes, self.wanted(leaves, struck).T, strict=True):
            if wanted.any():
                those = struck[wanted]
                tried = self.tried(leaf, draws if wanted.all() else draws[wanted], those, replies)
                changes += self.noted(leaf, tried, tried.effective, those)
                changed[wanted] |= tried.effective
        if changes:
            self.deliver(struck[changed], changes, replies)

    def leaves(self, struck: Struck, replies: Replies) -> tuple[Leaf, ...]:
        """What it may change in the replies, all of them of one form."""
        return struck.leaves(replies)

    def wanted(self, leaves: Sequence[Leaf], struck: Struck) -> Mask:
        """Which leaves it tries to change, (n, leaves). By default all."""
        return np.ones((len(struck), len(leaves)), np.bool_)

    def tried(self, leaf: Leaf, draws: Draws, struck: Struck, replies: Replies) -> Tried:
        """What a leaf would become."""
        before = replies.values(leaf, struck.rows)
        after = self.values_changed(leaf, before, draws, struck)
        return Tried(before, after, self._effective(leaf, before, after, struck))

    def noted(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> Changes:
        """What a leaf becomes in the calls `hit`, (n,), recorded; nothing where there are none."""
        if not hit.any():
            return []
        self.note(leaf, tried, hit, struck)
        return [(leaf, struck.rows[hit], some(tried.after, np.flatnonzero(hit)))]

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        """Record what a leaf becomes in the calls `hit`, (n,), one at least."""
        struck[hit].record(self.record_kind, self._telling(leaf, tried.before, tried.after, hit, struck))

    def _telling(self, leaf: Leaf, old: Values, new: Values, hit: Mask, struck: Struck) -> Details:
        """What gives the records' details when somebody asks. It holds on to small values only, and to copies."""
        at = np.flatnonzero(hit)
        if leafwise.small(old) and leafwise.small(new):
            before, after = (leafwise.copied(some(values, at)) for values in (old, new))
            return lambda: self._named(leaf, self.details(leaf, before, after, hit, struck))
        # Of large values nothing is told but that they changed: in a column any will do.
        before, after = (each[: len(at)] if isinstance(each, np.ndarray) else some(each, at) for each in (old, new))
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


def same_for_each(leaf: Leaf, count: int, **told: Any) -> Details:
    """Details of `count` records of a leaf that all tell the same."""
    return lambda: [{"leaf": leaf.name, **told} for _ in range(count)]


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
class ShareOfLeaves(SomeReplies, LeafChange):
    """Changes some leaves of some replies; both shares grow with severity."""

    spread: float = number(0.5, 0, 1, "share of the leaves that it changes in such a reply at severity 1, at least one")

    @property
    def reach(self) -> float:
        """Share of the leaves that it changes, at least one."""
        return self.severity * self.spread

    def leaves_wanted(self, count: int) -> int:
        """How many of `count` leaves are to change."""
        return max(1, round(self.reach * count))

    def order(self, count: int, struck: Struck) -> NDArray[np.int64]:
        """In which order `count` leaves are tried, (n, count)."""
        return struck.draws.permutation(count, _ORDER)


@dataclass(frozen=True, kw_only=True)
class SomeLeaves(ShareOfLeaves):
    """Changes some leaves of some replies, of those for which there is another value."""

    def change_leaves(self, leaves: Sequence[Leaf], lanes: Sequence[Draws], struck: Struck, replies: Replies) -> None:
        if len(leaves) < 2:
            return super().change_leaves(leaves, lanes, struck, replies)
        tried = [self.tried(leaf, draws, struck, replies) for leaf, draws in zip(leaves, lanes, strict=True)]
        effective = np.stack([each.effective for each in tried], 1)
        chosen = first_few(effective, self.order(len(leaves), struck), self.leaves_wanted(len(leaves)))
        each = zip(leaves, tried, chosen.T, strict=True)
        changes = [change for leaf, one, hit in each for change in self.noted(leaf, one, hit, struck)]
        if changes:
            self.deliver(struck[chosen.any(1)], changes, replies)


def first_few(effective: Mask, order: NDArray[np.int64], wanted: int) -> Mask:
    """Of the effective ones in each row those that come first in an order, (n, leaves)."""
    tried = np.take_along_axis(effective, order, 1)
    chosen = np.zeros_like(effective)
    np.put_along_axis(chosen, order, tried & (tried.cumsum(1) <= wanted), 1)
    return chosen


@dataclass(frozen=True, kw_only=True)
class GoneLeaves(ShareOfLeaves):
    """Takes some leaves of some replies away. What was nothing already counts as gone."""

    def wanted(self, leaves: Sequence[Leaf], struck: Struck) -> Mask:
        wanted = np.zeros((len(struck), len(leaves)), np.bool_)
        order = self.order(len(leaves), struck)
        np.put_along_axis(wanted, order[:, : self.leaves_wanted(len(leaves))], True, 1)
        return wanted


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
        images = frames.as_images(values, axes)
        if images.dtype != np.uint8:  # another fault has been at it
            images = levels(np.nan_to_num(images))
        drawn = self.drawn(images, self.draws(draws, leaf, struck))
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


def frames_of(leaves: Sequence[Leaf] | None) -> tuple[Leaf, ...]:
    """Those of the leaves that are frames; plain JSON has none."""
    return tuple(leaf for leaf in leaves or () if frames.frame_axes(leaf.space))


def keep_frames(struck: Struck, shown: Replies) -> None:
    """Keep the frames that came through in the fault's memory: "frames", leaf name -> (N, ...) the last of each."""
    kept = struck.memory.setdefault("frames", {})
    for leaf in frames_of(struck.first.leaves):
        if leaf.name not in kept:
            kept[leaf.name] = np.zeros((struck.count, *(leaf.space.shape or ())), np.uint8)
        shown.keep(leaf, struck.rows, kept[leaf.name])
