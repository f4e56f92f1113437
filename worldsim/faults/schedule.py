"""When a fault is at work: a small closed set. Calls are counted from 0 in every episode, all tools together."""

import math
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

from worldsim.errors import ConfigError
from worldsim.faults.chance import Dice

LANE = 2  # the lane of the dice that schedules draw from


@dataclass(frozen=True)
class Always:
    """At every call."""

    kind: ClassVar[str] = "always"

    def due(self, index: int, dice: Dice, memory: MutableMapping[str, Any]) -> bool:
        return True


@dataclass(frozen=True)
class After:
    """From call `calls` on."""

    kind: ClassVar[str] = "after"
    calls: int = 10

    def __post_init__(self) -> None:
        _at_least(0, "after.calls", self.calls, int)

    def due(self, index: int, dice: Dice, memory: MutableMapping[str, Any]) -> bool:
        return index >= self.calls


@dataclass(frozen=True)
class Window:
    """From call `start` up to, not including, call `stop`."""

    kind: ClassVar[str] = "window"
    start: int = 0
    stop: int = 10

    def __post_init__(self) -> None:
        _at_least(0, "window.start", self.start, int)
        _at_least(self.start + 1, "window.stop", self.stop, int)

    def due(self, index: int, dice: Dice, memory: MutableMapping[str, Any]) -> bool:
        return self.start <= index < self.stop


@dataclass(frozen=True)
class Bursts:
    """In bursts of `mean_calls` calls with quiet spells of `mean_gap` between them, each length geometric.

    The two-state Markov chain of Gilbert (1960). An episode comes upon a service that has run for long: each of its
    calls, the first one too, is in a burst with probability `share`, so short episodes meet as many as long ones.
    """

    kind: ClassVar[str] = "bursts"
    mean_calls: float = 5.0
    mean_gap: float = 15.0

    def __post_init__(self) -> None:
        _at_least(1, "bursts.mean_calls", self.mean_calls)
        _at_least(1, "bursts.mean_gap", self.mean_gap)

    @property
    def share(self) -> float:
        """Share of the calls that are in bursts: the chain's stationary distribution."""
        return self.mean_calls / (self.mean_calls + self.mean_gap)

    def due(self, index: int, dice: Dice, memory: MutableMapping[str, Any]) -> bool:
        reached, on = memory.get("burst", (-1, False))
        while reached < index:  # the chain moves once a call, whether or not a fault was asked
            reached += 1
            turns = 1 / (self.mean_calls if on else self.mean_gap) if reached else self.share
            on ^= dice.uniform(reached, LANE) < turns
        memory["burst"] = (reached, on)
        return bool(on)


Schedule = Always | After | Window | Bursts
SCHEDULES: dict[str, type[Schedule]] = {each.kind: each for each in (Always, After, Window, Bursts)}


def _at_least(low: float, name: str, value: object, types: Any = (int, float)) -> None:
    if not isinstance(value, types) or isinstance(value, bool) or not low <= value < math.inf:
        whole = "a whole number" if types is int else "a finite number"
        raise ConfigError(f"schedule {name} must be {whole} of calls, at least {low}; got {value!r}")
