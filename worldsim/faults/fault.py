"""What a fault is: middleware on a call, with a severity, a schedule, and dice of its own."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import ConfigError
from worldsim.faults.chance import Dice
from worldsim.faults.clock import Clock
from worldsim.faults.exchange import Call, Forward, Passing, Record, Reply
from worldsim.faults.leafwise import ABSENT, copied, get, plain_leaves, put
from worldsim.faults.schedule import Always, Schedule
from worldsim.spaces import Leaf

FEW = 12  # words that an error message lists


def number(default: float | None, low: float, high: float, says: str) -> Any:
    """A field of a fault: a number in [low, high] and what it means. A default of None allows None."""
    return field(default=default, metadata={"low": low, "high": high, "says": says})


def count(default: int | None, low: int, high: int, says: str) -> Any:
    """A field of a fault: a whole number in [low, high] and what it means. A default of None allows None."""
    return field(default=default, metadata={"low": low, "high": high, "whole": True, "says": says})


def option(default: Any, says: str) -> Any:
    """A field of a fault that is not a number, of its default's type, and what it means.

    A default of several texts or numbers is a list of such.
    """
    return field(default=default, metadata={"type": type(default), "says": says})


def choice(default: str, among: Sequence[str], says: str) -> Any:
    """A field of a fault: one of a few words, and what it means."""
    return field(default=default, metadata={"type": str, "among": tuple(among), "says": says})


Place = tuple[str | int, ...]
"""Where something is in nested mappings and lists: their keys and positions from the outside in."""


class Mistake(ConfigError):
    """A mistake in plain data, and where in it."""

    def __init__(self, says: str, *at: str | int) -> None:
        super().__init__(says)
        self.at: Place = at

    def within(self, *outer: str | int) -> "Mistake":
        """The same mistake, seen from further out."""
        return Mistake(str(self), *outer, *self.at)


class Context:
    """What one fault has to work with in one episode: dice, clock, the leaves it may touch, a memory, its records."""

    __slots__ = ("clock", "dice", "fault", "number", "leaves", "memory", "missing", "now", "tools")

    def __init__(
        self, fault: "Fault", dice: Dice, clock: Clock, leaves: tuple[Leaf, ...] | None, missing: dict[str, Any]
    ) -> None:
        self.fault = fault
        self.dice = dice
        self.clock = clock
        self.leaves = leaves  # that it may change; None: payloads are plain JSON, without a space
        self.missing = missing  # leaf name -> what stands for "unknown" there, where the environment says so
        self.memory: dict[str, Any] = {}  # all that a fault remembers between calls; part of a snapshot
        self.tools: dict[str, bool] = {}
        self.number = 0
        self.now: list[Record] = []

    def due(self, call: Call) -> bool:
        """Whether the fault is at work in this call, by its tools, its schedule and its probability."""
        fault, self.number = self.fault, call.number
        wanted = self.tools.get(call.tool)
        if wanted is None:
            wanted = self.tools[call.tool] = matches(call.tool, fault.tools)
        if not wanted or not fault.schedule.due(call.number, self.dice, self.memory):
            return False
        return fault.probability >= 1 or self.dice.uniform(call.number, lane=1) < fault.probability

    def uniform(self) -> float:
        """This call's uniform in [0, 1): cheap, for deciding whether anything happens."""
        return self.dice.uniform(self.number)

    def rng(self, lane: int = 0) -> np.random.Generator:
        """A generator for how it happens; each lane gives the same one every time it is asked for within a call."""
        return self.dice.generator(self.number, lane)

    def episode_rng(self, name: str = "") -> np.random.Generator:
        """A generator for what stays the same for the whole episode; another one for each name."""
        return self.dice.generator(-1, crc32(name.encode()))

    @property
    def plain(self) -> bool:
        """Whether payloads are plain JSON, which no space says anything about."""
        return self.leaves is None

    def leaves_in(self, payload: Any) -> tuple[Leaf, ...]:
        """The leaves of a payload that the fault may change: those of the space, or of plain JSON as it is now."""
        if self.leaves is not None:
            return self.leaves
        return tuple(leaf for leaf in plain_leaves(payload) if self.aims_at(leaf.name))

    def aims_at(self, name: str) -> bool:
        """Whether a place in the payload, by its name, is among the fault's targets."""
        return matches(name, getattr(self.fault, "targets", ("*",)))

    def mixed(self, payload: Any, other: Any) -> Any:
        """A payload with the leaves that the fault may change taken from another one, where both have them.

        Plain JSON of which it may change everything becomes the other one.
        """
        if self.plain and getattr(self.fault, "targets", ("*",)) == ("*",):
            return copied(other)
        for leaf in self.leaves_in(payload):
            value = get(other, leaf.path)
            if value is not ABSENT and get(payload, leaf.path) is not ABSENT:
                payload = put(payload, leaf.path, copied(value))
        return payload

    def record(self, kind: str, **details: Any) -> None:
        """Note what was really done to this call, as plain JSON."""
        self.now.append(Record(self.number, self.fault.kind, kind, details))


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """Middleware on a call. A fault is a value: all that changes during an episode lives in its `Context`.

    Subclasses map `severity` onto their parameters (the table in each docstring). The same call of the same episode
    draws the same numbers at every severity, so a graver fault strikes wherever a milder one did, and more. (Two kinds
    strike more, but elsewhere: a cache that is filled less often, and calls that wait for one another.)

    Raises ConfigError for parameters out of range.
    """

    kind: ClassVar[str]

    severity: float = number(0.5, 0, 1, "0: nothing happens at all; 1: as bad as it gets")
    probability: float = number(1.0, 0, 1, "share of the scheduled calls at which the fault is at work")
    tools: tuple[str, ...] = option(("*",), "globs over the names of the calls that it acts on")
    schedule: Schedule = option(Always(), "when it is at work: always, after, window or bursts")
    seed: int | None = count(None, 0, 2**63, "seed of its own; by default that of the plan")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _checked(self.kind, each.name, getattr(self, each.name), each.metadata, each.default)
            object.__setattr__(self, each.name, value)

    @property
    def idle(self) -> bool:
        """Whether this fault can never do anything."""
        return self.severity == 0 or self.probability == 0

    @property
    def passing(self) -> Passing:
        """What it may do with a call. It decides which environments can be broken by it many at a time."""
        return Passing.ANY

    def strikes(self, uniforms: NDArray[np.float64], leaves: tuple[Leaf, ...] | None) -> NDArray[np.bool_]:
        """Of calls by their uniforms (`Context.uniform`), those that `exchange` must see.

        All others it would pass on as they are, and remember nothing of. By default it must see every call.
        """
        return np.ones(uniforms.shape, np.bool_)

    def check(self, leaves: Sequence[Leaf]) -> None:  # noqa: B027  (most faults need nothing here)
        """Raise ConfigError where it can never work on replies with these leaves."""

    def begin(self, payload: Any, context: Context) -> None:  # noqa: B027  (most faults need nothing here)
        """An episode starts; `payload` is what the caller got before its first call."""

    @abstractmethod
    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        """Carry a call out: pass it on by `forward` zero, one or two times, and give the reply that the caller gets."""


@dataclass(frozen=True, kw_only=True)
class LeafFault(Fault):
    """A fault that changes leaves of the payload."""

    targets: tuple[str, ...] = option(("*",), 'globs over the leaves that it may change, such as "reply/*"')
    out_of_space: bool = option(False, "let values outside the observation space through, as they would really arrive")


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs fits the name; `*` goes over slashes, too."""
    return any(fnmatchcase(name, glob) for glob in globs)


def suggest(word: object, words: Sequence[str], otherwise: str = "") -> str:
    """The end of an error message: the nearest of the words; where none is near, `otherwise` or the words."""
    from difflib import get_close_matches

    near = get_close_matches(str(word), words, n=1)
    if near:
        return f"Did you mean '{near[0]}'?"
    more = f", ... ({len(words)} in all)" if len(words) > FEW else ""
    return otherwise or f"Choose from: {', '.join(words[:FEW])}{more}"


def require_match(fault: Fault, what: str, globs: Iterable[str], names: Sequence[str]) -> None:
    """Raise ConfigError for a glob that fits none of the names."""
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise ConfigError(f"{fault.kind}: {what} '{glob}' matches nothing. {suggest(glob, names)}")


def _checked(kind: str, name: str, value: Any, says: Any, default: Any) -> Any:
    if value is None and default is None:
        return value
    if "low" in says:
        return _checked_number(kind, name, value, says)
    wanted = says.get("type")
    if wanted is tuple:
        return _checked_list(kind, name, value, str if isinstance(default[0], str) else (int, float))
    if wanted is Always:
        if not isinstance(value, Schedule):
            raise ConfigError(f"{kind}: {name} must be a schedule such as Window(start=5, stop=9), got {value!r}")
    elif wanted is not None and not isinstance(value, wanted):
        raise ConfigError(f"{kind}: {name} must be a {wanted.__name__}, got {value!r}")
    if "among" in says and value not in says["among"]:
        raise ConfigError(f"{kind}: {name} cannot be {value!r}. {suggest(value, says['among'])}")
    return value


def _checked_number(kind: str, name: str, value: Any, says: Any) -> Any:
    types = int if says.get("whole") else (int, float)
    if not isinstance(value, types) or isinstance(value, bool) or not says["low"] <= value <= says["high"]:
        between = "a whole number between" if says.get("whole") else "between"
        raise ConfigError(f"{kind}: {name} must be {between} {says['low']:g} and {says['high']:g}, got {value!r}")
    return value


def _checked_list(kind: str, name: str, value: Any, types: Any) -> tuple[Any, ...]:
    items = (value,) if isinstance(value, types) and not isinstance(value, bool) else value
    if not isinstance(items, list | tuple) or not items or not all(isinstance(item, types) for item in items):
        raise ConfigError(f"{kind}: {name} must be a list of {'names' if types is str else 'numbers'}, got {value!r}")
    return tuple(items)
