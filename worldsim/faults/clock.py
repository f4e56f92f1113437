"""Time is a clock that is passed in: an hour of slow API costs microseconds, unless a real client waits for it."""

import asyncio
import threading
import time
from contextvars import ContextVar
from typing import Protocol


class Clock(Protocol):
    """Seconds since the clock was made, and waiting for more of them."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    async def asleep(self, seconds: float) -> None:
        """`sleep` that lets other tasks run meanwhile."""
        ...


class VirtualClock:
    """Time that passes only by sleeping, and costs nothing.

    Within `call_time` the clock shows the time of that call: calls that are in flight side by side, in tasks or
    threads, wait side by side, and none is late because another one waits. For everybody else it is as late as it is
    for the call that has waited longest.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        current = _current_call_time.get()
        if current is not None and current._clock is not self:
            current = call_time.innermost(self)
        return self._now if current is None else current.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0, f"a clock runs forward, not by {seconds} s"
        current = call_time.innermost(self)
        with _LOCK:
            if current is None:
                self._now += seconds
            else:
                current.now_s += seconds
                self._now = max(self._now, current.now_s)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(0)  # calls that are made at the same moment begin before anybody's time has passed
        self.sleep(seconds)

    def set(self, now: float) -> None:
        """Go to a time that was read before: for restoring a snapshot."""
        self._now = now


class call_time:
    """The time of one call, from now on: a context. Real time is the same for all, and left alone.

    Within it, in this task or thread and in those that it starts, a virtual clock shows the call's own time. A call
    within a call has its own, too, and the outer one goes on when the inner one is over.
    """

    __slots__ = ("_clock", "_outer", "_token", "now_s")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> "call_time":
        if isinstance(self._clock, VirtualClock):
            self._outer = _current_call_time.get()
            self.now_s = self._clock._now if self._outer is None else self._clock.now()
            self._token = _current_call_time.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        if not isinstance(self._clock, VirtualClock):
            return
        try:
            _current_call_time.reset(self._token)
        except ValueError:  # an unfinished coroutine may be closed in another context
            return
        if self._outer is not None:
            outer = self.innermost(self._clock)
            if outer is not None:
                outer.now_s = max(outer.now_s, self.now_s)

    @staticmethod
    def innermost(clock: Clock) -> "call_time | None":
        """The innermost one of this clock."""
        found = _current_call_time.get()
        if found is None or found._clock is clock:
            return found
        while found is not None and found._clock is not clock:
            found = found._outer
        return found


_current_call_time: ContextVar[call_time | None] = ContextVar("worldsim.faults.clock", default=None)
_LOCK = threading.Lock()  # one for all clocks, so that a clock can be pickled


class WallClock:
    """Real time: callers really wait."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._start

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
