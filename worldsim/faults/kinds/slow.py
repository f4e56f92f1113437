"""Slow: latencies of every shape, and time-outs that lose the request or only the answer."""

import math
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import model_validator

from worldsim.errors import ConfigError
from worldsim.faults.arrays import Rows
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects.delays import Delay, SlowService, TimeOut, Trickle
from worldsim.faults.effects.json_text import sizes
from worldsim.faults.keys import normal_quantiles
from worldsim.faults.parameters import LocatedError, NumberTuple, number, option, scaled
from worldsim.spaces import Floats

_SLOW = "slow"


@fault("slow_api", "several at once")
class SlowAPI(Fault):
    """Every call takes log-normal time; a call that takes `timeout_s` or longer is a time-out.

    A time-out loses the request (nothing was done) or only the answer (all was done, and the caller does not know). The
    caller waits `timeout_s`, whatever else is slow, and cannot tell which it was.

    The standard deviation of the latency's logarithm is `sigma * (1 + 0.1 * severity)`.

    Records: `delay` (latency_s) or `timeout` (lost: "request" or "answer"; latency_s: how long it would have taken).
    """

    median_s: float = scaled(3.0, 0, 1e9, "median latency, in seconds")
    sigma: float = number(1.0, 0, 10, "spread of the latency: standard deviation of its natural logarithm")
    timeout_s: float = number(4.0, 0, 1e9, "how long the caller waits, in seconds")
    lose_answer: float = number(0.5, 0, 1, "share of the time-outs that lose only the answer, not the request")

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        spread = self.sigma * (1 + 0.1 * self.severity)
        return self.scaled("median_s") * np.exp(spread * normal_quantiles(quantiles))

    def compose(self) -> Composition:
        return Composition(
            SlowService(lambda drawn, numbers: self.latencies_s(drawn), self.timeout_s, self.lose_answer)
        )


@fault("constant_latency", _SLOW)
class ConstantLatency(Fault):
    """Every call takes the same time.

    Records: `delay` (latency_s).
    """

    seconds: float = scaled(2.0, 0, 1e9, "latency, in seconds")

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        return np.full(len(quantiles), self.scaled("seconds"))

    def compose(self) -> Composition:
        return Composition(Delay(lambda drawn, numbers: self.latencies_s(drawn)))


@fault("uniform_latency", _SLOW)
class UniformLatency(Fault):
    """Every call takes a time drawn uniformly from a range.

    Records: `delay` (latency_s).
    """

    low_s: float = scaled(0.0, 0, 1e9, "shortest latency, in seconds")
    high_s: float = scaled(4.0, 0, 1e9, "longest latency, in seconds")

    @model_validator(mode="after")
    def _ordered(self) -> "UniformLatency":
        if self.high_s < self.low_s:
            message = f"high_s must be at least low_s ({self.low_s:g}), got {self.high_s:g}"
            raise LocatedError(f"{self.kind}: {message}", "high_s")
        return self

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        return self.scaled("low_s") + quantiles * (self.scaled("high_s") - self.scaled("low_s"))

    def compose(self) -> Composition:
        return Composition(Delay(lambda drawn, numbers: self.latencies_s(drawn)))


@fault("lognormal_latency", _SLOW)
class LognormalLatency(Fault):
    """Every call takes log-normal time: a long tail, as most services have it.

    Records: `delay` (latency_s).
    """

    median_s: float = scaled(1.0, 0, 1e9, "median latency, in seconds")
    sigma: float = number(1.0, 0, 10, "standard deviation of the latency's natural logarithm")

    def compose(self) -> Composition:
        return Composition(Delay(lambda drawn, numbers: self.latencies_s(drawn)))

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        return self.scaled("median_s") * np.exp(self.sigma * normal_quantiles(quantiles))


@fault("pareto_latency", _SLOW)
class ParetoLatency(Fault):
    """Every call takes Pareto time: P(latency > t) = (t / minimum_s) ** -shape. A shape of 1 or less has no mean.

    Records: `delay` (latency_s).
    """

    minimum_s: float = scaled(0.5, 0, 1e9, "shortest latency, in seconds")
    shape: float = number(1.5, 0.1, 100, "how fast the tail falls; smaller is heavier")

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        return np.asarray(self.scaled("minimum_s") * (1 - quantiles) ** (-1 / self.shape))

    def compose(self) -> Composition:
        return Composition(Delay(lambda drawn, numbers: self.latencies_s(drawn)))


@fault("empirical_latency", _SLOW)
class EmpiricalLatency(Fault):
    """Every call takes a time drawn from measured ones, each multiplied by the severity.

    Records: `delay` (latency_s).

    Raises ConfigError for a file that cannot be read or holds anything but seconds.
    """

    file: str = option("", "path of a text file with one measured latency in seconds a line; replaces values_s")
    values_s: NumberTuple = option((0.05, 0.08, 0.12, 0.2, 0.4, 1.5, 6.0), "measured latencies in seconds")

    @model_validator(mode="after")
    def _readable(self) -> "EmpiricalLatency":
        if not all(math.isfinite(value) and value >= 0 for value in self.measured_s):
            raise ValueError(f"latencies must be seconds, 0 or more; see {self.file or 'values_s'}")
        return self

    @cached_property
    def measured_s(self) -> tuple[float, ...]:
        """All measured latencies in seconds, shortest first."""
        if not self.file:
            return tuple(sorted(self.values_s))
        try:
            measured = sorted(map(float, Path(self.file).read_text(encoding="utf-8").split()))
        except OSError as error:
            raise ConfigError(f"file '{self.file}' cannot be read ({error.strerror}); check it") from None
        except ValueError as error:
            raise ConfigError(f"file '{self.file}' must hold one latency in seconds a line; {error}") from None
        if not measured:
            raise ConfigError(f"file '{self.file}' is empty; it must hold one latency in seconds a line")
        return tuple(measured)

    def values_at_severity(self) -> dict[str, float]:
        return {"median_s": self.severity * float(np.median(self.measured_s))}

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        return self.severity * np.array(self.measured_s)[(quantiles * len(self.measured_s)).astype(np.int64)]

    def compose(self) -> Composition:
        return Composition(Delay(lambda drawn, numbers: self.latencies_s(drawn)))


@fault("jitter", _SLOW)
class Jitter(Fault):
    """A little random time on top of every call: half-normal.

    Records: `delay` (latency_s).
    """

    spread_s: float = scaled(
        0.2, 0, 1e9, "standard deviation, in seconds, of the normal distribution whose absolute value is waited"
    )

    def latencies_s(self, quantiles: Floats) -> Floats:
        """Latencies in seconds at quantiles in [0, 1)."""
        return self.scaled("spread_s") * normal_quantiles(0.5 + quantiles / 2)

    def compose(self) -> Composition:
        return Composition(Delay(lambda drawn, numbers: self.latencies_s(drawn)))


@fault("slow_start", _SLOW)
class SlowStart(Fault):
    """Cold start: the first calls of each tool are slow, each less so than the one before.

    Call k, from 0, takes `first_s * exp(-k / calls)`. Records: `delay` (latency_s), while it is a millisecond or more.
    """

    first_s: float = scaled(10.0, 0, 1e9, "latency of a tool's first call, in seconds")
    calls: float = number(5.0, 0.1, 1e6, "calls after which the latency has fallen to a third (1/e)")

    def compose(self) -> Composition:
        def latencies_s(drawn: Floats, numbers: Rows) -> Floats:
            return np.asarray(self.scaled("first_s") * np.exp(-numbers / self.calls))

        return Composition(Delay(latencies_s, least_s=1e-3))


@fault("lost_request", _SLOW)
class LostRequest(Fault):
    """Some calls time out because the request never arrived: nothing was done.

    Records: `lost_request` (lost: "request").
    """

    rate: float = scaled(0.3, 0, 1, "share of the calls that time out")
    timeout_s: float = number(4.0, 0, 1e9, "how long the caller waits, in seconds")

    def compose(self) -> Composition:
        return Composition(
            TimeOut(self.kind, self.timeout_s, request_lost=True), trigger_probability=self.scaled("rate")
        )


@fault("lost_answer", _SLOW)
class LostAnswer(Fault):
    """Some calls time out because the answer was lost: all was done, and the caller does not know.

    Records: `lost_answer` (lost: "answer").
    """

    rate: float = scaled(0.3, 0, 1, "share of the calls that time out")
    timeout_s: float = number(4.0, 0, 1e9, "how long the caller waits, in seconds")

    def compose(self) -> Composition:
        return Composition(
            TimeOut(self.kind, self.timeout_s, request_lost=False), trigger_probability=self.scaled("rate")
        )


@fault("slow_drip", _SLOW)
class SlowDrip(Fault):
    """Replies trickle in: the larger, the later. A caller that gives up gets none of it, and what was done stays done.

    The size is that of the reply as JSON text, frames in base64. Records: `drip` (size_bytes, latency_s, and cut:
    whether the caller gave up).
    """

    slowness: float = scaled(1.0, 0, 1e6, "seconds for each KiB of a reply")
    patience_s: float = number(30.0, 0, 1e9, "seconds after which the caller gives up")

    def compose(self) -> Composition:
        return Composition(
            Trickle(
                lambda replies, batch: sizes(replies, batch.rows).astype(np.float64),
                self.scaled("slowness"),
                self.patience_s,
            )
        )
