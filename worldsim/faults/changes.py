"""What faults of replies have in common: which replies, which leaves, and whether the result can arrive."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import frames, leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.exchange import LOST, Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, LeafFault, matches, number
from worldsim.faults.leafwise import Values, differing, one_by_one, within
from worldsim.faults.log import Details
from worldsim.faults.replies import Replies
from worldsim.faults.struck import ArrayFault, Floats, Mask, Struck
from worldsim.faults.written import Mistake
from worldsim.spaces import Leaf


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


_ORDER, _LEAVES = 1, 16  # lanes: of the order in which leaves are tried, and of the first leaf


class Tried(NamedTuple):
    """What a leaf is in n payloads, what it would become, and where, (n,), that is something else and may arrive."""

    before: Values
    after: Values
    effective: Mask


@dataclass(frozen=True, kw_only=True)
class LeafChange(ReplyFault, ArrayFault):
    """Changes leaves of replies, each by itself: what happens to one does not depend on the others."""

    def after(self, struck: Struck, replies: Replies) -> None:
        answered = struck[replies.ok[struck.rows]]
        if len(answered):
            self.change(answered, replies)

    def change(self, struck: Struck, replies: Replies) -> None:
        """Change the payloads of struck calls that were answered, one leaf after another."""
        leaves, changed = self.leaves(struck, replies), np.zeros(len(struck), np.bool_)
        for position, (leaf, wanted) in enumerate(zip(leaves, self.wanted(leaves, struck).T, strict=True)):
            if wanted.any():
                some = those(struck, wanted)
                tried = self.tried(leaf, position, some, replies)
                self.put(leaf, tried, tried.effective, some, replies)
                changed[wanted] |= tried.effective
        self.deliver(struck[changed], replies)

    def leaves(self, struck: Struck, replies: Replies) -> tuple[Leaf, ...]:
        """What it may change in the replies, all of them of one form. Each place draws from a lane of its own."""
        return struck.leaves(replies)

    def wanted(self, leaves: Sequence[Leaf], struck: Struck) -> Mask:
        """Which leaves it tries to change, (n, leaves). By default all."""
        return np.ones((len(struck), len(leaves)), np.bool_)

    def tried(self, leaf: Leaf, position: int, struck: Struck, replies: Replies) -> Tried:
        """What a leaf would become."""
        before = replies.values(leaf, struck.rows)
        after = self.values_changed(leaf, before, struck.draws.lane(_LEAVES + position), struck)
        return Tried(before, after, self._effective(leaf, before, after, struck))

    def put(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck, replies: Replies) -> None:
        """Write what a leaf becomes in the calls `hit`, (n,)."""
        if hit.any():
            self.note(leaf, tried, hit, struck)
            replies.write(leaf, struck.rows[hit], _some(tried.after, hit))

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        """Record what a leaf becomes in the calls `hit`, (n,)."""
        those(struck, hit).record(self.record_kind, self._telling(leaf, tried.before, tried.after, hit, struck))

    def _telling(self, leaf: Leaf, old: Values, new: Values, hit: Mask, struck: Struck) -> Details:
        """What gives the records' details when somebody asks. It holds on to small values only, and to copies."""
        if leafwise.small(old) and leafwise.small(new):
            before, after = copy.copy(_some(old, hit)), copy.copy(_some(new, hit))
            return lambda: self._named(leaf, self.details(leaf, before, after, hit, struck))
        count = int(hit.sum())  # of large values nothing is told but that they changed: in a column any will do
        before, after = (each[:count] if isinstance(each, np.ndarray) else _some(each, hit) for each in (old, new))
        told = self.details(leaf, before, after, hit, struck)
        return lambda: self._named(leaf, told)

    def _named(self, leaf: Leaf, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"leaf": leaf.name, **each} for each in told]

    def _effective(self, leaf: Leaf, before: Values, after: Values, struck: Struck) -> Mask:
        """Which of the values differ from what was there, and may arrive."""
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

    def deliver(self, struck: Struck, replies: Replies) -> None:  # noqa: B027  (they mostly arrive as they are)
        """What becomes of replies that have changed."""

    def suits(self, leaf: Leaf, value: Any) -> bool:
        """Whether this is a kind of leaf that the fault acts on."""
        return True

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        """Other values for a leaf, not written into the old ones; those themselves where there are none."""
        changed: list[Any] = []
        for position, (value, (_, context)) in enumerate(zip(one_by_one(leaf, values), struck.calls(), strict=True)):
            fit = value is not leafwise.ABSENT and self.suits(leaf, value)
            changed.append(self.leaf_changed(leaf, value, draws.generator(position), context) if fit else value)
        return changed

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        """Another value for a leaf, not written into the old one; `value` itself where there is none."""
        raise NotImplementedError(f"{self.kind} changes neither values nor columns of them")


def same_for_each(leaf: Leaf, count: int, **told: Any) -> Details:
    """Details of `count` records of a leaf that all tell the same."""
    return lambda: [{"leaf": leaf.name, **told} for _ in range(count)]


@dataclass(frozen=True, kw_only=True)
class ColumnChange(LeafChange):
    """Changes leaves that are arrays or numbers, those of many replies together."""

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        if isinstance(values, np.ndarray):
            fit = self.suits(leaf, one_by_one(leaf, values[:1])[0])
            return self.column_changed(leaf, values, draws, struck) if fit else values
        changed: list[Any] = []
        for position, value in enumerate(values):
            if value is leafwise.ABSENT or not self.suits(leaf, value):
                changed.append(value)
                continue
            one = [position]
            column = self.column_changed(leaf, np.asarray(value)[None], draws[one], struck[one])
            changed.append(leafwise.like_column(value, column))
        return changed

    @abstractmethod
    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> NDArray[Any]:
        """Other values, (n, ...), for a leaf, not written into the old ones."""


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

    def change(self, struck: Struck, replies: Replies) -> None:
        leaves = self.leaves(struck, replies)
        if len(leaves) < 2:
            return super().change(struck, replies)
        tried = [self.tried(leaf, position, struck, replies) for position, leaf in enumerate(leaves)]
        chosen = self._first(np.stack([each.effective for each in tried], 1), struck)
        for leaf, each, hit in zip(leaves, tried, chosen.T, strict=True):
            self.put(leaf, each, hit, struck, replies)
        self.deliver(struck[chosen.any(1)], replies)

    def _first(self, effective: Mask, struck: Struck) -> Mask:
        """Which leaves change, (n, leaves): the first ones in the order that are effective."""
        order = self.order(effective.shape[1], struck)
        tried = np.take_along_axis(effective, order, 1)
        taken = tried & (tried.cumsum(1) <= self.leaves_wanted(effective.shape[1]))
        chosen = np.zeros_like(effective)
        np.put_along_axis(chosen, order, taken, 1)
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
class Loud(SomeReplies):
    """Makes replies that a reader with a schema refuses.

    In plain JSON, and with `out_of_space=True`, they arrive as they are. Where a space is the schema they are refused:
    error "malformed", and the text as it arrived in `raw`.
    """

    def delivered(self, reply: Reply, payload: Any, context: Context) -> Reply:
        if context.plain or self.out_of_space:
            return reply._replace(payload=payload)
        return unreadable(reply, leafwise.as_text(payload))

    def deliver(self, struck: Struck, replies: Replies) -> None:
        if not (struck.first.plain or self.out_of_space):
            for row in struck.rows.tolist():
                replies.lose([row], "malformed", leafwise.as_text(replies.payload(row)))

    def fitting(self, leaf: Leaf, values: Values) -> Mask:
        return np.ones(len(values), np.bool_)


def unreadable(reply: Reply, raw: str) -> Reply:
    """A reply of which only a text is left that cannot be read."""
    return reply._replace(payload=LOST, ok=False, error="malformed", raw=raw)


def those(struck: Struck, mask: Mask) -> Struck:
    """The struck calls where mask, (n,), is true."""
    return struck if mask.all() else struck[mask]


def _some(values: Values, mask: Mask) -> Values:
    if mask.all():
        return values
    return values[mask] if isinstance(values, np.ndarray) else [values[at] for at in np.flatnonzero(mask).tolist()]


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
