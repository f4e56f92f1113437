"""Refusing: the service answers, and the answer is no. Statuses as in RFC 9110 and RFC 6585."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from worldsim.faults.arrays import Mask
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.delays import ON_TIME_S
from worldsim.faults.effects.refusals import Refusal, Refuse, every_call
from worldsim.faults.parameters import number, option, scaled
from worldsim.spaces import Floats

RETRIED_WITHIN = 100  # calls: services, too, keep a request's key for a while, and take what comes later for a new one
_REFUSING = "refusing"
_RATE = "share of the calls that are refused"
_UNTIL_RETRIED = (
    "a refused call stays refused for so many retries; 0: each try is drawn on its own. "
    f"One that is not retried within {RETRIED_WITHIN} calls of its tool is forgotten"
)
_AFTER = "share of the refusals that come after the call was carried out"
_RETRY_AFTER = "seconds in the Retry-After header; null: no header"


def refusal(
    given: Fault, response: Refusal, lose_answer: float, retry_after_s: float | None, until_retried: int
) -> Composition:
    """A share of the calls is refused, each by itself or until it has been retried often enough."""
    refused = _until(until_retried) if until_retried else every_call
    effect = Refuse(given.kind, response, refused, lose_answer, retry_after_s, counts=until_retried > 0)
    return Composition(effect, trigger_probability=given.scaled("rate"))


def _until(retries: int) -> Callable[[AffectedCalls], Mask]:
    """Calls that are refused until they have been retried so often: the same request, by canonical JSON."""

    def refused(batch: AffectedCalls) -> Mask:
        waiting = batch.memory.objects("waiting", dict[Any, list[int]])  # request -> retries that are left, last try
        found = np.zeros(len(batch), np.bool_)
        each = zip(batch.rows.tolist(), batch.calls.request_keys(batch.rows), batch.numbers.tolist(), strict=True)
        for position, ((row, request, at), hit) in enumerate(zip(each, batch.triggered.tolist(), strict=True)):
            known = waiting[row].get(request)
            if known is not None and at - known[1] <= RETRIED_WITHIN:
                known[:] = known[0] - 1, at
                if known[0] <= 0:
                    del waiting[row][request]
                else:
                    found[position] = True
            elif hit:
                waiting[row] = {key: one for key, one in waiting[row].items() if at - one[1] <= RETRIED_WITHIN}
                waiting[row][request] = [retries, at]
                found[position] = True
        return found

    return refused


@fault("rate_limited", _REFUSING)
class RateLimited(Fault):
    """429 Too Many Requests, with Retry-After.

    With `until_retry_after` the service enforces it: a tool that has refused a call refuses all others, too, until so
    much time has passed on the clock. A client that waits is served, one that retries at once is not.

    Records: `rate_limited` (status, lost).
    """

    rate: float = scaled(0.4, 0, 1, _RATE)
    until_retried: int = number(0, 0, 1000, _UNTIL_RETRIED)
    until_retry_after: bool = option(False, "refuse a tool's calls until the time that a refusal asked for has passed")
    retry_after_s: float | None = number(2.0, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.0, 0, 1, _AFTER)

    def compose(self) -> Composition:
        response = Refusal("rate_limited", 429, "Too Many Requests")
        if not self.until_retry_after:
            return refusal(self, response, self.lose_answer, self.retry_after_s, self.until_retried)
        wait_s = self.retry_after_s or 0.0

        def refused(batch: AffectedCalls) -> Mask:
            ends = _per_tool(batch, "ends_s")
            now_s, backing_off = batch.now_s, ends < np.inf
            held = backing_off & (now_s < ends - ON_TIME_S)
            waited = backing_off & ~held & (wait_s > 0)  # however long it has waited, it is served
            new = ~held & ~waited & batch.triggered
            _set_per_tool(batch, "ends_s", new, now_s + wait_s)
            _set_per_tool(batch, "ends_s", waited, np.full(len(batch), np.inf))
            return held | new

        def left_s(batch: AffectedCalls) -> Floats:
            return np.maximum(_per_tool(batch, "ends_s") - batch.now_s, 0.0)

        effect = Refuse(self.kind, response, refused, self.lose_answer, left_s, counts=True)
        return Composition(effect, trigger_probability=self.scaled("rate"))


def _per_tool(batch: AffectedCalls, name: str) -> Floats:
    """A number that is remembered for the tool of each call, (n,); infinite until then."""
    known = batch.memory.objects(name, dict[str, float])
    each = zip(batch.rows.tolist(), batch.tools.tolist(), strict=True)
    return np.array([known[row].get(tool, np.inf) for row, tool in each])


def _set_per_tool(batch: AffectedCalls, name: str, which: Mask, values: Floats) -> None:
    known = batch.memory.objects(name, dict[str, float])
    for row, tool, value in zip(batch.rows[which].tolist(), batch.tools[which], values[which].tolist(), strict=True):
        known[row][tool] = value


@fault("throttled", _REFUSING)
class Throttled(Fault):
    """429 with Retry-After, once so many calls of a tool have been let through within `window_s` on the clock.

    The caller's own pace decides; `rate_limited` refuses by chance. Retry-After says when the oldest of them leaves the
    window: a client that waits so long is served, one that retries at once is refused.
    Records: `throttled` (status, lost).
    """

    calls: int = number(10, 1, 10**9, "calls within the window that are let through at severity 1; 1/severity times as "
                        "many at others")  # fmt: skip
    window_s: float = number(60.0, 1e-9, 1e9, "length of the window, in seconds on the clock")
    per_tool: bool = option(True, "count each tool's calls by themselves; false: all that the fault is aimed at")

    @property
    def allowed(self) -> int:
        """How many calls are let through within the window."""
        return int(np.ceil(self.calls / max(self.severity, 1e-9)))

    def values_at_severity(self) -> dict[str, float]:
        return {"calls allowed": self.allowed} if self.severity else {}

    def _recent(self, batch: AffectedCalls) -> list[deque[float]]:
        """When the calls of each call's tool were let through, (n,), that are still within the window."""
        known = batch.memory.objects("let_through", dict[str, deque[float]])
        names = batch.tools.tolist() if self.per_tool else [""] * len(batch)
        found = []
        for row, tool, now_s in zip(batch.rows.tolist(), names, batch.now_s.tolist(), strict=True):
            recent = known[row].setdefault(tool, deque())
            while recent and recent[0] <= now_s - self.window_s + ON_TIME_S:
                recent.popleft()
            found.append(recent)
        return found

    def compose(self) -> Composition:
        allowed = self.allowed

        def refused(batch: AffectedCalls) -> Mask:
            found = []
            each = zip(self._recent(batch), batch.now_s.tolist(), batch.triggered.tolist(), strict=True)
            for recent, now_s, active in each:
                found.append(active and len(recent) >= allowed)
                if not found[-1]:
                    recent.append(now_s)
            return np.array(found, np.bool_)

        def left_s(batch: AffectedCalls) -> Floats:
            recent = self._recent(batch)
            oldest = np.array([each[len(each) - allowed] if len(each) >= allowed else -np.inf for each in recent])
            return np.maximum(oldest + self.window_s - batch.now_s, 0.0)

        response = Refusal("rate_limited", 429, "Too Many Requests")
        return Composition(Refuse(self.kind, response, refused, 0.0, left_s, counts=True))


@fault("server_error", _REFUSING)
class ServerError(Fault):
    """500 Internal Server Error: half of the time the call had been carried out before it broke.

    Records: `server_error` (status, lost).
    """

    rate: float = scaled(0.4, 0, 1, _RATE)
    until_retried: int = number(0, 0, 1000, _UNTIL_RETRIED)
    retry_after_s: float | None = number(None, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.5, 0, 1, _AFTER)

    def compose(self) -> Composition:
        response = Refusal("server_error", 500, "Internal Server Error")
        return refusal(self, response, self.lose_answer, self.retry_after_s, self.until_retried)


@fault("bad_gateway", _REFUSING)
class BadGateway(Fault):
    """502 Bad Gateway: a proxy got no valid answer; half of the time the call had been carried out.

    Records: `bad_gateway` (status, lost).
    """

    rate: float = scaled(0.4, 0, 1, _RATE)
    until_retried: int = number(0, 0, 1000, _UNTIL_RETRIED)
    retry_after_s: float | None = number(None, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.5, 0, 1, _AFTER)

    def compose(self) -> Composition:
        response = Refusal("bad_gateway", 502, "Bad Gateway")
        return refusal(self, response, self.lose_answer, self.retry_after_s, self.until_retried)


@fault("unavailable", _REFUSING)
class Unavailable(Fault):
    """503 Service Unavailable, with Retry-After.

    Records: `unavailable` (status, lost).
    """

    rate: float = scaled(0.4, 0, 1, _RATE)
    until_retried: int = number(0, 0, 1000, _UNTIL_RETRIED)
    retry_after_s: float | None = number(1.0, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.0, 0, 1, _AFTER)

    def compose(self) -> Composition:
        response = Refusal("unavailable", 503, "Service Unavailable")
        return refusal(self, response, self.lose_answer, self.retry_after_s, self.until_retried)


@fault("dropped_connection", _REFUSING)
class DroppedConnection(Fault):
    """The connection is reset: no status, no answer. Half of the time the call had been carried out.

    Records: `dropped_connection` (lost).
    """

    rate: float = scaled(0.4, 0, 1, "share of the calls whose connection is reset")
    until_retried: int = number(0, 0, 1000, _UNTIL_RETRIED)
    lose_answer: float = number(0.5, 0, 1, "share of the drops that come after the call was carried out")

    def compose(self) -> Composition:
        return refusal(self, Refusal("connection"), self.lose_answer, None, self.until_retried)


# --- outages ---


def _outage(
    calls: int, chances: Callable[[AffectedCalls, str], Any], parts: Callable[[AffectedCalls], list[str]]
) -> Callable[[AffectedCalls], Mask]:
    """Calls that are refused for a while once something has happened.

    calls: how many it lasts. chances: the probabilities that it begins at calls of a part. parts: what of the service
    each call is of, (n,), which goes down by itself.
    """

    def refused(batch: AffectedCalls) -> Mask:
        found, named = np.zeros(len(batch), np.bool_), np.array(parts(batch), object)
        drawn = np.where(batch.triggered, batch.uniforms, 2.0)
        for part in dict.fromkeys(named.tolist()):
            here = named == part
            those, until = batch[here], batch.memory.array(f"until {part}", 0)
            numbers = _counted(those)
            hit = drawn[here] < chances(those, part)  # who is hit while down stays down for longer
            until[those.rows[hit]] = numbers[hit] + calls
            found[here] = until[those.rows] > numbers
        return found

    return refused


def _counted(batch: AffectedCalls) -> Any:
    """The numbers of these calls among all calls of the session that the fault sees, (n,)."""
    return batch.memory.array("calls", 0)[batch.rows]


def _counting(refused: Callable[[AffectedCalls], Mask]) -> Callable[[AffectedCalls], Mask]:
    """The same, with the calls of all tools counted together: an outage of so many calls hits them all alike."""

    def counted(batch: AffectedCalls) -> Mask:
        found = refused(batch)
        batch.memory.array("calls", 0)[batch.rows] += 1
        return found

    return counted


@fault("expired_token", _REFUSING)
class ExpiredToken(Fault):
    """401 Unauthorized for every tool, for `outage_calls` calls: then the token has been renewed.

    It ties the tools together: what happens to a call depends on those of other tools before it.
    Records: `expired_token` (status, lost).
    """

    rate: float = scaled(0.05, 0, 1, "probability that the token expires at a call")
    outage_calls: int = number(5, 1, 10**9, "how many calls, of all tools, it lasts, the first one counted")
    retry_after_s: float | None = number(None, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.0, 0, 1, _AFTER)

    def compose(self) -> Composition:
        refused = _outage(self.outage_calls, lambda batch, _: self.scaled("rate"), lambda batch: [""] * len(batch))
        response = Refusal("unauthorized", 401, "Unauthorized")
        return Composition(
            Refuse(self.kind, response, _counting(refused), self.lose_answer, self.retry_after_s, counts=True)
        )


@fault("lost_permission", _REFUSING)
class LostPermission(Fault):
    """403 Forbidden: a tool that worked is not allowed any more, for the rest of the session.

    Records: `lost_permission` (status, lost).
    """

    rate: float = scaled(0.02, 0, 1, "probability that a tool's permission is lost at a call of it")
    outage_calls: int = number(10**9, 1, 10**9, "how many calls of the tool it lasts, the first one counted")
    retry_after_s: float | None = number(None, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.0, 0, 1, _AFTER)

    def compose(self) -> Composition:
        def refused(batch: AffectedCalls) -> Mask:
            until = _per_tool(batch, "until")
            known = np.isfinite(until)
            hit = batch.triggered & (batch.uniforms < self.scaled("rate"))
            until = np.where(hit, batch.numbers + self.outage_calls, np.where(known, until, 0))
            _set_per_tool(batch, "until", hit, until)
            return np.asarray(until > batch.numbers)

        response = Refusal("forbidden", 403, "Forbidden")
        return Composition(Refuse(self.kind, response, refused, self.lose_answer, self.retry_after_s, counts=True))


@fault("quota_exceeded", _REFUSING)
class QuotaExceeded(Fault):
    """429 with no Retry-After: the session's quota of calls is used up.

    Waiting does not help, as it does where calls are `throttled`.
    It ties the tools together: calls of all of them at which the fault is active are counted; with `tools`, only
    theirs.
    Records: `quota_exceeded` (status, lost).
    """

    calls: int = number(100, 0, 10**9, "calls that a quota allows where severity is nearly 0; at severity 1 it is none")
    lose_answer: float = number(0.0, 0, 1, _AFTER)

    @property
    def allowed(self) -> int:
        """How many calls the quota allows."""
        return round((1 - self.severity) * self.calls)

    def values_at_severity(self) -> dict[str, float]:
        return {"calls allowed": self.allowed}

    def compose(self) -> Composition:
        def refused(batch: AffectedCalls) -> Mask:
            used = batch.memory.array("used", 0)
            used[batch.rows] += 1
            return np.asarray(used[batch.rows] > self.allowed)

        response = Refusal("quota", 429, "Quota Exceeded")
        return Composition(Refuse(self.kind, response, refused, self.lose_answer))


@fault("cascade", _REFUSING)
class Cascade(Fault):
    """503, and it spreads: once one tool is down, each call of another is more likely to find that one down, too.

    It ties the tools together: what happens to a call depends on those of other tools before it.
    Records: `cascade` (status, lost).
    """

    rate: float = scaled(0.05, 0, 1, "probability that a tool goes down at a call of it while all others are up")
    spread: float = scaled(0.5, 0, 1, "probability that a tool goes down at a call of it while another one is down")
    outage_calls: int = number(5, 1, 10**9, "how many calls, of all tools, it lasts, the first one counted")
    retry_after_s: float | None = number(None, 0, 1e9, _RETRY_AFTER)
    lose_answer: float = number(0.0, 0, 1, _AFTER)

    def compose(self) -> Composition:
        alone, pulled = self.scaled("rate"), max(self.scaled("rate"), self.scaled("spread"))

        def chances(batch: AffectedCalls, tool: str) -> Floats:
            down = batch.memory.objects("down", dict[str, int])
            numbers = _counted(batch).tolist()
            others = [
                any(until > at for name, until in down[row].items() if name != tool)
                for row, at in zip(batch.rows.tolist(), numbers, strict=True)
            ]
            return np.where(others, pulled, alone)

        outage = _outage(self.outage_calls, chances, lambda batch: batch.tools.tolist())

        def refused(batch: AffectedCalls) -> Mask:
            found = outage(batch)
            down = batch.memory.objects("down", dict[str, int])
            for row, tool in zip(batch.rows.tolist(), batch.tools.tolist(), strict=True):
                down[row][tool] = int(batch.memory.array(f"until {tool}", 0)[row])
            return found

        response = Refusal("unavailable", 503, "Service Unavailable")
        return Composition(
            Refuse(self.kind, response, _counting(refused), self.lose_answer, self.retry_after_s, counts=True)
        )
