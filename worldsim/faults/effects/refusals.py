"""Calls that are refused, before or after they were carried out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldsim.faults.arrays import Mask
from worldsim.faults.effects.base import AffectedCalls, Effect, EffectGenerator, ForwardCalls, Scope, same_details
from worldsim.faults.replies import Replies
from worldsim.faults.trees import as_text
from worldsim.spaces import Floats


@dataclass(frozen=True)
class Refusal:
    """How a service refuses a call.

    error: one of `worldsim.faults.ERRORS`. status, phrase: of HTTP (RFC 9110, RFC 6585); None: no response at all.
    """

    error: str
    status: int | None = None
    phrase: str = ""

    @property
    def raw(self) -> str | None:
        """The body that arrives."""
        return None if self.status is None else as_text({"status": self.status, "error": self.phrase})


def every_call(batch: AffectedCalls) -> Mask:
    """All calls on which the fault triggers are refused."""
    return np.ones(len(batch), np.bool_)


@dataclass(frozen=True)
class Refuse(Effect):
    """Calls are refused.

    refusal: how. refused: which calls, (n,), computed once for each. lose_answer: share of the refusals that come after
    the call was executed. retry_after_s: seconds in the Retry-After header, one number, or one for each call. counts:
    whether it needs all calls, because `refused` counts them.
    """

    kind: str
    refusal: Refusal
    refused: Callable[[AffectedCalls], Mask] = every_call
    lose_answer: float = 0.0
    retry_after_s: float | Callable[[AffectedCalls], Floats] | None = None
    counts: bool = False

    @property
    def may_drop(self) -> bool:
        return self.lose_answer < 1

    def needs_all_calls(self, scope: Scope) -> bool:
        return self.counts

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        batch = batch[self.refused(batch)]
        done = batch.random.uniform() < self.lose_answer if self.lose_answer else np.zeros(len(batch), np.bool_)
        status = {} if self.refusal.status is None else {"status": self.refusal.status}
        batch.record(self.kind, lambda: [{**status, "lost": "answer" if each else "request"} for each in done.tolist()])
        waits = self.retry_after_s(batch) if callable(self.retry_after_s) else self.retry_after_s
        replies = yield from forward(batch.calls.without(batch.rows[~done]))
        replies.lose(batch.rows, self.refusal.error, self.refusal.raw)
        replies.retry_after_s[batch.rows] = np.nan if waits is None else waits
        return replies


@dataclass(frozen=True)
class FailAfterExecution(Effect):
    """Calls are carried out, and reported as failed: their answers are lost."""

    kind: str
    error: str

    def run(self, batch: AffectedCalls, forward: ForwardCalls) -> EffectGenerator:
        replies: Replies = yield from forward(batch.calls)
        done = batch.answered(replies)
        done.record(self.kind, same_details(done, lost="answer"))
        replies.lose(done.rows, self.error)
        return replies
