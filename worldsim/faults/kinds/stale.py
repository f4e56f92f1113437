"""Stale and repeated: answers from before, and actions that come late, twice, or in another order."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.replays import Ages, ExecuteTwice, ReorderCalls, ReplayCall, ReplayReply
from worldsim.faults.parameters import EVERYTHING, NameGlobs, matches, number, option, scaled, targets
from worldsim.faults.payload_history import PayloadHistory
from worldsim.spaces import Leaf

_STALE = "stale and repeated"
_HOLD, _DELAY, _ROUNDING = 3, 4, 5  # streams


@fault("previous_answer", _STALE)
class PreviousAnswer(Fault):
    """Some replies are the previous answer to the same request again.

    One answer old and never older: those of `stale_cache` age, those of `delayed_observation` are late by chance.
    Records: `previous_answer` (age: 1).
    """

    rate: float = scaled(0.4, 0, 1, "share of the replies that are the previous answer")
    targets: NameGlobs = targets()

    def compose(self) -> Composition:
        effect = ReplayReply(self.kind, 1, lambda batch, known: batch.triggered.astype(np.int64))
        return Composition(effect, self.scaled("rate"), self.targets)


@fault("stale_cache", _STALE)
class StaleCache(Fault):
    """A cache answers some calls: for each request it is refreshed every so many answers, and grows old in between.

    All requests that it answers age alike; `delayed_observation` draws how old an answer is.
    Records: `stale_cache` (age: so many answers to the same request ago).
    """

    rate: float = scaled(1.0, 0, 1, "share of the calls that the cache answers")
    calls: int = number(8, 1, 1000, "age of an answer just before the cache is filled again, in answers")
    targets: NameGlobs = targets()

    def compose(self) -> Composition:
        def ages(batch: AffectedCalls, known: Ages) -> Ages:
            return np.where(batch.triggered, (known - 1) % (self.calls + 1), 0)  # the first answer fills the cache

        return Composition(ReplayReply(self.kind, self.calls, ages), self.scaled("rate"), self.targets)


def delays(batch: AffectedCalls, least: float, most: float, hold: float) -> Ages:
    """Delays in calls, (n,), drawn evenly from a range and held from call to call with probability `hold`.

    Parts of a call are rounded up or down by chance, so that the mean is right and grows with the range.
    """
    _, drawn = batch.last_where(lambda random: random.uniform(_HOLD) >= hold)
    between = least + (most - least) * drawn.uniform(_DELAY)
    return np.floor(between + drawn.uniform(_ROUNDING)).astype(np.int64)


@fault("delayed_observation", _STALE)
class DelayedObservation(Fault):
    """Observations arrive late by a number of calls that changes now and then.

    The delay is drawn uniformly from `min_calls` to `max_calls` and then held for the next call with probability
    `hold`; parts of a call are rounded up or down by chance. It is counted in answers to the same request.
    Records: `delayed_observation` (age).
    """

    min_calls: float = scaled(0, 0, 1000, "shortest delay, in calls of the tool")
    max_calls: float = scaled(4, 0, 1000, "longest delay, in calls of the tool")
    hold: float = number(0.5, 0, 1, "probability that a call has the same delay as the one before")
    targets: NameGlobs = targets()

    def compose(self) -> Composition:
        most = max(self.scaled("min_calls"), self.scaled("max_calls"))

        def ages(batch: AffectedCalls, known: Ages) -> Ages:
            return np.where(batch.triggered, delays(batch, self.scaled("min_calls"), most, self.hold), 0)

        return Composition(ReplayReply(self.kind, math.ceil(most) + 1, ages), targets=self.targets)


@fault("eventual_consistency", _STALE)
class EventualConsistency(Fault):
    """Some writes become visible only some calls later: until then, replies show the state before.

    A request that was answered before the write gets that answer again. Name the tools that write in `writes` and the
    leaves that lag in `targets`: most services say at once how the write itself went.
    It ties the tools together: reads of one do not show yet what another has written.
    Records: `eventual_consistency` (age: so many answers to the same request ago).
    """

    rate: float = scaled(0.3, 0, 1, "share of the writes that become visible late")
    calls: int = number(6, 1, 1000, "calls, the write's own counted, that do not show it")
    writes: NameGlobs = option(EVERYTHING, "globs over the tools that write")
    targets: NameGlobs = targets()

    def compose(self) -> Composition:
        return Composition(ReplayReply(self.kind, self.calls, self._ages), self.scaled("rate"), self.targets)

    def idle_reason(self, tools: Sequence[str] | None, leaves: Sequence[Leaf] | None) -> str | None:
        if tools is not None and not any(matches(tool, self.writes) for tool in tools):
            return f"there is no tool {', '.join(self.writes)} that writes"
        return super().idle_reason(tools, leaves)

    def _ages(self, batch: AffectedCalls, known: Ages) -> Ages:
        """How many answers to the same request there were since the first write that is not seen yet."""
        sessions = batch.memory.objects("session", _Lag)
        writes = batch.calls.calls_tool(batch.rows, self.writes) & batch.triggered
        requests: list[Any] = batch.request_keys() or [None] * len(batch)
        found = []
        each = zip(batch.rows.tolist(), requests, writes.tolist(), known.tolist(), strict=True)
        for row, request, is_write, answers in each:
            age = sessions[row].age(request, is_write, self.calls)
            found.append(age if age < answers else 0)  # nothing is known of the time before the write
        return np.array(found, np.int64)


class _Lag:
    """Which writes of a session are not seen yet, and when its requests were answered, in calls."""

    def __init__(self) -> None:
        self.now = 0
        self.writes: deque[int] = deque()
        self.answered: dict[Any, deque[int]] = {}  # the one that was answered last is the last

    def age(self, request: Any, is_write: bool, lasts: int) -> int:
        """How many answers to a request, this one counted, came since the first write that is not seen yet."""
        while self.writes and self.now - self.writes[0] >= lasts:
            self.writes.popleft()
        if is_write:
            self.writes.append(self.now)
        times = self.answered[request] = self.answered.pop(request, deque(maxlen=lasts))
        times.append(self.now)
        while self.now - self.answered[oldest := next(iter(self.answered))][-1] >= lasts:
            del self.answered[oldest]
        self.now += 1
        return sum(time >= self.writes[0] for time in times) if self.writes else 0


# --- actions ---


@fault("duplicate_execution", _STALE)
class DuplicateExecution(Fault):
    """Some calls are carried out twice, and the second answer arrives: an unwanted retry.

    Records: `duplicate_execution`.
    """

    rate: float = scaled(0.3, 0, 1, "share of the calls that are carried out twice")

    def compose(self) -> Composition:
        return Composition(ExecuteTwice(self.kind), self.scaled("rate"))


@fault("reordered_delivery", _STALE)
class ReorderedDelivery(Fault):
    """Some calls are overtaken by the next one: carried out after it, while the caller believes that they are done.

    A call that is held back is answered with the last answer of its tool; the reply to the next one comes after both.
    A tool that has not answered yet is left alone, and what is held back when the session ends is never carried out.
    It ties the tools together: the next call may be one of another.
    Records: `reordered_delivery` (held: the number of the call; lost: "request" where it is held back).
    """

    rate: float = scaled(0.3, 0, 1, "share of the calls that are held back, if none is already")

    def compose(self) -> Composition:
        return Composition(ReorderCalls(self.kind), self.scaled("rate"))


@fault("delayed_action", _STALE)
class DelayedAction(Fault):
    """What is carried out is what was asked for some calls ago.

    The delay is drawn uniformly from `min_calls` to `max_calls` and then held for the next call with probability
    `hold`; parts of a call are rounded up or down by chance. No delay reaches back before the first call: it is carried
    out at once, and again until enough calls have been made.
    It ties the tools together: what was asked for may have been a call of another one.
    Records: `delayed_action` (age) where something else was carried out than was asked for.
    """

    min_calls: float = scaled(0, 0, 1000, "shortest delay, in calls of the tool")
    max_calls: float = scaled(4, 0, 1000, "longest delay, in calls of the tool")
    hold: float = number(0.5, 0, 1, "probability that a call has the same delay as the one before")

    def compose(self) -> Composition:
        most = max(self.scaled("min_calls"), self.scaled("max_calls"))
        remembered = math.ceil(most) + 2

        def ages(batch: AffectedCalls, calls: PayloadHistory) -> Ages:
            calls.add(batch.rows, batch.rows, batch.calls.payloads, batch.calls.leaves)
            late = np.where(batch.triggered, delays(batch, self.scaled("min_calls"), most, self.hold), 0)
            return np.asarray(np.minimum(late, np.minimum(calls.counts[batch.rows], remembered) - 1))

        return Composition(
            ReplayCall(self.kind, remembered, ages, lambda ages: [{"age": age} for age in ages.tolist()])
        )


@fault("sticky_action", _STALE)
class StickyAction(Fault):
    """Some calls carry out again what the last one did (Machado et al. 2018, sticky actions).

    It ties the tools together: the last call may have been one of another.
    Records: `sticky_action` where something else was carried out than was asked for.
    """

    rate: float = scaled(0.25, 0, 1, "share of the calls that repeat the last action")

    def compose(self) -> Composition:
        def ages(batch: AffectedCalls, calls: PayloadHistory) -> Ages:
            sticks = (calls.counts[batch.rows] > 0) & batch.triggered
            new = batch.rows[~sticks]
            calls.add(new, new, batch.calls.payloads, batch.calls.leaves)  # what sticks is remembered already
            return np.zeros(len(batch), np.int64)

        return Composition(ReplayCall(self.kind, 1, ages), self.scaled("rate"))
