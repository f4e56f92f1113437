"""Stale and repeated: answers from before, and actions that come late, twice, or in another order."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.chance import whole
from worldsim.faults.exchange import Passing
from worldsim.faults.fault import LeafFault, count, number, option
from worldsim.faults.many.past import Past, unmixed
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import ArrayFault, ForwardMany, Mask, Struck
from worldsim.spaces import Leaf

Ages = NDArray[np.int64]

_HOLD, _DRAW = 3, 4  # lanes of the dice


@dataclass(frozen=True, kw_only=True)
class _Stale(LeafFault, ArrayFault):
    """Replies show what they showed some calls ago, in the leaves that are targets. What was done is done.

    Records: the kind of the fault (age: so many answers ago).
    """

    @property
    @abstractmethod
    def oldest(self) -> int:
        """The greatest age that it gives."""

    @abstractmethod
    def ages(self, struck: Struck) -> Ages:
        """How many answers ago these replies are from, (n,). Asked once for each answer."""

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        answers = struck.past("answers", self.oldest + 1)
        answers.begin(struck.rows)
        answers.add(struck.rows, shown, struck.known_leaves)

    def after(self, struck: Struck, replies: Replies) -> None:
        answered, answers = struck[replies.ok[struck.rows]], struck.past("answers", self.oldest + 1)
        answers.add(answered.rows, replies, struck.known_leaves)
        ages = np.minimum(self.ages(answered), answers.known[answered.rows] - 1)
        stale, ages = answered[ages > 0], ages[ages > 0]
        if not len(stale):
            return
        shown = answers.back(stale.rows, replies, ages, stale.first.mixed)
        differ = shown.differ(replies)
        stale[differ].record(self.kind, lambda: [{"age": age} for age in ages[differ].tolist()])
        shown.write(differ, replies)


@dataclass(frozen=True, kw_only=True)
class PreviousAnswer(_Stale):
    """Some replies are the previous answer again.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `previous_answer` (age: 1).
    """

    kind: ClassVar[str] = "previous_answer"

    rate: float = number(0.4, 0, 1, "share of the replies that are the previous answer at severity 1")

    @property
    def share(self) -> float:
        """Share of the replies that are the previous answer."""
        return self.severity * self.rate

    @property
    def oldest(self) -> int:
        return 1

    def ages(self, struck: Struck) -> Ages:
        return (struck.uniforms < self.share).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class StaleCache(_Stale):
    """A cache answers: it is filled every so many calls, and its answers grow old in between.

    | severity | oldest |
    |----------|--------|
    | 0.25     | 2      |
    | 0.5      | 4      |
    | 1        | 8      |

    `oldest` is the age, in answers, just before the cache is filled again. Records: `stale_cache` (age).
    """

    kind: ClassVar[str] = "stale_cache"

    calls: int = count(8, 1, 1000, "age just before the cache is filled again, in answers, at severity 1")

    @property
    def oldest(self) -> int:
        """Age just before the cache is filled again, in answers."""
        return math.ceil(self.severity * self.calls)

    def ages(self, struck: Struck) -> Ages:
        return (struck.numbers + 1) % (self.oldest + 1)  # the cache is filled when the episode starts


@dataclass(frozen=True, kw_only=True)
class DelayedObservation(_Stale):
    """Observations arrive late by a number of calls that changes now and then.

    | severity | least | oldest |
    |----------|-------|--------|
    | 0.25     | 0     | 1      |
    | 0.5      | 0     | 2      |
    | 1        | 0     | 4      |

    The delay is drawn evenly from `least` to `oldest` and then held for the next call with probability `hold`.
    Records: `delayed_observation` (age).
    """

    kind: ClassVar[str] = "delayed_observation"

    min_calls: int = count(0, 0, 1000, "shortest delay at severity 1, in calls")
    max_calls: int = count(4, 0, 1000, "longest delay at severity 1, in calls")
    hold: float = number(0.5, 0, 1, "probability that a call has the same delay as the one before")

    @property
    def least(self) -> int:
        """Shortest delay in calls."""
        return min(round(self.severity * self.min_calls), self.oldest)

    @property
    def oldest(self) -> int:
        """Longest delay in calls."""
        return math.ceil(self.severity * self.max_calls)

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        super().first_seen(struck, shown)
        _begin_delays(struck)

    def ages(self, struck: Struck) -> Ages:
        return _held_delays(self.least, self.oldest, self.hold, struck)


_DELAYS = "drawn_at", "reached"  # the calls at which the present delays were drawn, and the last ones asked about


def _begin_delays(struck: Struck) -> None:
    """Episodes begin, and no delays have been drawn."""
    for name in _DELAYS:
        struck.numbers_kept(name, -1)[struck.rows] = -1


def _held_delays(least: int, most: int, hold: float, struck: Struck) -> Ages:
    """Delays, (n,), drawn evenly from a range, and held from call to call with probability `hold`."""
    drawn_at, reached = (struck.numbers_kept(name, -1) for name in _DELAYS)
    behind = struck
    while len(behind := behind[reached[behind.rows] < behind.numbers]):
        reached[behind.rows] += 1
        now = reached[behind.rows]
        anew = (drawn_at[behind.rows] < 0) | (behind.uniforms_of(now, _HOLD) >= hold)
        drawn_at[behind.rows[anew]] = now[anew]
    return least + whole(struck.uniforms_of(drawn_at[struck.rows], _DRAW), most - least + 1)


@dataclass(frozen=True, kw_only=True)
class EventualConsistency(_Stale):
    """What was written is seen only some calls later: until then, replies show what they showed before the write.

    | severity | oldest |
    |----------|--------|
    | 0.25     | 2      |
    | 0.5      | 3      |
    | 1        | 6      |

    `oldest` is the number of calls, the write's own counted, that do not show it. Name the tools that write in `writes`
    and the leaves that lag in `targets`: a service mostly tells at once how the call itself went.
    Records: `eventual_consistency` (age).
    """

    kind: ClassVar[str] = "eventual_consistency"

    calls: int = count(6, 1, 1000, "calls that do not show a write at severity 1")
    writes: tuple[str, ...] = option(("*",), "globs over the tools that write")

    @property
    def oldest(self) -> int:
        """Calls, the write's own counted, that do not show it."""
        return math.ceil(self.severity * self.calls)

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        super().first_seen(struck, shown)
        self._written(struck)[struck.rows] = False

    def _written(self, struck: Struck) -> Mask:
        """Whether each of the last answers was one to a write, (N, oldest), the newest last."""
        written: Mask = struck.memory.setdefault("written", np.zeros((struck.count, self.oldest), np.bool_))
        return written

    def ages(self, struck: Struck) -> Ages:
        written = self._written(struck)
        recent = written[struck.rows]
        recent[:, :-1] = recent[:, 1:]
        recent[:, -1] = struck.asked.calling(struck.rows, self.writes)
        written[struck.rows] = recent
        return np.where(recent.any(1), self.oldest - recent.argmax(1), 0)


# --- actions ---


@dataclass(frozen=True, kw_only=True)
class DuplicateExecution(ArrayFault):
    """Some calls are carried out twice, and the second answer arrives: a retry that nobody asked for.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    Records: `duplicate_execution`.
    """

    kind: ClassVar[str] = "duplicate_execution"

    rate: float = number(0.3, 0, 1, "share of the calls that are carried out twice at severity 1")

    @property
    def share(self) -> float:
        """Share of the calls that are carried out twice."""
        return self.severity * self.rate

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        return uniforms < self.share

    def exchange_many(self, struck: Struck, forward: ForwardMany) -> Replies:
        struck.record(self.kind, lambda: [{} for _ in struck.rows])
        forward(struck.asked.only(struck.rows))
        return forward(struck.asked)


@dataclass(frozen=True, kw_only=True)
class ReorderedDelivery(ArrayFault):
    """Some calls are overtaken by the next one: carried out after it, while the caller believes that they are done.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    A call that is held back is answered with the last answer; the reply to the next one comes after both.
    Records: `reordered_delivery` (held: the number of the call; lost: "request" where it is held back).
    """

    kind: ClassVar[str] = "reordered_delivery"

    rate: float = number(0.3, 0, 1, "share of the calls that are held back at severity 1, if none is already")

    @property
    def share(self) -> float:
        """Share of the calls that are held back, if none is already."""
        return self.severity * self.rate

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        answers, waiting, held = self._memory(struck)
        answers.begin(struck.rows)
        answers.add(struck.rows, shown, struck.known_leaves)
        waiting.begin(struck.rows)
        held[struck.rows] = -1

    def _memory(self, struck: Struck) -> tuple[Past, Past, NDArray[np.int64]]:
        """The last answers, the calls that are held back, and those calls' numbers, -1 where there is none."""
        return struck.past("answers", 1), struck.past("waiting", 1), struck.numbers_kept("held", -1)

    def exchange_many(self, struck: Struck, forward: ForwardMany) -> Replies:
        answers, waiting, held = self._memory(struck)
        free = held[struck.rows] < 0
        late, due = struck[free & (struck.uniforms < self.share)], struck[~free]
        late.record(self.kind, lambda: [{"held": number, "lost": "request"} for number in late.numbers.tolist()])
        waiting.add(late.rows, late.asked.asked, late.asked.leaves)
        replies = forward(struck.asked.without(late.rows))
        if len(due):
            numbers = held[due.rows]
            due.record(self.kind, lambda: [{"held": number} for number in numbers.tolist()])
            asked = due.asked.asked.copy()
            waiting.repeat(due.rows, asked)
            replies.take(due.rows, forward(due.asked.only(due.rows).asking(asked)))
        held[due.rows], held[late.rows] = -1, late.numbers
        answered = struck.rows[replies.ok[struck.rows] & ~np.isin(struck.rows, late.rows)]
        answers.add(answered, replies, struck.known_leaves)
        replies.arrive(late.rows)
        answers.repeat(late.rows, replies)
        return replies


@dataclass(frozen=True, kw_only=True)
class _OtherAction(ArrayFault):
    """What is carried out is what was asked for, or done, some calls ago."""

    @property
    def passing(self) -> Passing:
        return Passing.CHANGED

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        struck.past("calls", self.remembered).begin(struck.rows)

    @property
    def remembered(self) -> int:
        """How many calls must be remembered."""
        return 1

    @abstractmethod
    def ages(self, struck: Struck, calls: Past) -> Ages:
        """How many of the remembered calls ago that is which is carried out, (n,); it adds what is to be remembered."""

    def exchange_many(self, struck: Struck, forward: ForwardMany) -> Replies:
        calls, asked = struck.past("calls", self.remembered), struck.asked.asked.copy()
        ages = self.ages(struck, calls)
        done = calls.back(struck.rows, asked, ages, unmixed)
        differ = done.differ(asked)
        done.write(differ, asked)
        struck[differ].record(self.kind, lambda: self.details(ages[differ]))
        return forward(struck.asked.asking(asked))

    def details(self, ages: Ages) -> list[dict[str, Any]]:
        """What records tell of calls that were carried out instead."""
        return [{} for _ in ages]


@dataclass(frozen=True, kw_only=True)
class DelayedAction(_OtherAction):
    """What is carried out is what was asked for some calls ago.

    | severity | least | most |
    |----------|-------|------|
    | 0.25     | 0     | 1    |
    | 0.5      | 0     | 2    |
    | 1        | 0     | 4    |

    The delay is drawn evenly from `least` to `most` calls and then held for the next call with probability `hold`.
    Before the first call has come through, it is carried out at once. Records: `delayed_action` (age) where something
    else was carried out than was asked for.
    """

    kind: ClassVar[str] = "delayed_action"

    min_calls: int = count(0, 0, 1000, "shortest delay at severity 1, in calls")
    max_calls: int = count(4, 0, 1000, "longest delay at severity 1, in calls")
    hold: float = number(0.5, 0, 1, "probability that a call has the same delay as the one before")

    @property
    def least(self) -> int:
        """Shortest delay in calls."""
        return min(round(self.severity * self.min_calls), self.most)

    @property
    def most(self) -> int:
        """Longest delay in calls."""
        return math.ceil(self.severity * self.max_calls)

    @property
    def remembered(self) -> int:
        return self.most + 1

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        super().first_seen(struck, shown)
        _begin_delays(struck)

    def ages(self, struck: Struck, calls: Past) -> Ages:
        calls.add(struck.rows, struck.asked.asked, struck.asked.leaves)
        delays = _held_delays(self.least, self.most, self.hold, struck)
        return np.minimum(delays, calls.known[struck.rows] - 1)

    def details(self, ages: Ages) -> list[dict[str, Any]]:
        return [{"age": age} for age in ages.tolist()]


@dataclass(frozen=True, kw_only=True)
class StickyAction(_OtherAction):
    """Some calls carry out again what the last one did (Machado et al. 2018, sticky actions).

    | severity | share  |
    |----------|--------|
    | 0.5      | 12.5 % |
    | 1        | 25 %   |

    Records: `sticky_action` where something else was carried out than was asked for.
    """

    kind: ClassVar[str] = "sticky_action"

    rate: float = number(0.25, 0, 1, "share of the calls that repeat the last action at severity 1")

    @property
    def share(self) -> float:
        """Share of the calls that repeat the last action."""
        return self.severity * self.rate

    def ages(self, struck: Struck, calls: Past) -> Ages:
        sticks = (calls.known[struck.rows] > 0) & (struck.uniforms < self.share)
        calls.add(struck.rows[~sticks], struck.asked.asked, struck.asked.leaves)  # what sticks is remembered already
        return np.zeros(len(struck), np.int64)
