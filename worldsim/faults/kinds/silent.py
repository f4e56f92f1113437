"""Malformed, silent: replies that are valid against their schema, and wrong."""

import re
from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.chance import Draws
from worldsim.faults.exchange import Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, number, option
from worldsim.faults.fault import matches as named_like
from worldsim.faults.kinds import frames, wrong
from worldsim.faults.kinds.changes import BatchChange, Changes, ColumnChange, SomeLeaves, SomeReplies
from worldsim.faults.kinds.pairs import exchangeable, exchanged, first_of
from worldsim.faults.kinds.rows import RowChange
from worldsim.faults.leafwise import Values
from worldsim.faults.many.past import Past
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import ArrayFault, Floats, ForwardMany, Struck
from worldsim.spaces import Leaf

_DIGITS = re.compile(r"\d{2,}")


@dataclass(frozen=True, kw_only=True)
class _NumberChange(ColumnChange):
    """Changes numbers, and one entry of vectors of them, that are no frames."""

    def suits(self, leaf: Leaf, value: Any) -> bool:
        is_number = isinstance(leaf.space, spaces.Box | spaces.Discrete) and not frames.frame_axes(leaf.space)
        return is_number and not isinstance(value, bool) and super().suits(leaf, value)


@dataclass(frozen=True, kw_only=True)
class TransposedDigits(SomeLeaves, _NumberChange):
    """Two neighbouring digits of a number, or of a number in a text, stand in each other's place.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Of numbers with decimals the digits before the point. Records: `transposed_digits` (leaf, before, after).
    """

    kind: ClassVar[str] = "transposed_digits"

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        chance = draws.random(0, 4)
        if isinstance(leaf.space, spaces.Discrete):
            return wrong.digits_transposed(values, leaf.space, self.severity, chance)
        return wrong.numbers_changed(leaf, values, chance[:, 0], partial(_transposed, chance=chance[:, 1]))

    def texts_changed(self, leaf: Leaf, texts: list[str], draws: Draws, struck: Struck) -> list[Any]:
        return [_text_transposed(*each) for each in zip(texts, draws.random(0, 2).tolist(), strict=True)]


def _transposed(numbers: Floats, chance: Floats) -> Floats:
    """Numbers with two neighbouring digits before the point, of the first 15, in each other's place."""
    scales = 10.0 ** np.maximum(np.floor(np.log10(np.maximum(np.abs(numbers), 1.0))) - 14, 0)
    leading = np.trunc(numbers / scales).astype(np.int64)
    steps = (wrong.transposed(leading, chance) - leading) * scales
    return np.where(steps == 0, numbers, numbers + steps)


def _text_transposed(text: str, chance: list[float]) -> str:
    found = list(_DIGITS.finditer(text))
    if not found:
        return text
    run = found[int(chance[0] * len(found))]
    place = run.start() + int(chance[1] * (run.end() - 1 - run.start()))
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


@dataclass(frozen=True, kw_only=True)
class SwappedFields(SomeReplies, BatchChange):
    """Two fields of one kind have each other's value: given name and surname, latitude and longitude.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Only where both values are possible in both places. Frames are left alone. Records: `swapped_fields` (leaf, other).
    """

    kind: ClassVar[str] = "swapped_fields"

    def change(self, struck: Struck, replies: Replies) -> None:
        leaves = [leaf for leaf in struck.leaves(replies) if not frames.frame_axes(leaf.space)]
        replies.settle()
        inside = replies.batched(struck.rows)
        for some in (struck[inside], *(struck[[position]] for position in np.flatnonzero(~inside).tolist())):
            if len(some) and len(leaves) > 1:
                self._swap(leaves, some, replies)

    def _swap(self, leaves: list[Leaf], struck: Struck, replies: Replies) -> None:
        """Exchange two leaves of replies that have all the same form."""
        values = [replies.values(leaf, struck.rows) for leaf in leaves]
        pairs = exchangeable(leaves, values, self.out_of_space or struck.first.plain)
        if not len(pairs.one):
            return
        one, other, hit = first_of(pairs, struck.draws.permutation(len(leaves)))
        told = one[hit], other[hit]
        struck[hit].record(
            self.kind,
            lambda: [{"leaf": leaves[a].name, "other": leaves[b].name} for a, b in zip(*told, strict=True)],
        )
        changes: Changes = []
        for position, leaf in enumerate(leaves):
            rows = np.flatnonzero(hit & ((one == position) | (other == position)))
            if len(rows):
                sources = (one + other - position)[rows]
                changes.append((leaf, struck.rows[rows], exchanged(values, sources, rows)))
        for each in changes:
            replies.write(*each)


@dataclass(frozen=True, kw_only=True)
class WrongUnit(SomeLeaves, _NumberChange):
    """A number is in another unit or currency: cents for euros, metres for feet, grams for kilograms.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Multiplied by one of `factors`; clipped into the space of a vector. Records: `wrong_unit` (leaf, before, after).
    """

    kind: ClassVar[str] = "wrong_unit"

    factors: tuple[float, ...] = option((100.0, 0.01, 1000.0, 0.001, 1.1, 0.3048, 2.2046), "what numbers are times")

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        factors = np.array(self.factors)[draws.integers(len(self.factors), 1)]
        return wrong.numbers_changed(leaf, values, draws.random(), lambda numbers: numbers * factors)


@dataclass(frozen=True, kw_only=True)
class _WrongTime(_NumberChange):
    """Moves times: ISO 8601 in texts, and numbers in leaves that are named like a time."""

    names: tuple[str, ...] = option(
        ("*time*", "*clock*", "*date*", "*stamp*", "*_at"), "globs over the names of leaves in which numbers are times"
    )

    @abstractmethod
    def steps(self, struck: Struck) -> Floats:
        """By how much times are off, (n,), in seconds or in a leaf's own units."""

    def suits(self, leaf: Leaf, value: Any) -> bool:
        return named_like(leaf.name.rsplit("/", 1)[-1], self.names) and super().suits(leaf, value)

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        return wrong.numbers_changed(leaf, values, draws.random(), lambda numbers: numbers + self.steps(struck))

    def texts_changed(self, leaf: Leaf, texts: list[str], draws: Draws, struck: Struck) -> list[Any]:
        return [_iso_moved(*each) for each in zip(texts, self.steps(struck).tolist(), strict=True)]


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


@dataclass(frozen=True, kw_only=True)
class ClockSkew(_WrongTime):
    """The service's clock is wrong: every time in its replies is off by the same.

    | severity | skew  |
    |----------|-------|
    | 0.5      | 1800  |
    | 1        | 3600  |

    Texts in ISO 8601 are `skew` seconds late; numbers, where the leaf's name says that they are times, `skew` of their
    own units, clipped into a vector's space and left alone where a class would not exist.
    Records: `clock_skew` (leaf, before, after).
    """

    kind: ClassVar[str] = "clock_skew"

    most: float = number(
        3600.0, -1e9, 1e9, "how late the clock is at severity 1, in seconds or in the leaf's own units"
    )

    @property
    def skew(self) -> float:
        """How late the clock is, in seconds or in the leaf's own units."""
        return self.severity * self.most

    def steps(self, struck: Struck) -> Floats:
        return np.full(len(struck), self.skew)


@dataclass(frozen=True, kw_only=True)
class WrongTimeZone(SomeReplies, _WrongTime):
    """All times of a reply are local to somewhere else, and say that they are not.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Off by a whole number of hours from -11 to 12, the same in one reply; numbers, where the leaf's name says that they
    are times, by 3600 of their own units an hour. Records: `wrong_time_zone` (leaf, before, after).
    """

    kind: ClassVar[str] = "wrong_time_zone"

    def steps(self, struck: Struck) -> Floats:
        hours = struck.draws.integers(23) - 11
        return 3600.0 * np.where(hours < 0, hours, hours + 1)


# --- whole replies ---


@dataclass(frozen=True, kw_only=True)
class OtherRecord(SomeReplies, ArrayFault):
    """The answer to another call: what was asked some calls ago, about something else.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Drawn from the last `memory` answers that differ from this one. Records: `other_record` (of: the number of the call
    whose answer it was, -1 for what was seen first).
    """

    kind: ClassVar[str] = "other_record"

    memory: float = number(8, 1, 1000, "how many answers are kept to draw from")

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return np.ones(uniforms.shape, np.bool_)  # answers are kept, to give again

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        answers, numbers = self._answers(struck)
        answers.begin(struck.rows)
        answers.add(struck.rows, shown, struck.known_leaves)
        numbers[struck.rows] = -1

    def _answers(self, struck: Struck) -> tuple[Past, NDArray[np.int64]]:
        """The answers that are kept, and the numbers of their calls, (N, memory), the newest first."""
        depth = round(self.memory)
        numbers: NDArray[np.int64] = struck.memory.setdefault("numbers", np.full((struck.count, depth), -1))
        return struck.past("answers", depth), numbers

    def after(self, struck: Struck, replies: Replies) -> None:
        struck = struck[replies.ok[struck.rows]]
        answers, numbers = self._answers(struck)
        asked = struck[struck.uniforms < self.share]
        others = answers.others(asked.rows, replies, asked.first.mixed)
        asked, others = asked[others.any(1)], others[others.any(1)]
        ages = (others.cumsum(1) > asked.draws.integers(others.sum(1))[:, None]).argmax(1)
        of = numbers[asked.rows, ages]
        shown = answers.back(asked.rows, replies, ages, asked.first.mixed)
        answers.add(struck.rows, replies, struck.known_leaves)
        numbers[struck.rows] = np.roll(numbers[struck.rows], 1, 1)
        numbers[struck.rows, 0] = struck.numbers
        asked.record(self.kind, lambda: [{"of": number} for number in of.tolist()])
        shown.write(np.ones(len(asked), np.bool_), replies)


@dataclass(frozen=True, kw_only=True)
class FalseSuccess(ArrayFault):
    """Success is reported for what was not done: the call never arrives, and the answer is one from before.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    The answer is the last one of the same tool, or else the last of all. Records: `false_success` (lost: "request").
    """

    kind: ClassVar[str] = "false_success"

    rate: float = number(0.3, 0, 1, "share of the calls that are not carried out at severity 1")

    @property
    def share(self) -> float:
        """Share of the calls that are not carried out."""
        return self.severity * self.rate

    @property
    def passing(self) -> Passing:
        return Passing.AT_MOST_ONCE

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        for answers in (struck.past("last", 1), *self._of_tools(struck).values()):
            answers.begin(struck.rows)
        struck.past("last", 1).add(struck.rows, shown, struck.known_leaves)

    def _of_tools(self, struck: Struck) -> dict[str, Past]:
        """The last answers of each tool that was ever called."""
        of_tools: dict[str, Past] = struck.memory.setdefault("tools", {})
        return of_tools

    def exchange_many(self, struck: Struck, forward: ForwardMany) -> Replies:
        lies = struck.uniforms < self.share
        struck[lies].record(self.kind, lambda: [{"lost": "request"} for _ in struck.rows[lies]])
        replies = forward(struck.asked.without(struck.rows[lies]))
        self._remember(struck[~lies & replies.ok[struck.rows]], replies)
        replies.arrive(struck.rows[lies])
        for tool, which in struck[lies].by_tool():
            rows, answers = struck.rows[lies][which], self._of_tools(struck).get(tool, struck.past("last", 1))
            answered = answers.known[rows] > 0
            answers.repeat(rows[answered], replies)
            struck.past("last", 1).repeat(rows[~answered], replies)
        return replies

    def _remember(self, answered: Struck, replies: Replies) -> None:
        answered.past("last", 1).add(answered.rows, replies, answered.known_leaves)
        for tool, which in answered.by_tool():
            answers = self._of_tools(answered).setdefault(tool, Past(answered.count, 1))
            answers.add(answered.rows[which], replies, answered.known_leaves)


@dataclass(frozen=True, kw_only=True)
class FalseFailure(ArrayFault):
    """Failure is reported for what was done.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    The error is "server_error", and nothing is said of the answer. Records: `false_failure` (lost: "answer").
    """

    kind: ClassVar[str] = "false_failure"

    rate: float = number(0.3, 0, 1, "share of the calls that are carried out and reported as failed at severity 1")

    @property
    def share(self) -> float:
        """Share of the calls that are carried out and reported as failed."""
        return self.severity * self.rate

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return uniforms < self.share

    def after(self, struck: Struck, replies: Replies) -> None:
        done = struck[replies.ok[struck.rows]]
        done.record(self.kind, lambda: [{"lost": "answer"} for _ in done.rows])
        replies.lose(done.rows, "server_error")


# --- rows ---


@dataclass(frozen=True, kw_only=True)
class DuplicatedRows(RowChange):
    """A row arrives twice.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `duplicated_rows` (leaf, and the numbers of rows before and after).
    """

    kind: ClassVar[str] = "duplicated_rows"

    def chosen(self, count: int, draws: Draws) -> NDArray[np.int64]:
        places = np.arange(count + 1)
        return places - (places > draws.integers(count)[:, None])


@dataclass(frozen=True, kw_only=True)
class ReorderedRows(RowChange):
    """Rows arrive in another order.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `reordered_rows` (leaf, and the numbers of rows before and after).
    """

    kind: ClassVar[str] = "reordered_rows"

    def chosen(self, count: int, draws: Draws) -> NDArray[np.int64]:
        return draws.permutation(count)


@dataclass(frozen=True, kw_only=True)
class OffByOnePage(RowChange):
    """A page begins one row late, and repeats its last one; where the call names a page, the next page is fetched.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `off_by_one_page` (leaf, and the numbers of rows before and after; or argument, before, after).
    """

    kind: ClassVar[str] = "off_by_one_page"

    arguments: tuple[str, ...] = option(("page", "offset", "start", "cursor"), "globs over arguments that name a page")

    @property
    def passing(self) -> Passing:
        return Passing.CHANGED

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        pages = [
            name for name, value in call.arguments.items() if named_like(name, self.arguments) and type(value) is int
        ]
        if not pages or context.uniform() >= self.share:
            return super().exchange(call, forward, context)
        name, page = pages[0], call.arguments[pages[0]]
        context.record(self.kind, argument=name, before=page, after=page + 1)
        return forward(call._replace(arguments={**call.arguments, name: page + 1}))

    def chosen(self, count: int, draws: Draws) -> NDArray[np.int64]:
        return np.minimum(np.arange(1, count + 1), count - 1)[None]
