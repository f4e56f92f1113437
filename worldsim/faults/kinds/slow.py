"""Slow: latencies of every shape, and time-outs that lose the request or only the answer."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from worldsim.errors import ConfigError
from worldsim.faults.exchange import LOST, Call, Forward, Passing, Reply
from worldsim.faults.fault import Context, number, option
from worldsim.faults.kinds.texts import sizes
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import ArrayFault, Floats, Mask, Struck
from worldsim.spaces import Leaf

_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class SlowAPI(ArrayFault):
    """Every call takes log-normal time; a call that takes `timeout_s` or longer is a time-out.

    A time-out loses the request (nothing was done) or only the answer (all was done, and nobody was told). The caller
    waits `timeout_s` and cannot tell which it was.

    | severity | median latency | tail (sigma) | calls that time out, with the defaults |
    |----------|----------------|--------------|----------------------------------------|
    | 0        | 0 s            | -            | 0 %                                    |
    | 0.25     | 0.75 s         | 1.025        | 5 %                                    |
    | 0.5      | 1.5 s          | 1.05         | 17 %                                   |
    | 0.75     | 2.25 s         | 1.075        | 30 %                                   |
    | 1        | 3 s            | 1.1          | 40 %                                   |

    The median is `severity * median_s`, the standard deviation of the logarithm `sigma * (1 + 0.1 * severity)`.

    Records: `delay` (latency_s) or `timeout` (lost: "request" or "answer"; latency_s: how long it would have taken).
    """

    kind: ClassVar[str] = "slow_api"

    median_s: float = number(3.0, 0, 1e9, "median latency at severity 1, in seconds")
    sigma: float = number(1.0, 0, 10, "spread of the latency: standard deviation of its natural logarithm")
    timeout_s: float = number(4.0, 0, 1e9, "how long the caller waits, in seconds")
    lose_answer: float = number(0.5, 0, 1, "share of the time-outs that lose only the answer, not the request")

    @property
    def passing(self) -> Passing:
        return Passing.AT_MOST_ONCE if self.lose_answer < 1 else Passing.AS_IS

    def before(self, struck: Struck) -> Mask:
        struck.kept["latencies_s"] = latencies_s = self.latencies_s(struck.uniforms)
        late = latencies_s >= self.timeout_s
        _wait(struck[~late], latencies_s[~late])
        request_lost = late & (struck.draws.random() >= self.lose_answer)
        lost = np.where(request_lost, "request", "answer")[late]
        lasted_s = latencies_s[late]
        struck[late].record(
            "timeout",
            lambda: [{"lost": lost, "latency_s": s} for lost, s in zip(lost.tolist(), lasted_s.tolist(), strict=True)],
        )
        return request_lost

    def after(self, struck: Struck, replies: Replies) -> None:
        latencies_s = struck.kept["latencies_s"]
        late = latencies_s >= self.timeout_s
        replies.latency_s[struck.rows[~late]] += latencies_s[~late]
        _time_out(struck[late], self.timeout_s, replies)

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        """What `before` and `after` do, without arrays, for it happens at every call."""
        latency_s = context.dice.through("latency", self.latencies_s, call.number)
        if latency_s < self.timeout_s:
            return _delayed(latency_s, call, forward, context)
        request_lost = context.dice.draw(call.number) >= self.lose_answer
        context.record("timeout", lost="request" if request_lost else "answer", latency_s=latency_s)
        spent_s = 0.0 if request_lost else forward(call).latency_s
        context.clock.sleep(max(0.0, self.timeout_s - spent_s))
        return Reply(LOST, ok=False, error="timeout", latency_s=max(self.timeout_s, spent_s))

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        spread = self.sigma * (1 + 0.1 * self.severity)
        return self.median_s * self.severity * np.exp(spread * _normal(quantiles))


def _normal(quantiles: Floats) -> Floats:
    """The standard normal distribution at quantiles in [0, 1)."""
    bounded = np.maximum(quantiles, 2.0**-54).tolist()
    return np.fromiter(map(_NORMAL.inv_cdf, bounded), np.float64, len(bounded))


def _delayed(latency_s: float, call: Call, forward: Forward, context: Context) -> Reply:
    """One call waits and is passed on: what `before` and `after` do, without arrays, for it happens at every call."""
    context.clock.sleep(latency_s)
    context.record("delay", latency_s=latency_s)
    reply = forward(call)
    return reply._replace(latency_s=reply.latency_s + latency_s)


def _wait(struck: Struck, latencies_s: Floats) -> None:
    """The calls wait before they are passed on."""
    struck.wait(latencies_s)
    struck.record("delay", lambda: [{"latency_s": each} for each in latencies_s.tolist()])


def _time_out(struck: Struck, timeout_s: float, replies: Replies) -> None:
    """The callers have waited in vain, for a request that was lost or for an answer."""
    spent_s = replies.latency_s[struck.rows]
    struck.wait(np.maximum(0.0, timeout_s - spent_s))
    replies.lose(struck.rows, "timeout")
    replies.latency_s[struck.rows] = np.maximum(timeout_s, spent_s)


@dataclass(frozen=True, kw_only=True)
class Latency(ArrayFault):
    """Every call takes time. Records: `delay` (latency_s)."""

    @abstractmethod
    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""

    @property
    def median_latency_s(self) -> float:
        """Median latency in seconds."""
        return float(self.latencies_s(np.array([0.5]))[0])

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def before(self, struck: Struck) -> Mask:
        struck.kept["latencies_s"] = self.latencies_s(struck.uniforms)
        _wait(struck, struck.kept["latencies_s"])
        return super().before(struck)

    def after(self, struck: Struck, replies: Replies) -> None:
        replies.latency_s[struck.rows] += struck.kept["latencies_s"]

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        latency_s = context.dice.through("latency", self.latencies_s, call.number)
        return _delayed(latency_s, call, forward, context)


@dataclass(frozen=True, kw_only=True)
class ConstantLatency(Latency):
    """Every call takes the same time.

    | severity | median_latency_s |
    |----------|------------------|
    | 0.5      | 1                |
    | 1        | 2                |

    Records: `delay` (latency_s).
    """

    kind: ClassVar[str] = "constant_latency"

    seconds: float = number(2.0, 0, 1e9, "latency at severity 1, in seconds")

    def latencies_s(self, quantiles: Floats) -> Floats:
        return np.full(len(quantiles), self.severity * self.seconds)


@dataclass(frozen=True, kw_only=True)
class UniformLatency(Latency):
    """Every call takes a time drawn evenly from a range.

    | severity | median_latency_s |
    |----------|------------------|
    | 0.5      | 1                |
    | 1        | 2                |

    Both ends of the range are multiplied by severity. Records: `delay` (latency_s).
    """

    kind: ClassVar[str] = "uniform_latency"

    low_s: float = number(0.0, 0, 1e9, "shortest latency at severity 1, in seconds")
    high_s: float = number(4.0, 0, 1e9, "longest latency at severity 1, in seconds")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.high_s < self.low_s:
            raise ConfigError(f"{self.kind}: high_s must be at least low_s ({self.low_s:g}), got {self.high_s:g}")

    def latencies_s(self, quantiles: Floats) -> Floats:
        return self.severity * (self.low_s + quantiles * (self.high_s - self.low_s))


@dataclass(frozen=True, kw_only=True)
class LognormalLatency(Latency):
    """Every call takes log-normal time: a long tail, as most services have it.

    | severity | median_latency_s |
    |----------|------------------|
    | 0.5      | 0.5              |
    | 1        | 1                |

    Records: `delay` (latency_s).
    """

    kind: ClassVar[str] = "lognormal_latency"

    median_s: float = number(1.0, 0, 1e9, "median latency at severity 1, in seconds")
    sigma: float = number(1.0, 0, 10, "standard deviation of the latency's natural logarithm")

    def latencies_s(self, quantiles: Floats) -> Floats:
        return self.severity * self.median_s * np.exp(self.sigma * _normal(quantiles))


@dataclass(frozen=True, kw_only=True)
class ParetoLatency(Latency):
    """Every call takes Pareto time: P(latency > t) = (t / minimum) ** -shape. A shape of 1 or less has no mean.

    | severity | median_latency_s |
    |----------|------------------|
    | 0.5      | 0.397            |
    | 1        | 0.794            |

    The minimum is multiplied by severity. Records: `delay` (latency_s).
    """

    kind: ClassVar[str] = "pareto_latency"

    minimum_s: float = number(0.5, 0, 1e9, "shortest latency at severity 1, in seconds")
    shape: float = number(1.5, 0.1, 100, "how fast the tail falls; smaller is heavier")

    def latencies_s(self, quantiles: Floats) -> Floats:
        return self.severity * self.minimum_s * np.asarray((1 - quantiles) ** (-1 / self.shape))


@dataclass(frozen=True, kw_only=True)
class EmpiricalLatency(Latency):
    """Every call takes a time drawn from measured ones.

    | severity | median_latency_s |
    |----------|------------------|
    | 0.5      | 0.1              |
    | 1        | 0.2              |

    Every measured latency is multiplied by severity. Records: `delay` (latency_s).

    Raises ConfigError for a file that cannot be read or holds anything but seconds.
    """

    kind: ClassVar[str] = "empirical_latency"

    file: str = option("", "path of a text file with one measured latency in seconds a line; replaces values_s")
    values_s: tuple[float, ...] = option((0.05, 0.08, 0.12, 0.2, 0.4, 1.5, 6.0), "measured latencies in seconds")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(math.isfinite(value) and value >= 0 for value in self.measured_s):
            raise ConfigError(f"{self.kind}: latencies must be seconds, 0 or more; see {self.file or 'values_s'}")

    @cached_property
    def measured_s(self) -> tuple[float, ...]:
        """All measured latencies in seconds, shortest first."""
        if not self.file:
            return tuple(sorted(self.values_s))
        try:
            measured = sorted(map(float, Path(self.file).read_text(encoding="utf-8").split()))
        except OSError as error:
            raise ConfigError(f"{self.kind}: file '{self.file}' cannot be read ({error.strerror}); check it") from None
        except ValueError as error:
            raise ConfigError(
                f"{self.kind}: file '{self.file}' must hold one latency in seconds a line; {error}"
            ) from None
        if not measured:
            raise ConfigError(f"{self.kind}: file '{self.file}' is empty; it must hold one latency in seconds a line")
        return tuple(measured)

    @cached_property
    def _measured(self) -> Floats:
        return np.array(self.measured_s)

    def latencies_s(self, quantiles: Floats) -> Floats:
        return self.severity * self._measured[(quantiles * len(self._measured)).astype(np.int64)]


@dataclass(frozen=True, kw_only=True)
class Jitter(Latency):
    """A little time on top of every call, never the same: half-normal.

    | severity | deviation_s |
    |----------|-------------|
    | 0.5      | 0.1         |
    | 1        | 0.2         |

    `deviation_s` is the standard deviation of the normal distribution whose absolute value is waited.
    Records: `delay` (latency_s).
    """

    kind: ClassVar[str] = "jitter"

    spread_s: float = number(0.2, 0, 1e9, "deviation at severity 1, in seconds")

    @property
    def deviation_s(self) -> float:
        """Standard deviation, in seconds, of the normal distribution whose absolute value is waited."""
        return self.severity * self.spread_s

    def latencies_s(self, quantiles: Floats) -> Floats:
        return self.deviation_s * _normal(0.5 + quantiles / 2)


@dataclass(frozen=True, kw_only=True)
class SlowStart(ArrayFault):
    """The first calls of an episode are slow, each less so than the one before: cold caches, cold containers.

    | severity | start_s |
    |----------|---------|
    | 0.5      | 5       |
    | 1        | 10      |

    Call k takes `start_s * exp(-k / calls)`. Records: `delay` (latency_s), while it is a millisecond or more.
    """

    kind: ClassVar[str] = "slow_start"

    first_s: float = number(10.0, 0, 1e9, "latency of the first call at severity 1, in seconds")
    calls: float = number(5.0, 0.1, 1e6, "calls after which the latency has fallen to a third (1/e)")

    @property
    def start_s(self) -> float:
        """Latency of the first call, in seconds."""
        return self.severity * self.first_s

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def before(self, struck: Struck) -> Mask:
        latencies_s = self._latencies_s(struck)
        waits = latencies_s > 0
        _wait(struck[waits], latencies_s[waits])
        return super().before(struck)

    def after(self, struck: Struck, replies: Replies) -> None:
        replies.latency_s[struck.rows] += self._latencies_s(struck)

    def _latencies_s(self, struck: Struck) -> Floats:
        latencies_s = self.start_s * np.exp(-struck.numbers / self.calls)
        return np.where(latencies_s >= 1e-3, latencies_s, 0.0)


@dataclass(frozen=True, kw_only=True)
class _Timeout(ArrayFault):
    """Some calls time out."""

    rate: float = number(0.3, 0, 1, "share of the calls that time out at severity 1")
    timeout_s: float = number(4.0, 0, 1e9, "how long the caller waits, in seconds")
    request_lost: ClassVar[bool]

    @property
    def share(self) -> float:
        """Share of the calls that time out."""
        return self.severity * self.rate

    @property
    def passing(self) -> Passing:
        return Passing.AT_MOST_ONCE if self.request_lost else Passing.AS_IS

    def strikes(self, uniforms: Floats, leaves: tuple[Leaf, ...] | None) -> Mask:
        return uniforms < self.share

    def before(self, struck: Struck) -> Mask:
        lost = "request" if self.request_lost else "answer"
        struck.record(self.kind, lambda: [{"lost": lost} for _ in struck.rows])
        return np.full(len(struck), self.request_lost)

    def after(self, struck: Struck, replies: Replies) -> None:
        _time_out(struck, self.timeout_s, replies)


@dataclass(frozen=True, kw_only=True)
class LostRequest(_Timeout):
    """Some calls time out because the request never arrived: nothing was done.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    Records: `lost_request` (lost: "request").
    """

    kind: ClassVar[str] = "lost_request"
    request_lost: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class LostAnswer(_Timeout):
    """Some calls time out because the answer was lost: all was done, and nobody was told.

    | severity | share |
    |----------|-------|
    | 0.5      | 15 %  |
    | 1        | 30 %  |

    Records: `lost_answer` (lost: "answer").
    """

    kind: ClassVar[str] = "lost_answer"
    request_lost: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class SlowDrip(ArrayFault):
    """Replies trickle in: the larger, the later. Who loses patience gets none of it, and what was done stays done.

    | severity | seconds_per_kib |
    |----------|-----------------|
    | 0.5      | 0.5             |
    | 1        | 1               |

    The size is that of the reply as JSON text, frames in base64. Records: `drip` (size_bytes, latency_s, and cut: true
    where the caller lost patience).
    """

    kind: ClassVar[str] = "slow_drip"

    slowness: float = number(1.0, 0, 1e6, "seconds for each KiB of a reply at severity 1")
    patience_s: float = number(30.0, 0, 1e9, "seconds after which the caller gives up")

    @property
    def seconds_per_kib(self) -> float:
        """Seconds for each KiB of a reply."""
        return self.severity * self.slowness

    @property
    def passing(self) -> Passing:
        return Passing.AS_IS

    def after(self, struck: Struck, replies: Replies) -> None:
        answered = struck[replies.ok[struck.rows]]
        if not len(answered):
            return
        size_bytes = sizes(replies, answered.rows)
        needed_s = self.seconds_per_kib * size_bytes / 1024
        cut, latencies_s = needed_s > self.patience_s, np.minimum(needed_s, self.patience_s)
        answered.wait(latencies_s)
        columns = size_bytes, needed_s, cut
        answered.record(
            "drip", lambda: [_drip(*told) for told in zip(*(each.tolist() for each in columns), strict=True)]
        )
        replies.lose(answered.rows[cut], "timeout")
        replies.latency_s[answered.rows] += latencies_s


def _drip(size_bytes: int, latency_s: float, cut: bool) -> dict[str, Any]:
    return {"size_bytes": size_bytes, "latency_s": latency_s, "cut": cut}
