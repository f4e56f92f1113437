"""Time is a clock that is passed in: an hour of slow API costs microseconds, unless a real client waits for it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the clock was made, and waiting for more of them."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    async def asleep(self, seconds: float) -> None:
        """`sleep` that lets other tasks run meanwhile."""
        ...


class VirtualClock:
    """Time that passes only by sleeping, and costs nothing."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0, f"a clock runs forward, not by {seconds} s"
        self._now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def set(self, now: float) -> None:
        """Go to a time that was read before: for restoring a snapshot."""
        self._now = now


class WallClock:
    """Real time: whoever calls waits."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._start

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
