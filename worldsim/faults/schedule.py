"""When a fault is active: a small closed set, by the number of the call or by the time on the session's clock.

Each tool's calls are counted by themselves, from 0 in every session, so that what happens to call k of a tool does not
depend on what else is called. With `per_tool: false` the calls of all tools that a fault is aimed at count together:
then the order in which they begin decides.

Every schedule is a pure function of the call's number, of the time, and of random numbers that depend on nothing but
the number: it has no state, is the same for one call and for many, with nothing to remember or to restore.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, model_validator

from worldsim.faults.arrays import Mask
from worldsim.faults.keys import Keys, last_where, uniforms
from worldsim.faults.parameters import STRICT_AND_FROZEN, LocatedError, checked_init, number, option
from worldsim.spaces import Floats

MANY = 10**12  # calls, more than any session has

PER_TOOL = "count each tool's calls by themselves; false: those of all tools that the fault is aimed at together"


class Schedule(BaseModel):
    """When a fault is active. Raises ConfigError for values out of range."""

    model_config = STRICT_AND_FROZEN

    kind: ClassVar[str]

    def __init__(self, /, **values: Any) -> None:
        checked_init(self, f"schedule {self.kind}", values)

    @abstractmethod
    def active(self, keys: Keys, numbers: NDArray[np.int64], seconds: Any) -> Mask:
        """At which of n calls, (n,), the fault is active.

        keys: one for each of the calls, or one for all. numbers: (n,) of the calls, from 0. seconds: on the clocks.
        """


class Always(Schedule):
    """At every call."""

    kind: ClassVar[str] = "always"

    def active(self, keys: Keys, numbers: NDArray[np.int64], seconds: Any) -> Mask:
        return np.ones(len(numbers), np.bool_)


class After(Schedule):
    """From call `calls` on, the first one being 0."""

    kind: ClassVar[str] = "after"
    calls: int = number(10, 0, MANY, "how many calls it leaves alone")
    per_tool: bool = option(True, PER_TOOL)

    def active(self, keys: Keys, numbers: NDArray[np.int64], seconds: Any) -> Mask:
        return np.asarray(numbers >= self.calls)


class Window(Schedule):
    """From call `start` up to, not including, call `stop`; the first call is 0."""

    kind: ClassVar[str] = "window"
    start: int = number(0, 0, MANY, "the first call at which it is active")
    stop: int = number(10, 1, MANY, "the first call at which it is not any more")
    per_tool: bool = option(True, PER_TOOL)

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if self.stop <= self.start:
            raise LocatedError(f"schedule window: stop must be more than start ({self.start}), got {self.stop}", "stop")
        return self

    def active(self, keys: Keys, numbers: NDArray[np.int64], seconds: Any) -> Mask:
        return np.asarray((numbers >= self.start) & (numbers < self.stop))


class Bursts(Schedule):
    """In bursts of `mean_calls` calls with quiet spells of `mean_gap` between them, each length geometric.

    The two-state Markov chain of Gilbert (1960). A session comes upon a service that has run for long: each of its
    calls, the first one too, is in a burst with probability `share`, so short sessions meet as many as long ones.
    """

    kind: ClassVar[str] = "bursts"
    mean_calls: float = number(5.0, 1, MANY, "mean length of a burst, in calls")
    mean_gap: float = number(15.0, 1, MANY, "mean length of a quiet spell between bursts, in calls")
    per_tool: bool = option(True, PER_TOOL)

    @property
    def share(self) -> float:
        """Share of the calls that are in bursts: the chain's stationary distribution."""
        return self.mean_calls / (self.mean_calls + self.mean_gap)

    def active(self, keys: Keys, numbers: NDArray[np.int64], seconds: Any) -> Mask:
        """One uniform u a call moves the chain: from quiet into a burst if u < p_begin, within one on if u < p_stay.

        So a call with u below both ends in a burst, and one with u above both ends in quiet, whatever was before; one
        between them keeps the state, or turns it over where p_stay < p_begin. Hence the state follows from the last
        call that decided and how many there were since. Call 0 decides by `share`.
        """
        p_begin, p_stay = 1 / self.mean_gap, 1 - 1 / self.mean_calls
        low, high = min(p_begin, p_stay), max(p_begin, p_stay)
        keys = np.broadcast_to(keys, numbers.shape)

        def decides(rows: NDArray[np.int64], which: NDArray[np.int64]) -> Mask:
            drawn = uniforms(keys[rows, None], which)
            return (drawn < low) | (drawn >= high)

        at = last_where(numbers, decides)
        on = uniforms(keys, at) < np.where(at == 0, self.share, low)
        return on ^ ((numbers - at) % 2 == 1) if p_stay < p_begin else on


class TimeWindow(Schedule):
    """From `start_s` up to `stop_s` seconds on the session's clock, and again every `every_s`: an outage."""

    kind: ClassVar[str] = "time_window"
    start_s: float = number(0.0, 0, 1e12, "when it begins, in seconds since the session did")
    stop_s: float = number(60.0, 0, 1e12, "when it is over, in seconds since the session began")
    every_s: float | None = number(None, 1e-9, 1e12, "seconds after which it comes again; null: it comes once")

    @model_validator(mode="after")
    def _ordered(self) -> "TimeWindow":
        if self.stop_s <= self.start_s:
            message = f"stop_s must be more than start_s ({self.start_s:g}), got {self.stop_s:g}"
            raise LocatedError(f"schedule time_window: {message}", "stop_s")
        if self.every_s is not None and self.every_s < self.stop_s - self.start_s:
            message = f"every_s must be {self.stop_s - self.start_s:g} or more, got {self.every_s:g}"
            raise LocatedError(f"schedule time_window: {message}", "every_s")
        return self

    def active(self, keys: Keys, numbers: NDArray[np.int64], seconds: Any) -> Mask:
        since: Floats = np.broadcast_to(np.asarray(seconds, np.float64), numbers.shape) - self.start_s
        within = since if self.every_s is None else np.where(since >= 0, since % self.every_s, since)
        return np.asarray((within >= 0) & (within < self.stop_s - self.start_s))


SCHEDULES: dict[str, type[Schedule]] = {each.kind: each for each in (Always, After, Window, Bursts, TimeWindow)}
