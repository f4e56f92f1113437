"""What faults of replies have in common: which replies, which leaves or rows, and whether the result can arrive."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from worldsim.faults import frames, leafwise
from worldsim.faults.exchange import LOST, Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, LeafFault, matches, number
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

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return uniforms < self.share

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
class LeafChange(ReplyFault):
    """Changes leaves of replies, each by itself: what happens to one does not depend on the others."""

    def changed(self, payload: Any, context: Context) -> Any:
        leaves = context.leaves_in(payload)
        wanted, result = self.leaves_wanted(len(leaves)), payload
        for position in self.order(len(leaves), context):
            leaf = leaves[position]
            before = leafwise.read(payload, leaf)
            if not self.suits(leaf, before):
                continue
            after = self.leaf_changed(leaf, before, context.rng(1 + position), context)
            if leafwise.same(before, after) or not self.fits(leaf, after, context):
                continue
            result = leafwise.write(result, leaf, after)
            told = leafwise.described(leafwise.get(payload, leaf.path), leafwise.get(result, leaf.path))
            context.record(self.kind, leaf=leaf.name, **told)
            wanted -= 1
            if not wanted:
                break
        return result

    def suits(self, leaf: Leaf, value: Any) -> bool:
        """Whether this is a kind of leaf that the fault acts on."""
        return True

    def leaves_wanted(self, count: int) -> int:
        """How many of `count` leaves are to change."""
        return count

    def order(self, count: int, context: Context) -> Iterator[int]:
        """In which order leaves are tried."""
        return iter(range(count))

    @abstractmethod
    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        """Another value for a leaf, not written into the old one; `value` itself where there is none."""


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
        return max(1, round(self.reach * count))

    def order(self, count: int, context: Context) -> Iterator[int]:
        return iter(context.rng().permutation(count).tolist())


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

    def fits(self, leaf: Leaf, value: Any, context: Context) -> bool:
        return True


def unreadable(reply: Reply, raw: str) -> Reply:
    """A reply of which only a text is left that cannot be read."""
    return reply._replace(payload=LOST, ok=False, error="malformed", raw=raw)


@dataclass(frozen=True, kw_only=True)
class FrameChange(LeafChange):
    """Changes every frame: uint8 of 4 by 4 pixels or more, grey, channels last or first."""

    def check(self, leaves: Sequence[Leaf]) -> None:
        aims = [leaf for leaf in leaves if isinstance(leaf.space, Box) and matches(leaf.name, self.targets)]
        boxes = [(leaf, np.zeros(leaf.space.shape or (), leaf.space.dtype)) for leaf in aims]
        if self.targets != ("*",) and not any(self.suits(leaf, value) for leaf, value in boxes):
            raise Mistake(
                f"{self.kind}: there is nothing for it in {', '.join(self.targets)}; aim at a frame", "targets"
            )

    def suits(self, leaf: Leaf, value: Any) -> bool:
        return frames.frame_axes(leaf.space) is not None and leafwise.usual(leaf, value)

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        axes = frames.frame_axes(leaf.space)
        assert axes is not None, f"{leaf.name} is no frame"
        image = frames.as_image(value, axes)
        drawn = np.clip(np.rint(self.drawn(image, rng)), 0, 255).astype(np.uint8)
        return leafwise.clipped(frames.as_frame(drawn, axes), leaf.space)  # type: ignore[arg-type]

    @abstractmethod
    def drawn(self, image: frames.Frame, rng: np.random.Generator) -> frames.Frame:
        """What is seen instead of an image (height, width, channels), of the same shape, in grey levels 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class RowChange(SomeReplies):
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
