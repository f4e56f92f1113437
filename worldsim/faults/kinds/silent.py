"""Malformed, silent: replies that are valid against their schema, and wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from worldsim.faults.calls import Call
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects import frames
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls
from worldsim.faults.effects.leaf_pairs import exchangeable, exchanged, first_of
from worldsim.faults.effects.leaves import ChangeLeaves, ChangeReplies, LeafChanges, LeafEdit, SomeLeaves
from worldsim.faults.effects.numbers import affine, is_number, transposed_digits
from worldsim.faults.effects.refusals import FailAfterExecution
from worldsim.faults.effects.replays import FakeSuccess, ReplayOtherReply
from worldsim.faults.effects.requirements import NUMBERS, PAIR, ROWS, TWO_DIGITS, times
from worldsim.faults.effects.rows import ChangeRows
from worldsim.faults.keys import CallRandom
from worldsim.faults.kinds.loud import RATE, SPREAD
from worldsim.faults.parameters import NameGlobs, NumberTuple, matches, number, option, out_of_space, scaled, targets
from worldsim.faults.replies import Replies
from worldsim.spaces import Floats, Leaf

_SILENT = "malformed, silent"


@fault("transposed_digits", _SILENT)
class TransposedDigits(Fault):
    """Two neighbouring digits of a number, or of a number in a text, are swapped; nothing else changes.

    In numbers with decimals only digits before the point are. Records: `transposed_digits` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        selection = SomeLeaves(self.scaled("spread"))
        change = ChangeLeaves(self.kind, transposed_digits(), selection, out_of_space=self.out_of_space)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, TWO_DIGITS)


@fault("swapped_fields", _SILENT)
class SwappedFields(Fault):
    """Two fields of one kind have swapped values: given name and surname, latitude and longitude.

    Only where both values are possible in both places: in plain JSON, which has no schema, any two texts, or any two
    numbers of one type. Frames are left alone. Records: `swapped_fields` (leaf, other).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        return Composition(ChangeReplies(self._change), self.scaled("rate"), self.targets, self.out_of_space, PAIR)

    def _change(self, batch: AffectedCalls, replies: Replies) -> None:
        leaves = [leaf for leaf in batch.leaves(replies) if not frames.frame_axes(leaf.space)]
        inside = replies.in_batch(batch.rows)
        for some in (batch[inside], *(batch[[position]] for position in np.flatnonzero(~inside).tolist())):
            if len(some) and len(leaves) > 1:
                self._swap(leaves, some, replies)

    def _swap(self, leaves: list[Leaf], batch: AffectedCalls, replies: Replies) -> None:
        """Exchange two leaves of replies that have all the same form."""
        values = [replies.values(leaf, batch.rows) for leaf in leaves]
        pairs = exchangeable(leaves, values, self.out_of_space or batch.scope.plain)
        if not len(pairs.one):
            return
        one, other, hit = first_of(pairs, batch.random.permutation(len(leaves)))
        swapped = one[hit], other[hit]
        batch[hit].record(
            self.kind,
            lambda: [{"leaf": leaves[a].name, "other": leaves[b].name} for a, b in zip(*swapped, strict=True)],
        )
        changes: LeafChanges = []
        for position, leaf in enumerate(leaves):
            rows = np.flatnonzero(hit & ((one == position) | (other == position)))
            if len(rows):
                sources = (one + other - position)[rows]
                changes.append((leaf, batch.rows[rows], exchanged(values, sources, rows)))
        for each in changes:
            replies.write(*each)


@fault("wrong_unit", _SILENT)
class WrongUnit(Fault):
    """A number is in another unit or currency: cents for euros, metres for feet, grams for kilograms.

    Multiplied by one of `factors`; clipped to the bounds of a vector's space. Whole numbers stay whole: small ones may
    become 0 in plain JSON. Records: `wrong_unit` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    factors: NumberTuple = option((100.0, 0.01, 1000.0, 0.001, 1.1, 0.3048, 2.2046), "what numbers are multiplied by")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        factors = np.array(self.factors)

        def other_unit(random: CallRandom, batch: AffectedCalls) -> tuple[Floats, Floats]:
            return factors[random.integers(len(factors), 1)], np.zeros(len(random))

        selection = SomeLeaves(self.scaled("spread"))
        change = ChangeLeaves(self.kind, affine(other_unit), selection, out_of_space=self.out_of_space)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, NUMBERS)


# --- times ---

TIMES = ("*time*", "*clock*", "*date*", "*stamp*", "*_at")
_NAMES = "globs over the names of leaves in which numbers are times"


def times_moved(names: tuple[str, ...], offsets: Callable[[AffectedCalls], Floats]) -> LeafEdit:
    """An edit that moves times: ISO 8601 in texts, and numbers in leaves that are named like a time.

    offsets: by how much times are off, (n,), in seconds or in a leaf's own units.
    """

    def suits(leaf: Leaf, value: Any) -> bool:
        return matches(leaf.name.rsplit("/", 1)[-1], names) and is_number(leaf, value)

    def texts(leaf: Leaf, texts: list[str], random: CallRandom, batch: AffectedCalls) -> list[Any]:
        return [_iso_moved(*each) for each in zip(texts, offsets(batch).tolist(), strict=True)]

    return affine(lambda random, batch: (np.ones(len(batch)), offsets(batch)), texts, suits)


def _iso_moved(text: str, seconds: float) -> str:
    """An ISO 8601 time moved, in the form in which it was written; other texts as they are."""
    try:
        moment = datetime.fromisoformat(text)
        moved = (moment + timedelta(seconds=seconds)).isoformat(text[10:11] or "T")
    except (ValueError, OverflowError):
        return text
    if len(text) == 10:
        return moved[:10]
    return moved.replace("+00:00", "Z") if text.endswith("Z") else moved


@fault("clock_skew", "slow")
class ClockSkew(Fault):
    """The service's clock is wrong: every time in its replies is off by the same amount.

    Texts in ISO 8601 are later by so many seconds (earlier with a negative `most`); numbers, where the leaf's name says
    that they are times, by as many of their own units, clipped to the bounds of a vector's space and left alone where a
    class would not exist.
    Records: `clock_skew` (leaf, before, after).
    """

    most: float = scaled(3600.0, -1e9, 1e9, "how far the clock is ahead, in seconds or in the leaf's own units")
    names: NameGlobs = option(TIMES, _NAMES)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        edit = times_moved(self.names, lambda batch: np.full(len(batch), self.scaled("most")))
        change = ChangeLeaves(self.kind, edit, out_of_space=self.out_of_space)
        return Composition(
            ChangeReplies(change), 1.0, self.targets, self.out_of_space, times(self.names, self.scaled("most"))
        )


@fault("wrong_time_zone", _SILENT)
class WrongTimeZone(Fault):
    """All times of a reply are those of another time zone, with the offset of the old one.

    Off by a whole number of hours from -11 to 12, never by 0, the same in one reply; numbers, where the leaf's name
    says that they are times, by 3600 of their own units an hour. Records: `wrong_time_zone` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    names: NameGlobs = option(TIMES, _NAMES)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def offset_s(batch: AffectedCalls) -> Floats:
            hours = batch.random.integers(23) - 11
            return 3600.0 * np.where(hours < 0, hours, hours + 1)

        change = ChangeLeaves(self.kind, times_moved(self.names, offset_s), out_of_space=self.out_of_space)
        return Composition(
            ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, times(self.names, 3600.0)
        )


# --- whole replies ---


@fault("other_record", _SILENT)
class OtherRecord(Fault):
    """Some replies are the answer to another, earlier call, about something else.

    It ties the tools together: the answer may have been one of another.
    Drawn from those of the last `memory` answers that differ from this one. Records: `other_record` (of: the number,
    among those of its tool, of the call whose answer it was; -1 for the observation before the first call).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    memory: int = number(8, 1, 1000, "how many answers are remembered to draw from")
    targets: NameGlobs = targets()

    def compose(self) -> Composition:
        return Composition(ReplayOtherReply(self.kind, self.memory), self.scaled("rate"), self.targets)


@fault("false_success", _SILENT)
class FalseSuccess(Fault):
    """Success is reported for what was not done: the call never arrives, and the last answer of its tool comes again.

    A tool that has not answered yet is left alone. Records: `false_success` (lost: "request").
    """

    rate: float = scaled(0.3, 0, 1, "share of the calls that are not carried out")

    def compose(self) -> Composition:
        return Composition(FakeSuccess(self.kind), self.scaled("rate"))


@fault("false_failure", _SILENT)
class FalseFailure(Fault):
    """Failure is reported for what was done.

    The error is "server_error", and the answer is lost. Records: `false_failure` (lost: "answer").
    """

    rate: float = scaled(0.3, 0, 1, "share of the calls that are carried out and reported as failed")

    def compose(self) -> Composition:
        return Composition(FailAfterExecution(self.kind, "server_error"), self.scaled("rate"))


# --- rows ---


@fault("duplicated_rows", _SILENT)
class DuplicatedRows(Fault):
    """A row of each list arrives twice.

    Rows are the items of a list, or what stands along the first axis of an array. An array keeps its length, and loses
    its last row for it, but for `out_of_space=True`.
    Records: `duplicated_rows` (leaf; before, after: how many rows).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def choose(count: int, random: CallRandom) -> Any:
            places = np.arange(count + 1)
            return places - (places > random.integers(count)[:, None])

        change = ChangeRows(self.kind, choose, self.out_of_space)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, ROWS)


@fault("reordered_rows", _SILENT)
class ReorderedRows(Fault):
    """The rows of each list arrive in another order.

    Rows are as for `duplicated_rows`. Records: `reordered_rows` (leaf; before, after: how many rows).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        change = ChangeRows(self.kind, lambda count, random: random.permutation(count), self.out_of_space)
        return Composition(ChangeReplies(change), self.scaled("rate"), self.targets, self.out_of_space, ROWS)


@fault("off_by_one_page", _SILENT)
class OffByOnePage(Fault):
    """A page begins one row late and repeats its last row; where the call names a page, the next page is fetched.

    It names one by an argument that is a whole number. Rows are as for `duplicated_rows`.
    Records: `off_by_one_page` (leaf; before, after: how many rows; or argument, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    arguments: NameGlobs = option(("page", "offset", "start", "cursor"), "globs over arguments that name a page")
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        rows = ChangeRows(self.kind, _next_row, self.out_of_space)
        effect = TurnPage(self.kind, self.arguments, ChangeReplies(rows))
        return Composition(effect, self.scaled("rate"), self.targets, self.out_of_space, ROWS)


def _next_row(count: int, random: CallRandom) -> Any:
    return np.minimum(np.arange(1, count + 1), count - 1)[None]


@dataclass(frozen=True)
class TurnPage(Effect):
    """Calls that name a page ask for the next one; to the others happens something else."""

    kind: str
    arguments: tuple[str, ...]
    otherwise: Effect

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        calls = {row: batch.calls.call(row) for row in batch.rows.tolist()} if batch.calls.has_named_arguments else {}
        pages = {row: name for row, call in calls.items() for name in [self._page(call.arguments)] if name}
        changed = {row: _next_page(calls[row], name) for row, name in pages.items()}
        if batch.scope.is_representable is not None:
            changed = {row: call for row, call in changed.items() if batch.scope.is_representable(row, call)}
        turned = np.array([row in changed for row in batch.rows.tolist()], np.bool_)
        details = [
            {"argument": name, "before": int(calls[row].arguments[name]), "after": int(changed[row].arguments[name])}
            for row, name in pages.items()
            if row in changed
        ]
        batch[turned].record(self.kind, lambda: details)
        asking = batch.calls.with_calls(changed) if changed else batch.calls
        if turned.all():
            return (yield from forward(asking))
        return (yield from self.otherwise.run(batch.with_calls(asking, ~turned), forward))

    def _page(self, arguments: Any) -> str | None:
        """The first argument that names a page by a whole number."""
        whole = {name: value for name, value in arguments.items() if is_whole(value)}
        return next((name for name in whole if matches(name, self.arguments)), None)


def is_whole(value: Any) -> bool:
    """Whether an argument is a whole number, numpy's too."""
    whole = isinstance(value, int | np.integer) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
    )
    return whole and not isinstance(value, bool)


def _next_page(call: Call, name: str) -> Call:
    page = call.arguments[name]
    following = page + 1 if isinstance(page, int) else np.asarray(int(page) + 1, page.dtype)[()]
    return call._replace(arguments={**call.arguments, name: following})
