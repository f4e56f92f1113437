"""Refusing: the service answers, and the answer is no. Standing for the statuses of RFC 9110 and RFC 6585."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.chance import Words
from worldsim.faults.exchange import Passing
from worldsim.faults.fault import count, number
from worldsim.faults.leafwise import as_text
from worldsim.faults.many.payloads import Rows
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import ArrayFault, Floats, Mask, Struck
from worldsim.spaces import Leaf

RETRIED_WITHIN = 100  # calls: services, too, keep a request's key for a while, and take what comes later for a new one
_FORGETS = f"One that is not retried within {RETRIED_WITHIN} calls is forgotten"


@dataclass(frozen=True, kw_only=True)
class Refusal(ArrayFault):
    """Some calls are refused. By default nothing was done then.

    Records: the kind of the fault (status, where there is one; lost: "request" or "answer").
    """

    error: ClassVar[str]
    status: ClassVar[int | None]
    says: ClassVar[str]  # the phrase of the status

    lose_answer: float = number(0.0, 0, 1, "share of the refusals that come after the call was carried out")
    retry_after_s: float | None = number(None, 0, 1e9, "seconds after which the service asks to be called again")

    @property
    def passing(self) -> Passing:
        return Passing.AT_MOST_ONCE if self.lose_answer < 1 else Passing.AS_IS

    @abstractmethod
    def refused(self, struck: Struck) -> Mask:
        """Which calls, (n,), are refused; asked once for each."""

    def before(self, struck: Struck) -> Mask:
        struck.kept["refused"] = refused = self.refused(struck)
        done = struck.draws.random() < self.lose_answer
        status = {} if self.status is None else {"status": self.status}
        lost = np.where(done, "answer", "request")[refused]
        struck[refused].record(self.kind, lambda: [{**status, "lost": what} for what in lost.tolist()])
        return refused & ~done

    def after(self, struck: Struck, replies: Replies) -> None:
        rows = struck.rows[struck.kept["refused"]]
        raw = None if self.status is None else as_text({"status": self.status, "error": self.says})
        replies.lose(rows, self.error, raw)
        replies.retry_after_s[rows] = np.nan if self.retry_after_s is None else self.retry_after_s


@dataclass(frozen=True, kw_only=True)
class SomeRefused(Refusal):
    """A share of the calls is refused, each by itself or until it has been retried often enough.

    A refused call that is not retried for `RETRIED_WITHIN` calls of the episode is a new one when it comes again.
    """

    rate: float = number(0.4, 0, 1, "share of the calls that are refused at severity 1")
    until_retried: int = count(
        0, 0, 1000, f"a refused call is refused until so many retries; 0: each try is by itself. {_FORGETS}"
    )

    @property
    def share(self) -> float:
        """Share of the calls that are refused."""
        return self.severity * self.rate

    def strikes(self, uniforms: Floats, leaves: tuple[Leaf, ...] | None) -> Mask:
        waits = self.until_retried > 0  # and then it must see the retries
        return np.ones(uniforms.shape, np.bool_) if waits else uniforms < self.share

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        self._waiting(struck).begin(struck.rows)

    def _waiting(self, struck: Struck) -> "_Waiting":
        waiting: _Waiting = struck.memory.setdefault("waiting", _Waiting(struck.count))
        return waiting

    def refused(self, struck: Struck) -> Mask:
        if not self.until_retried:
            return np.ones(len(struck), np.bool_)
        waiting, calls = self._waiting(struck), struck.asked.hashes(struck.rows)
        again, left = waiting.again(struck.rows, struck.numbers, calls)
        new = ~again & (struck.uniforms < self.share)
        waiting.add(struck.rows[new], struck.numbers[new], calls[new], self.until_retried)
        return new | again & (left > 0)


class _Waiting:
    """Calls of N environments that are refused until they have been retried: a table of words and counts.

    Who never calls the same again, as with continuous actions, would fill it without end if nothing was forgotten.
    """

    def __init__(self, count: int) -> None:
        self._table = np.zeros((count, 4), [("call", np.uint64), ("left", np.int64), ("tried", np.int64)])

    def begin(self, rows: Rows) -> None:
        """Episodes of these environments begin, and nothing waits."""
        self._table["left"][rows] = 0

    def again(self, rows: Rows, numbers: NDArray[np.int64], calls: Words) -> tuple[Mask, NDArray[np.int64]]:
        """One try of each of these calls, (n,): which of them wait, and how often they must still be retried."""
        same = (self._table["call"][rows] == calls[:, None]) & self._waits(rows, numbers)
        waits, place = same.any(1), same.argmax(1)
        self._table["left"][rows[waits], place[waits]] -= 1
        self._table["tried"][rows[waits], place[waits]] = numbers[waits]
        return waits, self._table["left"][rows, place]

    def add(self, rows: Rows, numbers: NDArray[np.int64], calls: Words, retries: int) -> None:
        """These calls wait from now on."""
        free = ~self._waits(rows, numbers)
        if not free.any(1).all():
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], 1)
            free = ~self._waits(rows, numbers)
        place = free.argmax(1)
        for field, values in (("call", calls), ("left", retries), ("tried", numbers)):
            self._table[field][rows, place] = values

    def _waits(self, rows: Rows, numbers: NDArray[np.int64]) -> Mask:
        """Which places of the table, (n, places), hold calls that wait while calls `numbers` are made."""
        kept: Mask = numbers[:, None] - self._table["tried"][rows] <= RETRIED_WITHIN
        return kept & (self._table["left"][rows] > 0)


@dataclass(frozen=True, kw_only=True)
class RateLimited(SomeRefused):
    """429 Too Many Requests, with Retry-After.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `rate_limited` (status, lost).
    """

    kind: ClassVar[str] = "rate_limited"
    error, status, says = "rate_limited", 429, "Too Many Requests"

    retry_after_s: float | None = number(2.0, 0, 1e9, "seconds after which the service asks to be called again")


@dataclass(frozen=True, kw_only=True)
class ServerError(SomeRefused):
    """500 Internal Server Error: half of the times all was done before it broke.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `server_error` (status, lost).
    """

    kind: ClassVar[str] = "server_error"
    error, status, says = "server_error", 500, "Internal Server Error"

    lose_answer: float = number(0.5, 0, 1, "share of the errors that come after the call was carried out")


@dataclass(frozen=True, kw_only=True)
class BadGateway(SomeRefused):
    """502 Bad Gateway: something between caller and service gave up; half of the times the service did not.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `bad_gateway` (status, lost).
    """

    kind: ClassVar[str] = "bad_gateway"
    error, status, says = "bad_gateway", 502, "Bad Gateway"

    lose_answer: float = number(0.5, 0, 1, "share of the errors that come after the call was carried out")


@dataclass(frozen=True, kw_only=True)
class Unavailable(SomeRefused):
    """503 Service Unavailable, with Retry-After.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `unavailable` (status, lost).
    """

    kind: ClassVar[str] = "unavailable"
    error, status, says = "unavailable", 503, "Service Unavailable"

    retry_after_s: float | None = number(1.0, 0, 1e9, "seconds after which the service asks to be called again")


@dataclass(frozen=True, kw_only=True)
class DroppedConnection(SomeRefused):
    """The connection is reset: no status, no answer. Half of the times the call had been carried out.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `dropped_connection` (lost).
    """

    kind: ClassVar[str] = "dropped_connection"
    error, status, says = "connection", None, ""

    lose_answer: float = number(0.5, 0, 1, "share of the drops that come after the call was carried out")


@dataclass(frozen=True, kw_only=True)
class _Outage(Refusal):
    """Refuses calls for a while once something has happened."""

    outage_calls: int = count(5, 1, 10**9, "how many calls it lasts, the first one counted")

    @abstractmethod
    def chances(self, struck: Struck, tool: str) -> Floats | float:
        """The probability that it begins at calls of this tool."""

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        for until in self._until(struck).values():
            until[struck.rows] = 0

    def _until(self, struck: Struck) -> dict[str, NDArray[np.int64]]:
        """The numbers of the calls, (N,), up to which each tool that was ever called is down."""
        until: dict[str, NDArray[np.int64]] = struck.memory.setdefault("until", {})
        return until

    def parts(self, struck: Struck) -> Iterable[tuple[str, Mask]]:
        """What goes down by itself, and which of the calls, (n,), are calls of it: by default each tool."""
        return struck.by_tool()

    def refused(self, struck: Struck) -> Mask:
        refused = np.zeros(len(struck), np.bool_)
        for tool, which in self.parts(struck):
            calls = struck[which]
            until = self._until(struck).setdefault(tool, np.zeros(struck.count, np.int64))
            hit = calls.uniforms < self.chances(calls, tool)  # who is hit while down stays down for longer
            until[calls.rows[hit]] = calls.numbers[hit] + self.outage_calls
            refused[which] = until[calls.rows] > calls.numbers
        return refused


@dataclass(frozen=True, kw_only=True)
class ExpiredToken(_Outage):
    """401 Unauthorized for every tool until the token is renewed, which takes `outage_calls` calls.

    | severity | share |
    |----------|-------|
    | 0.5      | 2.5 % |
    | 1        | 5 %   |

    `share` is the probability that the token expires at a call. Records: `expired_token` (status, lost).
    """

    kind: ClassVar[str] = "expired_token"
    error, status, says = "unauthorized", 401, "Unauthorized"

    rate: float = number(0.05, 0, 1, "probability that the token expires at a call at severity 1")

    @property
    def share(self) -> float:
        """Probability that the token expires at a call."""
        return self.severity * self.rate

    def parts(self, struck: Struck) -> Iterable[tuple[str, Mask]]:
        return [("", np.ones(len(struck), np.bool_))]

    def chances(self, struck: Struck, tool: str) -> float:
        return self.share


@dataclass(frozen=True, kw_only=True)
class LostPermission(_Outage):
    """403 Forbidden: a tool that worked is not allowed any more, for the rest of the episode.

    | severity | share |
    |----------|-------|
    | 0.5      | 1 %   |
    | 1        | 2 %   |

    `share` is the probability that the permission for a tool is lost at a call of it.
    Records: `lost_permission` (status, lost).
    """

    kind: ClassVar[str] = "lost_permission"
    error, status, says = "forbidden", 403, "Forbidden"

    rate: float = number(0.02, 0, 1, "probability that a tool's permission is lost at a call of it at severity 1")
    outage_calls: int = count(10**9, 1, 10**9, "how many calls it lasts, the first one counted")

    @property
    def share(self) -> float:
        """Probability that the permission for a tool is lost at a call of it."""
        return self.severity * self.rate

    def chances(self, struck: Struck, tool: str) -> float:
        return self.share


@dataclass(frozen=True, kw_only=True)
class QuotaExceeded(Refusal):
    """429 with no Retry-After: the episode's quota of calls is used up.

    | severity | allowed |
    |----------|---------|
    | 0.25     | 75      |
    | 0.5      | 50      |
    | 1        | 0       |

    Calls at which the fault is at work are counted: with `tools`, only theirs. Records: `quota_exceeded` (status,
    lost).
    """

    kind: ClassVar[str] = "quota_exceeded"
    error, status, says = "quota", 429, "Quota Exceeded"

    calls: int = count(100, 0, 10**9, "calls that a quota allows where severity is nearly 0")

    @property
    def allowed(self) -> int:
        """How many calls the quota allows."""
        return round((1 - self.severity) * self.calls)

    def first_seen(self, struck: Struck, shown: Replies) -> None:
        struck.numbers_kept("used", 0)[struck.rows] = 0

    def refused(self, struck: Struck) -> Mask:
        used = struck.numbers_kept("used", 0)
        used[struck.rows] += 1
        return used[struck.rows] > self.allowed


@dataclass(frozen=True, kw_only=True)
class Cascade(_Outage):
    """503, and it spreads: once one tool is down, each call of another is likely to find that one down, too.

    | severity | share | pull |
    |----------|-------|------|
    | 0.5      | 2.5 % | 25 % |
    | 1        | 5 %   | 50 % |

    `share` is the probability that a tool goes down at a call of it while all others are up, `pull` while another one
    is down. Records: `cascade` (status, lost).
    """

    kind: ClassVar[str] = "cascade"
    error, status, says = "unavailable", 503, "Service Unavailable"

    rate: float = number(0.05, 0, 1, "probability that a tool goes down by itself at a call of it at severity 1")
    spread: float = number(0.5, 0, 1, "the same while another tool is down")

    @property
    def share(self) -> float:
        """Probability that a tool goes down by itself at a call of it."""
        return self.severity * self.rate

    @property
    def pull(self) -> float:
        """Probability that a tool goes down at a call of it while another one is down."""
        return max(self.share, self.severity * self.spread)

    def chances(self, struck: Struck, tool: str) -> Floats:
        others = [until[struck.rows] for name, until in self._until(struck).items() if name != tool]
        pulled = np.any([until > struck.numbers for until in others], 0)
        return np.where(pulled, self.pull, self.share)
