"""Calls that take time, and callers that give up."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldsim.faults.arrays import Mask
from worldsim.faults.effects.base import (
    AffectedCalls,
    ByCallIndex,
    Effect,
    EffectGenerator,
    ForwardCalls,
    Wait,
    same_details,
)
from worldsim.faults.replies import Replies
from worldsim.spaces import Floats

ON_TIME_S = 1e-6  # what counts as the same moment: clocks are sums of rounded numbers


@dataclass(frozen=True)
class Delay(Effect):
    """Every call waits before it is passed on.

    latencies_s: the seconds of n calls, by their uniforms and numbers. least_s: shorter waits than that do not happen.
    """

    latencies_s: ByCallIndex
    least_s: float = 0.0

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        latencies_s = batch.by_call_index("latency", self.latencies_s)
        if self.least_s:
            waits = latencies_s >= self.least_s
            batch, latencies_s = batch[waits], latencies_s[waits]
        yield delay(batch, latencies_s)
        return (yield from forward(batch.calls))


def delay(batch: AffectedCalls, latencies_s: Floats) -> Wait:
    """That calls wait, (n,) seconds, which is recorded: `yield delay(...)`."""
    batch.record("delay", lambda: [{"latency_s": each} for each in latencies_s.tolist()])
    return Wait(batch.calls, batch.rows, latencies_s)


@dataclass(frozen=True)
class TimeOut(Effect):
    """Every caller waits `timeout_s` in vain: the request is lost and nothing was done, or only the answer is.

    request_lost: whether the request is. kind: of the records.
    """

    kind: str
    timeout_s: float
    request_lost: bool

    @property
    def may_drop(self) -> bool:
        return self.request_lost

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        batch.record(self.kind, same_details(batch, lost="request" if self.request_lost else "answer"))
        ends_s = batch.now_s + self.timeout_s
        calls = batch.calls.without(batch.rows) if self.request_lost else batch.calls.with_deadline(batch.rows, ends_s)
        replies = yield from forward(calls)
        yield from give_up(batch, ends_s, replies)
        return replies


@dataclass(frozen=True)
class SlowService(Effect):
    """Every call takes time, and callers give up after `timeout_s`, whatever it was that took so long.

    latencies_s: the seconds of n calls, by their uniforms and numbers. lose_answer: share of the calls that take too
    long by themselves, in which only the answer is lost and not the request.
    """

    latencies_s: ByCallIndex
    timeout_s: float
    lose_answer: float

    @property
    def may_drop(self) -> bool:
        return self.lose_answer < 1

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        latencies_s, ends_s = batch.by_call_index("latency", self.latencies_s), batch.now_s + self.timeout_s
        calls = batch.calls.with_deadline(batch.rows, ends_s)
        slow = latencies_s >= self.timeout_s
        if not np.count_nonzero(slow):
            yield delay(batch, latencies_s)
            replies = yield from forward(calls)
            yield from self._too_late(batch, latencies_s, ends_s, replies)
            return replies
        in_time = ~slow
        timed_out, others = batch[slow], batch[in_time]
        if len(others):
            yield delay(others, latencies_s[in_time])
        request_lost = timed_out.random.uniform() >= self.lose_answer
        record_timeouts(timed_out, request_lost, latencies_s[slow])
        replies = yield from forward(calls.without(timed_out.rows[request_lost]))
        yield from give_up(timed_out, ends_s[slow], replies)
        if len(others):
            yield from self._too_late(others, latencies_s[in_time], ends_s[in_time], replies)
        return replies

    def _too_late(self, batch: AffectedCalls, latencies_s: Floats, ends_s: Floats, replies: Replies) -> EffectGenerator:
        """Time out the calls that inner faults, or the service, have delayed until their callers gave up."""
        late = batch.now_s >= ends_s - ON_TIME_S
        if np.count_nonzero(late):
            batch, latencies_s, ends_s = batch[late], latencies_s[late], ends_s[late]
            record_timeouts(batch, np.zeros(len(batch), np.bool_), latencies_s)
            yield from give_up(batch, ends_s, replies)
        return replies


def record_timeouts(batch: AffectedCalls, request_lost: Mask, latencies_s: Floats) -> None:
    """Record what was lost, (n,), the request or its answer, and how long each call would have taken by itself."""
    each = request_lost, latencies_s
    batch.record(
        "timeout",
        lambda: [
            {"lost": "request" if lost else "answer", "latency_s": s}
            for lost, s in zip(*(one.tolist() for one in each), strict=True)
        ],
    )


def give_up(batch: AffectedCalls, ends_s: Floats, replies: Replies) -> EffectGenerator:
    """Callers wait until `ends_s`, (n,) on their clocks, and get nothing."""
    yield from batch.wait(ends_s - batch.now_s)
    replies.lose(batch.rows, "timeout")
    return replies


@dataclass(frozen=True)
class Trickle(Effect):
    """Replies take time that depends on their size; who loses patience gets none of it, and what was done stays done.

    sizes: bytes of the replies, (n,). seconds_per_kib: of a reply. patience_s: after which the caller gives up.
    """

    sizes: Callable[[Replies, AffectedCalls], Floats]
    seconds_per_kib: float
    patience_s: float

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        replies = yield from forward(batch.calls)
        batch = batch.answered(replies)
        if not len(batch):
            return replies
        size_bytes = self.sizes(replies, batch)
        needed_s = self.seconds_per_kib * size_bytes / 1024
        cut = needed_s > self.patience_s
        columns = size_bytes, needed_s, cut
        batch.record("drip", lambda: [_drip(*one) for one in zip(*(each.tolist() for each in columns), strict=True)])
        yield from batch.wait(np.minimum(needed_s, self.patience_s))
        replies.lose(batch.rows[cut], "timeout")
        return replies


def _drip(size_bytes: int, latency_s: float, cut: bool) -> dict[str, float | bool]:
    return {"size_bytes": size_bytes, "latency_s": latency_s, "cut": cut}
