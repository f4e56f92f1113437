"""Missing data: leaves that do not arrive, and replies that are not there at all."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from worldsim.faults import leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.fault import number
from worldsim.faults.kinds import frames
from worldsim.faults.kinds.changes import GoneLeaves, Tried, frames_of, keep_frames
from worldsim.faults.leafwise import Values
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import Floats, Mask, Struck
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class MissingData(GoneLeaves):
    """Some replies lack leaves; some are not there at all. The call itself is always carried out.

    What stands for a missing leaf, unless the environment says otherwise in `metadata["on_missing"]`: class 0 of a
    Discrete, MultiDiscrete or MultiBinary (by convention "unknown"), zeros of a vector (or the nearest bound), the
    shortest text. A frame is black, frozen (the last that came through), or has a black block. With `out_of_space=True`
    vectors are NaN and classes and texts None.

    | severity | replies that lack something | of these not there at all | leaves missing in the others |
    |----------|-----------------------------|---------------------------|------------------------------|
    | 0        | 0 %                         | -                         | -                            |
    | 0.25     | 15 %                        | a quarter                 | 1/4, at least 1              |
    | 0.5      | 30 %                        | a quarter                 | 1/2, at least 1              |
    | 1        | 60 %                        | a quarter                 | all                          |

    Shares: `severity * rate` of the replies, `severity * spread` of the leaves. An occluding block has sides of
    `severity`.

    Records: `unavailable`, or one `missing` a leaf (leaf, how) that really changed.
    """

    kind: ClassVar[str] = "missing_data"

    rate: float = number(0.6, 0, 1, "share of the replies that lack something at severity 1")
    unavailable: float = number(0.25, 0, 1, "share of these replies that are not there at all")
    spread: float = number(1.0, 0, 1, "share of the leaves missing in the others at severity 1")
    retry_after_s: float = number(1.0, 0, 1e9, "what an unavailable reply says: seconds after which to ask again")

    def strikes(self, uniforms: Floats, leaves: tuple[Leaf, ...] | None) -> Mask:
        if frames_of(leaves):  # they are kept, to show again
            return np.ones(uniforms.shape, np.bool_)
        return uniforms < self.share

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        keep_frames(struck, shown)

    def after(self, struck: Struck, replies: Replies) -> None:
        super().after(struck[struck.uniforms < self.share], replies)
        keep_frames(struck[replies.ok[struck.rows]], replies)

    def change(self, struck: Struck, replies: Replies) -> None:
        gone = struck.draws.random(_GONE) < self.unavailable
        struck[gone].record("unavailable", lambda: [{"retry_after_s": self.retry_after_s} for _ in struck.rows[gone]])
        replies.lose(struck.rows[gone], "unavailable")
        replies.retry_after_s[struck.rows[gone]] = self.retry_after_s
        if not gone.all():
            super().change(struck[~gone], replies)

    def fitting(self, leaf: Leaf, values: Values) -> Mask:
        return np.ones(len(values), np.bool_)

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        """What is there instead; how the leaf is missing is kept."""
        plain, declared = struck.first.plain, leaf.name in struck.first.missing
        struck.kept[leaf.name] = ["declared" if declared else "unknown"] * len(values)
        if frames.frame_axes(leaf.space) and not declared:
            return self._frames_changed(leaf, values, draws, struck)

        def without(value: Any) -> Any:
            if not leafwise.usual(leaf, value):
                return value
            if declared:
                return leafwise.from_json(leaf, struck.first.missing[leaf.name])
            return None if plain else leafwise.nothing(leaf.space, value, self.out_of_space)

        return leafwise.each_like_first(leaf, values, without)

    def _frames_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        if not isinstance(values, np.ndarray):
            return self._each_frame_changed(leaf, values, draws, struck)
        axes = frames.frame_axes(leaf.space)
        assert axes is not None, f"{leaf.name} is no frame"
        how = draws.integers(len(_HOWS), 0)
        struck.kept[leaf.name] = [_HOWS[each] for each in how.tolist()]
        changed = struck.memory["frames"][leaf.name][struck.rows]
        changed[how == 0] = 0
        hidden = how == 2
        images = frames.occlude(frames.as_images(values[hidden], axes), self.severity, draws[hidden].random(1, 4))
        changed[hidden] = frames.as_frames(images, axes)
        return leafwise.bounded(changed, leaf.space)  # type: ignore[arg-type]

    def _each_frame_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> list[Any]:
        changed, hows = list(values), list[str]()
        for position, value in enumerate(values):
            one = struck[[position]]
            one.kept[leaf.name] = [""]
            if leafwise.usual(leaf, value):
                changed[position] = self._frames_changed(leaf, value[None], draws[[position]], one)[0]
            hows += one.kept[leaf.name]
        struck.kept[leaf.name] = hows
        return changed

    def note(self, leaf: Leaf, tried: Tried, hit: Mask, struck: Struck) -> None:
        name, hows, which = leaf.name, struck.kept[leaf.name], np.flatnonzero(hit)
        told = lambda: [{"leaf": name, "how": hows[position]} for position in which.tolist()]  # noqa: E731
        struck[which].record("missing", told)


_GONE = 0  # lane: whether a reply is not there at all
_HOWS = ("black", "frozen", "occluded")
