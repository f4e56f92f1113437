"""Replies that are changed: as a whole, or leaf by leaf.

A leaf is a field, a number, a text, a frame: in a Gymnasium space what is no Dict or Tuple, in plain JSON every flag,
number and string. What happens to one leaf does not depend on the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from worldsim.faults import columns, trees
from worldsim.faults.arrays import Mask, Rows
from worldsim.faults.columns import Values, by_form, cast_like_old, differing, one_by_one, select, within
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls, Scope
from worldsim.faults.effects.json_text import plain_payloads
from worldsim.faults.fault_log import Details
from worldsim.faults.keys import CallRandom
from worldsim.faults.replies import Replies
from worldsim.faults.trees import as_text
from worldsim.spaces import Leaf

ORDER, LEAVES = 1, 16  # streams: of the order in which leaves are taken, and of the first leaf
LEAF_NAMES = 2**20  # streams from here on belong to leaves by their names

ReplyChange = Callable[[AffectedCalls, Replies], None]
"""Changes the payloads of calls that were answered, one at least."""


@dataclass(frozen=True)
class ChangeReplies(Effect):
    """Changes the payloads of replies. The call itself is always carried out.

    remembers_frames: whether it needs the last frames that arrived, which `last_frames` gives.
    """

    change: ReplyChange
    remembers_frames: bool = False

    def needs_all_calls(self, scope: Scope) -> bool:
        return self.remembers_frames and bool(frames_of(scope.leaves))

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:
        if self.needs_all_calls(batch.scope):
            remember_frames(batch, initial)

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        replies = yield from forward(batch.calls)
        answered, remembers = batch.answered(replies), self.needs_all_calls(batch.scope)
        changing = (answered[answered.triggered] if remembers else answered).changeable(replies)
        for alike in changing.one_by_one(replies) if len(changing) else ():
            self.change(alike, replies)
        if remembers and len(answered):
            remember_frames(answered.answered(replies), replies)
        return replies


def frames_of(leaves: Sequence[Leaf] | None) -> tuple[Leaf, ...]:
    """Those of the leaves that are frames; plain JSON has none."""
    return tuple(leaf for leaf in leaves or () if frames.frame_axes(leaf.space))


def last_frames(batch: AffectedCalls, leaf: Leaf) -> NDArray[Any]:
    """The last frames that came through to each session, (N, ...), to be written to; black before the first."""
    return batch.memory.array(f"frame {leaf.name}", 0, leaf.space.shape or (), np.uint8)


def remember_frames(batch: AffectedCalls, replies: Replies) -> None:
    """Remember the frames that arrived."""
    for leaf in frames_of(batch.scope.leaves):
        replies.copy_leaf(leaf, batch.rows, last_frames(batch, leaf))


# --- which leaves ---


class Selection(Protocol):
    """Which leaves are changed."""

    def candidates(self, leaves: Sequence[Leaf], batch: AffectedCalls) -> Mask:
        """Which leaves are tried, (n, leaves)."""
        ...

    def select(self, effective: Mask, batch: AffectedCalls) -> Mask:
        """Of those that could be changed, (n, leaves), which are."""
        ...


@dataclass(frozen=True)
class AllLeaves:
    """All leaves."""

    def candidates(self, leaves: Sequence[Leaf], batch: AffectedCalls) -> Mask:
        return np.ones((len(batch), len(leaves)), np.bool_)

    def select(self, effective: Mask, batch: AffectedCalls) -> Mask:
        return effective


@dataclass(frozen=True)
class SomeLeaves:
    """A share of all leaves, at least one, out of those for which there is another value."""

    share: float

    def candidates(self, leaves: Sequence[Leaf], batch: AffectedCalls) -> Mask:
        return np.ones((len(batch), len(leaves)), np.bool_)

    def select(self, effective: Mask, batch: AffectedCalls) -> Mask:
        return first_few(effective, batch, _count_of_share(self.share, effective.shape[1]))


@dataclass(frozen=True)
class OneLeaf:
    """One leaf, out of those for which there is another value."""

    def candidates(self, leaves: Sequence[Leaf], batch: AffectedCalls) -> Mask:
        return np.ones((len(batch), len(leaves)), np.bool_)

    def select(self, effective: Mask, batch: AffectedCalls) -> Mask:
        return first_few(effective, batch, 1)


@dataclass(frozen=True)
class SomeLeavesEvenIfEqual:
    """A share of all leaves, at least one, whatever they are: what was nothing already counts as changed."""

    share: float

    def candidates(self, leaves: Sequence[Leaf], batch: AffectedCalls) -> Mask:
        return first_few(ALL_LEAVES.candidates(leaves, batch), batch, _count_of_share(self.share, len(leaves)))

    def select(self, effective: Mask, batch: AffectedCalls) -> Mask:
        return effective


@dataclass(frozen=True)
class LeafOutages:
    """Leaves fail for spells of calls of a tool, each leaf by itself: a two-state Markov chain (Gilbert 1960).

    begins: probability that a spell begins at a call. mean_calls: mean length of a spell.
    """

    begins: float
    mean_calls: float

    def candidates(self, leaves: Sequence[Leaf], batch: AffectedCalls) -> Mask:
        out = [self._out(LEAF_NAMES + crc32(leaf.name.encode()) % LEAF_NAMES, batch) for leaf in leaves]
        return np.stack(out, 1) if out else np.zeros((len(batch), 0), np.bool_)

    def _out(self, stream: int, batch: AffectedCalls) -> Mask:
        """Whether the leaf is out: one uniform a call moves the chain, as in `worldsim.faults.schedule.Bursts`."""
        p_begin, p_stay = self.begins, 1 - 1 / self.mean_calls
        low, high = min(p_begin, p_stay), max(p_begin, p_stay)

        def decides(drawn: CallRandom) -> Mask:
            numbers = drawn.uniform(stream)
            return np.asarray((numbers < low) | (numbers >= high))

        at, drawn = batch.last_where(decides)
        out = drawn.uniform(stream) < np.where(at == 0, p_begin, low)
        turned = (batch.numbers - at) % 2 == 1 if p_stay < p_begin else np.zeros(len(batch), np.bool_)
        return np.asarray(out ^ turned)

    def select(self, effective: Mask, batch: AffectedCalls) -> Mask:
        return effective


ALL_LEAVES = AllLeaves()


def _count_of_share(share: float, count: int) -> int:
    return max(1, round(share * count))


def first_few(effective: Mask, batch: AffectedCalls, tried: int) -> Mask:
    """Of the effective ones in each row those that come first in an order that is drawn for it, (n, leaves)."""
    if tried >= effective.shape[1]:
        return effective
    order = batch.random.permutation(effective.shape[1], ORDER)
    ordered = np.take_along_axis(effective, order, 1)
    chosen = np.zeros_like(effective)
    np.put_along_axis(chosen, order, ordered & (ordered.cumsum(1) <= tried), 1)
    return chosen


# --- what they become ---


class EditResult(NamedTuple):
    """The new values of a leaf in n payloads. notes: gives the record details of some of them, (m,)."""

    after: Values
    notes: Callable[[NDArray[np.int64]], list[dict[str, Any]]] | None = None


LeafEdit = Callable[[Leaf, Values, CallRandom, AffectedCalls], Values | EditResult]
"""Gives other values for a leaf, not written into the old ones; the very same where there are none."""


class Delivery(Enum):
    """How a changed reply reaches the caller."""

    AS_IT_IS = "as it is"
    REFUSED = "refused"  # by a space, whose schema the values break: the text as it arrived, and error "malformed"


class _Candidate(NamedTuple):
    """What a leaf could become: in which of n calls, (m,), from what to what, and where it had an effect, (m,)."""

    at: NDArray[np.int64]
    before: Values
    edited: EditResult
    effective: Mask


_NONE = np.zeros(0, np.int64)
LeafChanges = list[tuple[Leaf, Rows, Values]]  # leaves, the sessions in whose payloads they change, other values


@dataclass(frozen=True)
class ChangeLeaves:
    """A `ReplyChange` of leaves, each by itself.

    kind: of the records. edit: what they become. selection: which. delivery: how the result arrives.
    out_of_space: whether values outside the space arrive; else what is outside has no effect, unless `free`: then the
    edit is responsible for its values. describe: whether records have the values before and after.
    records: one for each "leaf", or one for the whole "reply".
    leaves: which there are; by default those that are targets.
    """

    kind: str
    edit: LeafEdit
    selection: Selection = ALL_LEAVES
    delivery: Delivery = Delivery.AS_IT_IS
    out_of_space: bool = False
    free: bool = False
    describe: bool = True
    records: str = "leaf"
    leaves: Callable[[AffectedCalls, Replies], tuple[Leaf, ...]] = lambda batch, replies: batch.leaves(replies)

    def __call__(self, batch: AffectedCalls, replies: Replies) -> None:
        leaves = self.leaves(batch, replies)
        if leaves:
            self.change(leaves, batch.random.streams(LEAVES, len(leaves)), batch, replies)

    def change(
        self, leaves: Sequence[Leaf], randoms: Sequence[CallRandom], batch: AffectedCalls, replies: Replies
    ) -> None:
        """Change these leaves of the replies; each draws from a stream of its own."""
        tried = self.selection.candidates(leaves, batch)
        effective = np.zeros_like(tried)
        candidates: list[_Candidate | None] = []
        for position, (leaf, random) in enumerate(zip(leaves, randoms, strict=True)):
            at = np.flatnonzero(tried[:, position])
            candidates.append(self._candidate(leaf, random, at, batch, replies) if len(at) else None)
            if candidates[-1] is not None:
                effective[at, position] = candidates[-1].effective
        taken = self.selection.select(effective, batch)
        changes = LeafChanges()
        for leaf, one, hit in zip(leaves, candidates, taken.T, strict=True):
            chosen = _NONE if one is None else np.flatnonzero(hit[one.at])
            if one is not None and len(chosen):
                if self.records == "leaf":
                    self._record(leaf, one, chosen, batch)
                changes.append((leaf, batch.rows[one.at[chosen]], select(one.edited.after, chosen)))
        if changes:
            self._deliver(batch[taken.any(1)], changes, replies)

    def _candidate(
        self, leaf: Leaf, random: CallRandom, at: Rows, batch: AffectedCalls, replies: Replies
    ) -> _Candidate:
        """What the leaf would become in the calls `at` of the batch. Nothing is written."""
        batch_here, drawn = (batch, random) if len(at) == len(batch) else (batch[at], random[at])
        before = replies.values(leaf, batch_here.rows)
        found = self.edit(leaf, before, drawn, batch_here)
        edited = found if isinstance(found, EditResult) else EditResult(found)
        return _Candidate(at, before, edited, self._effective(leaf, before, edited.after, batch_here))

    def _effective(self, leaf: Leaf, before: Values, after: Values, batch: AffectedCalls) -> Mask:
        """Which of the values differ from what was there, and may arrive."""
        if after is before:
            return np.zeros(len(before), np.bool_)
        differs = differing(before, after)
        free = self.free or self.out_of_space or batch.scope.plain or not np.count_nonzero(differs)
        return differs if free else differs & within(leaf.space, after)

    def _record(self, leaf: Leaf, candidate: _Candidate, chosen: NDArray[np.int64], batch: AffectedCalls) -> None:
        notes = candidate.edited.notes
        notes_of = notes(chosen) if notes else [dict[str, Any]() for _ in range(len(chosen))]
        described = self._described(leaf, candidate, chosen)
        name = leaf.name

        def details() -> list[dict[str, Any]]:
            return [{"leaf": name, **one, **other} for one, other in zip(notes_of, described(), strict=True)]

        batch[candidate.at[chosen]].record(self.kind, details)

    def _described(self, leaf: Leaf, candidate: _Candidate, chosen: NDArray[np.int64]) -> Details:
        """The values before and after, described when records are read. Only small values are copied and kept."""
        before, after = candidate.before, candidate.edited.after
        if not (self.describe and columns.are_small(before) and columns.are_small(after)):
            if not self.describe:
                return lambda: [{} for _ in chosen]
            before, after = (one_by_one(leaf, select(values, chosen)) for values in (before, after))
            descriptions = columns.descriptions(leaf, before, after)
            return lambda: descriptions
        copies = [trees.copied(select(values, chosen)) for values in (before, after)]
        return lambda: columns.descriptions(leaf, *copies)

    def _deliver(self, batch: AffectedCalls, changes: LeafChanges, replies: Replies) -> None:
        if self.records == "reply":
            batch.record(self.kind, lambda: [{} for _ in batch.rows])
        if arrives(self.delivery, self.out_of_space, batch):
            for each in changes:
                replies.write(*each)
        else:
            replies.garble(batch.rows, [*map(as_text, plain_payloads(replies, batch.rows, changes))])


def arrives(delivery: Delivery, out_of_space: bool, batch: AffectedCalls) -> bool:
    """Whether changed replies arrive as they are: plain JSON has no schema that would refuse them."""
    return delivery is Delivery.AS_IT_IS or out_of_space or batch.scope.plain


NumberEdit = Callable[[Leaf, NDArray[Any], CallRandom, AffectedCalls], Values]
TextEdit = Callable[[Leaf, list[str], CallRandom, AffectedCalls], list[Any]]
IntegerEdit = Callable[[Leaf, list[int], CallRandom, AffectedCalls], list[Any]]
_EXACT = 2**53


def by_column(
    numbers: NumberEdit | None = None,
    texts: TextEdit | None = None,
    integers: IntegerEdit | None = None,
    suits: Callable[[Leaf, Any], bool] = trees.has_leaf_form,
) -> LeafEdit:
    """An edit of the values that a leaf has in many replies together.

    numbers: of arrays (n, ...). texts: of lists of them. integers: of whole numbers of plain JSON, which are of any
    size; by default those that floats hold exactly are numbers, and others stay as they are. suits: whether a value,
    such as this one, is of a kind that is edited.
    """

    # Whole numbers of plain JSON may be larger than any float holds exactly, so they are not put into float arrays.
    def of_integers(leaf: Leaf, values: list[int], random: CallRandom, batch: AffectedCalls) -> list[Any]:
        if integers is not None:
            return integers(leaf, values, random, batch)
        if numbers is None or max(map(abs, values)) > _EXACT:
            return values
        changed = numbers(leaf, np.array(values), random, batch)
        return [
            each.item() if isinstance(each, np.generic | np.ndarray) and each.ndim == 0 else each for each in changed
        ]

    def edit(leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> Values:
        if isinstance(values, np.ndarray):
            fit = numbers is not None and suits(leaf, one_by_one(leaf, values[:1])[0])
            return numbers(leaf, values, random, batch) if fit and numbers is not None else values
        changed = list(values)
        for at, column in by_form(leaf, values):
            here, batch_here = random[at], batch[at]
            if isinstance(column, list) and isinstance(column[0], str):
                after: Values = texts(leaf, column, here, batch_here) if texts is not None else column
            elif not suits(leaf, values[at[0]]):
                continue
            elif isinstance(column, list):
                after = of_integers(leaf, column, here, batch_here)
            else:
                after = numbers(leaf, column, here, batch_here) if numbers is not None else column
            for position, new in zip(at, after, strict=True):
                changed[position] = cast_like_old(values[position], new)
        return changed

    return edit
