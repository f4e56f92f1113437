"""Missing: fields, rows, results and frames that do not arrive, and sensors that die and come back."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.faults import frames, leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.changes import FrameChange, PayloadChange, SomeLeaves, SomeReplies
from worldsim.faults.exchange import Call, Forward, Reply
from worldsim.faults.fault import Context, number
from worldsim.faults.leafwise import Values
from worldsim.faults.rows import RowChange
from worldsim.faults.struck import Struck
from worldsim.spaces import Leaf


def _unknown(leaf: Leaf, value: Any, context: Context, out_of_space: bool) -> Any:
    """What stands for a leaf that is not there: what the environment declares, or what is nearest to nothing."""
    if context.plain:
        return None
    if leaf.name in context.missing:
        return leafwise.from_json(leaf, context.missing[leaf.name])
    return leafwise.nothing(leaf.space, value, out_of_space) if leafwise.usual(leaf, value) else value


@dataclass(frozen=True, kw_only=True)
class NullFields(SomeLeaves):
    """Fields are there and empty.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Null in plain JSON. In a space what the environment's `metadata["on_missing"]` says, or else class 0, zeros, the
    shortest text; with `out_of_space=True` NaN or None. Records: `null_fields` (leaf, before, after).
    """

    kind: ClassVar[str] = "null_fields"

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        return leafwise.each_like_first(
            leaf, values, lambda value: _unknown(leaf, value, struck.first, self.out_of_space)
        )


@dataclass(frozen=True, kw_only=True)
class DroppedFields(SomeReplies, PayloadChange):
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

    @property
    def reach(self) -> float:
        """Share of the fields that are gone, at least one."""
        return self.severity * self.spread

    def changed(self, payload: Any, context: Context) -> Any:
        leaves, result = context.leaves_in(payload), payload
        wanted = max(1, round(self.reach * len(leaves)))
        for position in context.rng().permutation(len(leaves))[:wanted]:
            leaf = leaves[position]
            owner, before = leafwise.get(result, leaf.path[:-1]), leafwise.get(result, leaf.path)
            if before is leafwise.ABSENT:
                continue
            if (context.plain or self.out_of_space) and leaf.path and isinstance(owner, Mapping):
                left = {key: value for key, value in owner.items() if key != leaf.path[-1]}
                after = leafwise.put(result, leaf.path[:-1], left)
            else:
                filled = _unknown(leaf, before, context, self.out_of_space)
                after = result if leafwise.same(before, filled) else leafwise.put(result, leaf.path, filled)
            if after is not result:
                context.record(self.kind, leaf=leaf.name)
                result = after
        return result


@dataclass(frozen=True, kw_only=True)
class EmptyResult(SomeReplies, PayloadChange):
    """The reply says that there is nothing.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    In plain JSON every list is empty; where there is none, the object has no fields. In a space every leaf is as in
    `NullFields`, and frames are black. Records: `empty_result`.
    """

    kind: ClassVar[str] = "empty_result"

    def changed(self, payload: Any, context: Context) -> Any:
        result = _emptied(payload) if context.plain else payload
        for leaf in context.leaves or ():
            before = leafwise.get(payload, leaf.path)
            if before is not leafwise.ABSENT:
                result = leafwise.put(result, leaf.path, _unknown(leaf, before, context, self.out_of_space))
        if leafwise.alike(result, payload):
            return payload
        context.record(self.kind)
        return result


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
class _Spells(PayloadChange):
    """Leaves fail for spells of calls, each leaf by itself: a two-state Markov chain (Gilbert 1960).

    A spell begins at a call with probability `share` and ends with 1 / `mean_calls`.
    """

    rate: float = number(0.1, 0, 1, "probability that a leaf's spell begins at a call at severity 1")
    mean_calls: float = number(5.0, 1, 1e9, "mean length of a spell in calls")

    @property
    def share(self) -> float:
        """Probability that a leaf's spell begins at a call."""
        return self.severity * self.rate

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return np.ones(uniforms.shape, np.bool_)  # spells go on

    def begin(self, payload: Any, context: Context) -> None:
        context.memory["out"] = {}  # leaf -> what it has shown since its spell began
        context.memory["last"] = leafwise.copied(payload)

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        if not reply.ok:
            return reply
        payload = self.changed(reply.payload, context)
        context.memory["last"] = leafwise.copied(payload)
        return reply if payload is reply.payload else self.delivered(reply, payload, context)

    def changed(self, payload: Any, context: Context) -> Any:
        result, out = payload, context.memory["out"]
        for position, leaf in enumerate(context.leaves_in(payload)):
            before, rng = leafwise.read(payload, leaf), context.rng(1 + position)
            begins, ends = rng.random() < self.share, rng.random() < 1 / self.mean_calls
            if leaf.name in out and ends and not begins:
                del out[leaf.name]
            elif leaf.name not in out and begins and self.can_fail(leaf, before):
                out[leaf.name] = leafwise.copied(self.shown(leaf, before, context))
            after = leafwise.copied(out.get(leaf.name, before))
            if not leafwise.same(before, after) and self.fits(leaf, after, context):
                result = leafwise.write(result, leaf, after)
                context.record(self.kind, leaf=leaf.name)
        return result

    def can_fail(self, leaf: Leaf, value: Any) -> bool:
        """Whether this fault knows how such a leaf fails."""
        return leafwise.usual(leaf, value)

    @abstractmethod
    def shown(self, leaf: Leaf, value: Any, context: Context) -> Any:
        """What a leaf shows from the beginning of a spell to its end."""


@dataclass(frozen=True, kw_only=True)
class DeadSensors(_Spells):
    """Leaves die and come back, each by itself.

    | severity | share |
    |----------|-------|
    | 0.5      | 5 %   |
    | 1        | 10 %  |

    `share` is the probability that a living leaf dies at a call; `mean_calls` later on average it is back. A dead leaf
    is as in `NullFields`, a frame black. Records: `dead_sensors` (leaf) at each call.
    """

    kind: ClassVar[str] = "dead_sensors"

    def shown(self, leaf: Leaf, value: Any, context: Context) -> Any:
        return _unknown(leaf, value, context, self.out_of_space)


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

    def can_fail(self, leaf: Leaf, value: Any) -> bool:
        return frames.frame_axes(leaf.space) is not None and leafwise.usual(leaf, value)

    def shown(self, leaf: Leaf, value: Any, context: Context) -> Any:
        last = leafwise.get(context.memory["last"], leaf.path)
        return value if last is leafwise.ABSENT else last
