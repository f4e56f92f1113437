"""Several at once: malformed output, and missing data. (`slow_api` is in `worldsim.faults.kinds.slow`.)"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.faults import columns, trees
from worldsim.faults.columns import Values
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls, same_details
from worldsim.faults.effects.frame_edits import is_frame
from worldsim.faults.effects.leaves import (
    ChangeLeaves,
    ChangeReplies,
    EditResult,
    SomeLeaves,
    SomeLeavesEvenIfEqual,
    last_frames,
)
from worldsim.faults.effects.wrong_values import wrong_values
from worldsim.faults.keys import CallRandom
from worldsim.faults.parameters import NameGlobs, number, out_of_space, scaled, targets
from worldsim.faults.replies import Replies
from worldsim.spaces import Leaf

_SEVERAL = "several at once"
_WHOLE = 0  # stream: whether a reply fails as a whole


@fault("malformed_output", _SEVERAL)
class MalformedOutput(Fault):
    """Some replies cannot be parsed (loud); some are valid and wrong (silent). The call itself is always carried out.

    Wrong, and inside the space: another class, transposed digits, swapped entries or letters, another letter, a wrong
    unit or sign, an offset; in frames shifted rows, swapped channels, a torn block. With `out_of_space=True` half of
    the wrong leaves arrive as NaN, infinity, null, out of range, or in a wrong type or shape instead. Blocks and bands
    in frames measure half the severity, as a share of the frame.

    Records: `unparsable`, or one `wrong_value` a leaf (leaf, how, before, after).
    """

    rate: float = scaled(0.4, 0, 1, "share of the replies that are malformed")
    loud: float = number(0.5, 0, 1, "share of the malformed replies that cannot be parsed at all")
    spread: float = scaled(0.5, 0, 1, "share of the leaves that are wrong in a silently malformed reply, at least one")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        silent = ChangeLeaves(
            "wrong_value", self._wrong, SomeLeaves(self.scaled("spread")), out_of_space=self.out_of_space
        )

        def change(batch: AffectedCalls, replies: Replies) -> None:
            loud = batch.random.uniform(_WHOLE) < self.loud
            lost, wrong = batch[loud], batch[~loud]
            lost.record("unparsable", same_details(lost))
            replies.lose(lost.rows, "malformed")
            if len(wrong):
                silent(wrong, replies)

        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space)

    def _wrong(self, leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> EditResult:
        after, hows = wrong_values(leaf, values, self.severity / 2, random, self.out_of_space)
        return EditResult(after, lambda chosen: [{"how": hows[each]} for each in chosen.tolist()])


_HOWS = ("black", "frozen", "occluded")


@fault("missing_data", _SEVERAL)
class MissingData(Fault):
    """Some replies lack leaves; some are not there at all. The call itself is always carried out.

    What stands for a missing leaf, unless the environment says otherwise in `metadata["on_missing"]`: class 0 of a
    Discrete, MultiDiscrete or MultiBinary (by convention "unknown"), zeros of a vector (or the nearest bound), the
    shortest text. A frame is black, frozen (the last that came through), or has a black block whose sides are the
    severity, as a share of the frame's. With `out_of_space=True` vectors are NaN and classes and texts None. It ties
    the tools together: the last frame may have come with a reply of another one.

    Records: `unavailable`, or one `missing` a leaf (leaf, how) that really changed.
    """

    rate: float = scaled(0.6, 0, 1, "share of the replies that lack something")
    unavailable: float = number(0.25, 0, 1, "share of these replies that are not there at all")
    spread: float = scaled(1.0, 0, 1, "share of the leaves missing in the others, at least one")
    retry_after_s: float = number(1.0, 0, 1e9, "seconds in the Retry-After of an unavailable reply")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        lacking = ChangeLeaves(
            "missing", self._missing, SomeLeavesEvenIfEqual(self.scaled("spread")), free=True, describe=False
        )

        def change(batch: AffectedCalls, replies: Replies) -> None:
            gone = batch.random.uniform(_WHOLE) < self.unavailable
            lost, others = batch[gone], batch[~gone]
            lost.record("unavailable", same_details(lost, retry_after_s=self.retry_after_s))
            replies.lose(lost.rows, "unavailable")
            replies.retry_after_s[lost.rows] = self.retry_after_s
            if len(others):
                lacking(others, replies)

        effect = ChangeReplies(change, remembers_frames=True)
        return Composition(effect, self.scaled("rate"), self.targets, self.out_of_space)

    def _missing(self, leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> EditResult:
        """What is there instead, and how the leaf is missing."""
        declared = leaf.name in batch.scope.missing
        if is_frame(leaf) and not declared:
            if isinstance(values, np.ndarray):
                return self._frames(leaf, values, random, batch)
            return self._each_frame(leaf, values, random, batch)
        how = "declared" if declared else "unknown"
        after = columns.each_like_first(leaf, values, lambda value: unknown(leaf, value, batch, self.out_of_space))
        return EditResult(after, lambda chosen: [{"how": how} for _ in chosen])

    def _frames(self, leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> EditResult:
        axes = frames.frame_axes(leaf.space)
        assert axes is not None, f"{leaf.name} is no frame"
        how = random.integers(len(_HOWS), 0)
        changed = last_frames(batch, leaf)[batch.rows]
        changed[how == 0] = 0
        hidden = how == 2
        images = frames.occlude(frames.as_images(values[hidden], axes), self.severity, random[hidden].uniform(1, 4))
        changed[hidden] = frames.as_frames(images, axes)
        after = columns.bounded(changed, leaf.space)  # type: ignore[arg-type]
        return EditResult(after, lambda chosen: [{"how": _HOWS[each]} for each in how[chosen].tolist()])

    def _each_frame(self, leaf: Leaf, values: list[Any], random: CallRandom, batch: AffectedCalls) -> EditResult:
        changed, hows = list(values), [{"how": ""} for _ in values]
        for position, value in enumerate(values):
            if trees.has_leaf_form(leaf, value):
                edited = self._frames(leaf, value[None], random[[position]], batch[[position]])
                assert edited.notes is not None, "frames are missing in some way"
                changed[position], hows[position] = edited.after[0], edited.notes(np.zeros(1, np.int64))[0]
        return EditResult(changed, lambda chosen: [hows[each] for each in chosen.tolist()])


def unknown(leaf: Leaf, value: Any, batch: AffectedCalls, out_of_space: bool) -> Any:
    """What stands for a leaf that is not there: what the environment declares, or what is nearest to nothing."""
    if value is trees.ABSENT:
        return value
    if batch.scope.plain:
        return None
    if leaf.name in batch.scope.missing:
        return trees.from_json(leaf, batch.scope.missing[leaf.name])
    return trees.empty_value(leaf.space, value, out_of_space) if trees.has_leaf_form(leaf, value) else value
