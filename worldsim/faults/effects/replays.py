"""Earlier replies again, and calls that are executed late, twice, or in another order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.arrays import Rows
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls, Scope, same_details
from worldsim.faults.payload_history import PayloadHistory, replace_whole
from worldsim.faults.replies import Replies

Ages = NDArray[np.int64]


def answers_to_same_request(batch: AffectedCalls, depth: int) -> tuple[PayloadHistory, Rows]:
    """The last answers to the very requests of these calls, and which line of them is each call's."""
    history = batch.memory.history("answers", depth)
    return history, history.buffers(batch.rows, batch.request_keys())


def remember_first_answers(batch: AffectedCalls, initial: Replies, depth: int) -> None:
    """The observation before the first call is the first answer, where all calls are the same request."""
    if batch.scope.one_request:
        history = batch.memory.history("answers", depth)
        history.add(batch.rows, batch.rows, initial, batch.scope.leaves or ())


@dataclass(frozen=True)
class ReplayReply(Effect):
    """Replies have the leaves, those that are targets, of an earlier reply to the same request.

    What was done is done. kind: of the records. oldest: the greatest age. ages: how many answers to the same request
    ago, (n,), computed once for each answer, with how many answers there are with this one, (n,); 0 is this one.
    """

    kind: str
    oldest: int
    ages: Callable[[AffectedCalls, Ages], Ages]

    def needs_all_calls(self, scope: Scope) -> bool:
        return True

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:
        remember_first_answers(batch, initial, self.oldest + 1)

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        replies = yield from forward(batch.calls)
        answered = batch.answered(replies).changeable(replies)
        if not len(answered):
            return replies
        history, buffers = answers_to_same_request(answered, self.oldest + 1)
        history.add(buffers, answered.rows, replies, answered.scope.leaves or ())
        ages = np.clip(
            self.ages(answered, history.counts[buffers]), 0, np.minimum(history.counts[buffers] - 1, self.oldest)
        )
        old = ages > 0
        stale, buffers, ages = answered[old], buffers[old], ages[old]
        if not len(stale):
            return replies
        shown = history.look_back(buffers, stale.rows, replies, ages, stale.combine)
        differ = shown.differ(replies)
        stale[differ].record(self.kind, lambda: [{"age": age} for age in ages[differ].tolist()])
        shown.write(differ, replies)
        return replies


@dataclass(frozen=True)
class ReplayOtherReply(Effect):
    """Replies are answers to other calls: one of the last `memory` answers of the session that differ from this one."""

    kind: str
    memory: int

    def needs_all_calls(self, scope: Scope) -> bool:
        return True

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:
        history, calls = self._answers(batch)
        history.add(batch.rows, batch.rows, initial, batch.scope.leaves or ())
        calls[batch.rows, 0] = -1

    def _answers(self, batch: AffectedCalls) -> tuple[PayloadHistory, NDArray[np.int64]]:
        """The answers, and the numbers of their calls, (N, memory), the newest first."""
        calls = batch.memory.array("calls", -1, (self.memory,))
        return batch.memory.history("answers", self.memory), calls

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        replies = yield from forward(batch.calls)
        batch = batch.answered(replies).changeable(replies)
        if not len(batch):
            return replies
        history, calls = self._answers(batch)
        chosen = batch[batch.triggered]
        others = history.differing_from(chosen.rows, chosen.rows, replies, chosen.combine)
        has_other = others.any(1)
        chosen, others = chosen[has_other], others[has_other]
        ages = (others.cumsum(1) > chosen.random.integers(others.sum(1))[:, None]).argmax(1)
        of = calls[chosen.rows, ages]
        shown = history.look_back(chosen.rows, chosen.rows, replies, ages, chosen.combine)
        history.add(batch.rows, batch.rows, replies, batch.scope.leaves or ())
        calls[batch.rows] = np.roll(calls[batch.rows], 1, 1)
        calls[batch.rows, 0] = batch.numbers
        chosen.record(self.kind, lambda: [{"of": number} for number in of.tolist()])
        shown.write(np.ones(len(chosen), np.bool_), replies)
        return replies


def last_answers(batch: AffectedCalls) -> tuple[PayloadHistory, Rows]:
    """The last answer of each tool that is called."""
    history = batch.memory.history("answers", 1)
    names = None if batch.scope.one_request else batch.tools.tolist()
    return history, history.buffers(batch.rows, names)


def remember_last(batch: AffectedCalls, replies: Replies) -> None:
    """Remember these answers as the last ones of their tools."""
    answered = batch.answered(replies).changeable(replies)
    if len(answered):
        history, buffers = last_answers(answered)
        history.add(buffers, answered.rows, replies, answered.scope.leaves or ())


@dataclass(frozen=True)
class FakeSuccess(Effect):
    """Success is reported for what was not done: the call never arrives, and the last answer of its tool comes again.

    A tool that has not answered yet is left alone: there is nothing that could be pretended.
    """

    kind: str

    @property
    def may_drop(self) -> bool:
        return True

    def needs_all_calls(self, scope: Scope) -> bool:
        return True

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:
        remember_first_answers(batch, initial, 1)

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        history, buffers = last_answers(batch)
        lies = batch.triggered & (history.counts[buffers] > 0)
        lied, buffers = batch[lies], buffers[lies]
        lied.record(self.kind, same_details(lied, lost="request"))
        replies = yield from forward(batch.calls.without(lied.rows))
        remember_last(batch[~lies], replies)
        replies.arrive(lied.rows)
        history.write_last(buffers, lied.rows, replies)
        return replies


@dataclass(frozen=True)
class ExecuteTwice(Effect):
    """Calls are executed twice, and the second reply arrives: an unwanted retry."""

    kind: str

    @property
    def may_repeat(self) -> bool:
        return True

    @property
    def may_drop(self) -> bool:
        return True  # the calls of other sessions are not executed the first time

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        batch.record(self.kind, same_details(batch))
        yield from forward(batch.calls.only(batch.rows))
        return (yield from forward(batch.calls))


@dataclass(frozen=True)
class ReorderCalls(Effect):
    """Calls are executed after the next one, while their callers believe that they are done.

    A call that is held back is answered with the last answer of its tool; the reply to the next one comes after both.
    """

    kind: str

    @property
    def may_drop(self) -> bool:
        return True

    @property
    def may_repeat(self) -> bool:
        return True

    def needs_all_calls(self, scope: Scope) -> bool:
        return True

    def begin(self, batch: AffectedCalls, initial: Replies) -> None:
        remember_first_answers(batch, initial, 1)

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        history, buffers = last_answers(batch)
        waiting = batch.memory.history("waiting", 1)
        held = batch.memory.array("held", -1)  # the numbers of the calls that wait
        free = held[batch.rows] < 0
        delays_call = free & batch.triggered & (history.counts[buffers] > 0)
        delayed, released = batch[delays_call], batch[~free]
        delayed.record(self.kind, lambda: [{"held": each, "lost": "request"} for each in delayed.numbers.tolist()])
        waiting.add(delayed.rows, delayed.rows, delayed.calls.payloads, delayed.calls.leaves)
        numbers = held[released.rows]
        held[released.rows], held[delayed.rows] = -1, delayed.numbers
        replies = yield from forward(batch.calls.without(delayed.rows))
        if len(released):
            released.record(self.kind, lambda: [{"held": number} for number in numbers.tolist()])
            payloads = released.calls.payloads.copy()
            waiting.write_last(released.rows, released.rows, payloads)
            after = yield from forward(released.calls.only(released.rows).with_payloads(payloads))
            if (
                batch.scope.one_request
            ):  # an observation shows the state after both; a tool's reply answers its own call
                replies.take(released.rows, after)
        remember_last(batch[~delays_call], replies)
        replies.arrive(delayed.rows)
        history.write_last(buffers[delays_call], delayed.rows, replies)
        return replies


@dataclass(frozen=True)
class ReplayCall(Effect):
    """Instead of a call an earlier one is executed again.

    remembered: how many calls are. ages: how many of the remembered calls ago, (n,); it adds what is to be remembered.
    details: of the records of calls that were replaced.
    """

    kind: str
    remembered: int
    ages: Callable[[AffectedCalls, PayloadHistory], Ages]
    details: Callable[[Ages], Sequence[dict[str, Any]]] = lambda ages: [{} for _ in ages]

    def needs_all_calls(self, scope: Scope) -> bool:
        return True

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        calls, payloads = batch.memory.history("calls", self.remembered), batch.calls.payloads.copy()
        ages = self.ages(batch, calls)
        done = calls.look_back(batch.rows, batch.rows, payloads, ages, replace_whole)
        differ = done.differ(payloads)
        done.write(differ, payloads)
        batch[differ].record(self.kind, lambda: self.details(ages[differ]))
        return (yield from forward(batch.calls.with_payloads(payloads)))
