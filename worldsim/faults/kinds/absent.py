"""Missing: fields, rows, results and frames that do not arrive, and sensors that die and come back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.fault import Context, number
from worldsim.faults.kinds import frames
from worldsim.faults.kinds.changes import (
    Changes,
    FrameChange,
    GoneLeaves,
    LeafChange,
    SomeLeaves,
    SomeReplies,
    Tried,
    frames_of,
    keep_frames,
    same_for_each,
)
from worldsim.faults.kinds.rows import RowChange
from worldsim.faults.leafwise import Values
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import Floats, Mask, Struck
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class _Unknown(LeafChange):
    """What stands for a leaf that is not there: what the environment declares, or what is nearest to nothing."""

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        return leafwise.each_like_first(leaf, values, lambda value: self._unknown(leaf, value, struck.first))

    def _unknown(self, leaf: Leaf, value: Any, context: Context) -> Any:
        if value is leafwise.ABSENT:
            return value
        if context.plain:
            return None
        if leaf.name in context.missing:
            return leafwise.from_json(leaf, context.missing[leaf.name])
        return leafwise.nothing(leaf.space, value, self.out_of_space) if leafwise.usual(leaf, value) else value

    def fitting(self, leaf: Leaf, values: Values) -> Mask:
        return np.ones(len(values), np.bool_)


@dataclass(frozen=True, kw_only=True)
class NullFields(_Unknown, SomeLeaves):
    """Fields are there and empty.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Null in plain JSON. In a space what the environment's `metadata["on_missing"]` says, or else class 0, zeros, the
    shortest text; with `out_of_space=True` NaN or None. Records: `null_fields` (leaf, before, after).
    """

    kind: ClassVar[str] = "null_fields"


@dataclass(frozen=True, kw_only=True)
class DroppedFields(_Unknown, GoneLeaves):
    """Fields are not there at all.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    In plain JSON, and with `out_of_space=True`, their keys are gone. Elsewhere whoever reads the reply into a space
    fills in what is not there, as `NullFields` does. Records: `dropped_fields` (leaf).
    """

    kind: ClassVar[str] = "dropped_fields"

    spread: float = number(0.5, 0, 1, "share of the fields that are gone from such a reply at severity 1, at least one")

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        has_key = bool(leaf.path) and isinstance(leaf.path[-1], str)
        if has_key and (struck.first.plain or self.out_of_space):
            return [leafwise.ABSENT] * len(values)
        return super().values_changed(leaf, values, draws, struck)

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        struck[hit].record(self.kind, same_for_each(leaf, int(hit.sum())))


@dataclass(frozen=True, kw_only=True)
class EmptyResult(_Unknown, SomeReplies):
    """The reply says that there is nothing.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    In plain JSON every list is empty; where there is none, the object has no fields. In a space every leaf is as in
    `NullFields`, and frames are black. Records: `empty_result`.
    """

    kind: ClassVar[str] = "empty_result"

    def leaves(self, struck: Struck, replies: Replies) -> tuple[Leaf, ...]:
        return (Leaf((), leafwise.ANY),) if struck.first.plain else struck.leaves(replies)

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        if struck.first.plain:
            return [_emptied(payload) for payload in values]
        return super().values_changed(leaf, values, draws, struck)

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        """One record tells of the whole reply."""

    def deliver(self, struck: Struck, changes: Changes, replies: Replies) -> None:
        super().deliver(struck, changes, replies)
        struck.record(self.kind, lambda: [{} for _ in struck.rows])


def _emptied(payload: Any) -> Any:
    """Plain JSON with every list empty; nothing at all where there is no list."""
    paths = [path for path, value in leafwise.nodes(payload) if isinstance(value, list)]
    if not paths:
        return type(payload)() if isinstance(payload, Mapping | str) else None
    for path in paths:
        if leafwise.get(payload, path) is not leafwise.ABSENT:
            payload = leafwise.put(payload, path, [])
    return payload


# --- rows ---


@dataclass(frozen=True, kw_only=True)
class MissingRows(RowChange):
    """Some rows are not there.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    `reach` of the rows, at least one. Records: `missing_rows` (leaf, and the numbers of rows before and after).
    """

    kind: ClassVar[str] = "missing_rows"

    spread: float = number(0.5, 0, 1, "share of the rows that are gone at severity 1, at least one")

    @property
    def reach(self) -> float:
        """Share of the rows that are gone, at least one."""
        return self.severity * self.spread

    def chosen(self, count: int, draws: Draws) -> NDArray[np.int64]:
        return np.sort(draws.permutation(count)[:, max(1, round(self.reach * count)) :], 1)


@dataclass(frozen=True, kw_only=True)
class PartialPage(RowChange):
    """Only the first rows arrive, and nothing says that there are more.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 45 %  |
    | 1        | 40 %  | 90 %  |

    `reach` of the rows, from the last one on, are not there. Records: `partial_page` (leaf, and the numbers of rows
    before and after).
    """

    kind: ClassVar[str] = "partial_page"

    spread: float = number(0.9, 0, 1, "share of the rows that are gone at severity 1, at least one")

    @property
    def reach(self) -> float:
        """Share of the rows that are gone, at least one."""
        return self.severity * self.spread

    def chosen(self, count: int, draws: Draws) -> NDArray[np.int64]:
        return np.arange(count - max(1, round(self.reach * count)))[None]


# --- frames ---


@dataclass(frozen=True, kw_only=True)
class BlackFrames(SomeReplies, FrameChange):
    """Some frames are black.

    | severity | share |
    |----------|-------|
    | 0.5      | 30 %  |
    | 1        | 60 %  |

    Records: `black_frames` (leaf).
    """

    kind: ClassVar[str] = "black_frames"

    rate: float = number(0.6, 0, 1, "share of the replies with black frames at severity 1")

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return np.zeros_like(images)


@dataclass(frozen=True, kw_only=True)
class Occlusion(FrameChange):
    """Something black is in front of the camera: a block, somewhere else in every frame.

    | severity | side |
    |----------|------|
    | 0.5      | 30 % |
    | 1        | 60 % |

    `side` is the block's, as a share of the frame's. Records: `occlusion` (leaf).
    """

    kind: ClassVar[str] = "occlusion"

    size: float = number(0.6, 0, 1, "side of the block at severity 1, as a share of the frame's")

    @property
    def side(self) -> float:
        """Side of the block, as a share of the frame's."""
        return self.severity * self.size

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        return frames.occlude(images, self.side, draws.random(0, 4))


@dataclass(frozen=True, kw_only=True)
class DroppedChannels(SomeReplies, FrameChange):
    """A colour channel of some frames is not there; a grey frame is black.

    | severity | share |
    |----------|-------|
    | 0.5      | 30 %  |
    | 1        | 60 %  |

    Records: `dropped_channels` (leaf).
    """

    kind: ClassVar[str] = "dropped_channels"

    rate: float = number(0.6, 0, 1, "share of the replies whose frames lack a channel at severity 1")

    def drawn(self, images: frames.Frame, draws: Draws) -> frames.Frame:
        left = images.copy()
        for image, channel in zip(left, draws.integers(images.shape[3]).tolist(), strict=True):
            image[..., channel] = 0
        return left


# --- spells ---


@dataclass(frozen=True, kw_only=True)
class _Spells(LeafChange):
    """Leaves fail for spells of calls, each leaf by itself: a two-state Markov chain (Gilbert 1960).

    A spell begins at a call with probability `share` and ends with 1 / `mean_calls`.
    """

    rate: float = number(0.1, 0, 1, "probability that a leaf's spell begins at a call at severity 1")
    mean_calls: float = number(5.0, 1, 1e9, "mean length of a spell in calls")

    @property
    def share(self) -> float:
        """Probability that a leaf's spell begins at a call."""
        return self.severity * self.rate

    def strikes(self, uniforms: Floats, leaves: tuple[Leaf, ...] | None) -> Mask:
        return np.ones(uniforms.shape, np.bool_)  # spells go on

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        struck.memory.setdefault("columns", {})  # leaf name -> its column in "out"
        struck.memory.setdefault("out", np.zeros((struck.count, 0), np.bool_))[struck.rows] = False

    def wanted(self, leaves: Sequence[Leaf], struck: Struck) -> Mask:
        """Which leaves are out, (n, leaves): where a spell begins, or goes on."""
        begins = struck.draws.random(_BEGINS, len(leaves)) < self.share
        goes_on = struck.draws.random(_ENDS, len(leaves)) >= 1 / self.mean_calls
        at = np.ix_(struck.rows, _columns(leaves, struck.memory))
        out: Mask = begins | struck.memory["out"][at] & goes_on
        struck.memory["out"][at] = out
        return out

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        struck[hit].record(self.kind, same_for_each(leaf, int(hit.sum())))


_BEGINS, _ENDS = 2, 3  # lanes: whether spells begin, and whether they end


def _columns(leaves: Sequence[Leaf], memory: dict[str, Any]) -> NDArray[np.int64]:
    """The leaves' columns in what is remembered. In plain JSON new leaves may turn up at any call."""
    columns: dict[str, int] = memory["columns"]
    found = np.array([columns.setdefault(leaf.name, len(columns)) for leaf in leaves], np.int64)
    more = len(columns) - memory["out"].shape[1]
    if more:
        memory["out"] = np.pad(memory["out"], ((0, 0), (0, more)))
    return found


@dataclass(frozen=True, kw_only=True)
class DeadSensors(_Unknown, _Spells):
    """Leaves die and come back, each by itself.

    | severity | share |
    |----------|-------|
    | 0.5      | 5 %   |
    | 1        | 10 %  |

    `share` is the probability that a living leaf dies at a call; `mean_calls` later on average it is back. A dead leaf
    is as in `NullFields`, a frame black. Records: `dead_sensors` (leaf) at each call.
    """

    kind: ClassVar[str] = "dead_sensors"


@dataclass(frozen=True, kw_only=True)
class FrozenFrames(_Spells):
    """The picture freezes: the last frame stays for a spell of calls.

    | severity | share |
    |----------|-------|
    | 0.5      | 5 %   |
    | 1        | 10 %  |

    `share` is the probability that a moving picture freezes at a call; `mean_calls` later on average it moves again.
    Records: `frozen_frames` (leaf) at each call that shows another frame than there is.
    """

    kind: ClassVar[str] = "frozen_frames"

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        super().first_seen(struck, shown)
        keep_frames(struck, shown)

    def change(self, struck: Struck, replies: Replies) -> None:
        super().change(struck, replies)
        keep_frames(struck, replies)

    def leaves(self, struck: Struck, replies: Replies) -> tuple[Leaf, ...]:
        return frames_of(struck.first.leaves)

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        last: NDArray[Any] = struck.memory["frames"][leaf.name][struck.rows]
        if isinstance(values, np.ndarray):
            return last
        return [value if value is leafwise.ABSENT else frame for value, frame in zip(values, last, strict=True)]
