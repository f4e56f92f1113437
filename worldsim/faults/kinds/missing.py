"""Missing: fields, rows, results and frames that do not arrive, and sensors that die and come back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from worldsim.faults import trees
from worldsim.faults.columns import Values, each_like_first
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.frame_edits import by_frame
from worldsim.faults.effects.leaves import (
    ChangeLeaves,
    ChangeReplies,
    LeafEdit,
    LeafOutages,
    SomeLeaves,
    SomeLeavesEvenIfEqual,
    frames_of,
    last_frames,
)
from worldsim.faults.effects.requirements import FRAMES, ROWS, Requirement
from worldsim.faults.effects.rows import ChangeRows
from worldsim.faults.keys import CallRandom
from worldsim.faults.kinds.loud import RATE, SPREAD
from worldsim.faults.kinds.mixed import unknown
from worldsim.faults.parameters import NameGlobs, number, out_of_space, scaled, targets
from worldsim.spaces import Leaf

_MISSING = "missing"
_FRAMES = "share of the replies whose frames it touches"
_MEAN = "mean length of a spell in calls"


def unknowns(out_of_space: bool) -> LeafEdit:
    """An edit that leaves nothing: null in plain JSON, and in a space what stands for "unknown"."""

    def edit(leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> Values:
        return each_like_first(leaf, values, lambda value: unknown(leaf, value, batch, out_of_space))

    return edit


@fault("null_fields", _MISSING)
class NullFields(Fault):
    """Fields are there, and empty (null).

    Null in plain JSON. In a space what the environment's `metadata["on_missing"]` says, or else class 0, zeros, the
    shortest text; with `out_of_space=True` NaN or None. Records: `null_fields` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        change = ChangeLeaves(self.kind, unknowns(self.out_of_space), SomeLeaves(self.scaled("spread")), free=True)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space)


@fault("dropped_fields", _MISSING)
class DroppedFields(Fault):
    """Fields are not there at all.

    In plain JSON, and with `out_of_space=True`, their keys are gone. In a space they are filled in as for
    `null_fields`. Records: `dropped_fields` (leaf).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, "share of the fields that are gone from such a reply, at least one")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        empty = unknowns(self.out_of_space)

        def edit(leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> Any:
            has_key = bool(leaf.path) and isinstance(leaf.path[-1], str)
            if has_key and (batch.scope.plain or self.out_of_space):
                return [trees.ABSENT] * len(values)
            return empty(leaf, values, random, batch)

        change = ChangeLeaves(self.kind, edit, SomeLeavesEvenIfEqual(self.scaled("spread")), free=True, describe=False)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space)


@fault("empty_result", _MISSING)
class EmptyResult(Fault):
    """The reply is an empty result.

    In plain JSON every list is empty; where there is none, the object has no fields. In a space every leaf is as for
    `null_fields`, and frames are black. Records: `empty_result`.
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        empty = unknowns(self.out_of_space)

        def edit(leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> Any:
            return [_emptied(each) for each in values] if batch.scope.plain else empty(leaf, values, random, batch)

        change = ChangeLeaves(self.kind, edit, free=True, records="reply", leaves=_whole_or_leaves)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space)


def _whole_or_leaves(batch: AffectedCalls, replies: Any) -> tuple[Leaf, ...]:
    return (Leaf((), trees.ANY),) if batch.scope.plain else batch.leaves(replies)


def _emptied(payload: Any) -> Any:
    """Plain JSON with every list empty; nothing at all where there is no list."""
    paths = [path for path, value in trees.nodes(payload) if isinstance(value, list)]
    if not paths:
        return type(payload)() if isinstance(payload, Mapping | str) else None
    for path in paths:
        if trees.get(payload, path) is not trees.ABSENT:
            payload = trees.put(payload, path, [])
    return payload


# --- rows ---


@fault("missing_rows", _MISSING)
class MissingRows(Fault):
    """Some rows of each list are not there.

    Rows are the items of a list, or what stands along the first axis of an array. An array keeps its length, with zeros
    (or what is nearest) at its end, but for `out_of_space=True`. Records: `missing_rows` (leaf; before, after: how many
    rows).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, "share of the rows that are gone, at least one")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def choose(count: int, random: CallRandom) -> Any:
            return np.sort(random.permutation(count)[:, _gone(self.scaled("spread"), count) :], 1)

        change = ChangeRows(self.kind, choose, self.out_of_space)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, ROWS)


@fault("partial_page", _MISSING)
class PartialPage(Fault):
    """Only the first rows of each list arrive, and nothing says that there are more.

    Rows are as for `missing_rows`. Records: `partial_page` (leaf; before, after: how many rows).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.9, 0, 1, "share of the rows, from the last one on, that are gone, at least one")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def choose(count: int, random: CallRandom) -> Any:
            return np.arange(count - _gone(self.scaled("spread"), count))[None]

        change = ChangeRows(self.kind, choose, self.out_of_space)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, ROWS)


def _gone(share: float, count: int) -> int:
    """How many of so many rows are gone: one at least, and one at least is left."""
    return min(count - 1, max(1, round(share * count)))


# --- frames ---


def frames_only(given: Any, edit: LeafEdit, share: float = 1.0, needs: Requirement = FRAMES) -> Composition:
    """Frames are seen otherwise than they are."""
    change = ChangeLeaves(given.kind, edit, out_of_space=given.out_of_space)
    return Composition(ChangeReplies(change), share, given.targets, given.out_of_space, needs)


@fault("black_frames", _MISSING)
class BlackFrames(Fault):
    """Some frames are black.

    Records: `black_frames` (leaf).
    """

    rate: float = scaled(0.6, 0, 1, _FRAMES)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        return frames_only(self, by_frame(lambda images, random: np.zeros_like(images)), self.scaled("rate"))


@fault("occlusion", _MISSING)
class Occlusion(Fault):
    """Something black is in front of the camera: a block, somewhere else in every frame.

    Records: `occlusion` (leaf).
    """

    size: float = scaled(0.6, 0, 1, "side of the block, as a share of the frame's")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        side = self.scaled("size")
        return frames_only(self, by_frame(lambda images, random: frames.occlude(images, side, random.uniform(0, 4))))


@fault("dropped_channels", _MISSING)
class DroppedChannels(Fault):
    """A colour channel of some frames is zero; a grey frame is black.

    Records: `dropped_channels` (leaf).
    """

    rate: float = scaled(0.6, 0, 1, _FRAMES)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def draw(images: frames.FrameArray, random: CallRandom) -> frames.FrameArray:
            left = images.copy()
            for image, channel in zip(left, random.integers(images.shape[3]).tolist(), strict=True):
                image[..., channel] = 0
            return left

        return frames_only(self, by_frame(draw), self.scaled("rate"))


# --- spells ---


@fault("dead_sensors", _MISSING)
class DeadSensors(Fault):
    """Leaves fail and recover, each independently, for spells of calls of a tool (Gilbert 1960).

    One that has failed is as for `null_fields`, a frame black. Records: `dead_sensors` (leaf) at each call.
    """

    rate: float = scaled(0.02, 0, 1, "probability that a leaf fails at a call")
    mean_calls: float = number(5.0, 1, 1e9, _MEAN)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        spells = LeafOutages(self.scaled("rate"), self.mean_calls)
        change = ChangeLeaves(self.kind, unknowns(self.out_of_space), spells, free=True, describe=False)
        return Composition(ChangeReplies(change), 1.0, self.targets, self.out_of_space)


@fault("frozen_frames", _MISSING)
class FrozenFrames(Fault):
    """The picture freezes: the last frame stays for a spell of calls.

    It ties the tools together: the last frame may have come with a reply of another one.
    Records: `frozen_frames` (leaf) at each call that shows another frame than the true one.
    """

    rate: float = scaled(0.1, 0, 1, "probability that a moving picture freezes at a call")
    mean_calls: float = number(5.0, 1, 1e9, _MEAN)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def edit(leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> Any:
            last = last_frames(batch, leaf)[batch.rows]
            if isinstance(values, np.ndarray):
                return last
            return [value if value is trees.ABSENT else frame for value, frame in zip(values, last, strict=True)]

        change = ChangeLeaves(
            self.kind,
            edit,
            LeafOutages(self.scaled("rate"), self.mean_calls),
            out_of_space=self.out_of_space,
            describe=False,
            leaves=lambda batch, replies: frames_of(batch.scope.leaves),
        )
        effect = ChangeReplies(change, remembers_frames=True)
        return Composition(effect, 1.0, self.targets, self.out_of_space, FRAMES)
