"""Calls of N sessions at once. A call is a payload, too: which tool, and its arguments."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Floats, Rows
from worldsim.faults.calls import Call
from worldsim.faults.columns import hashes
from worldsim.faults.keys import Keys, fold_in
from worldsim.faults.log import CallIdentity, FaultLog
from worldsim.faults.parameters import matches
from worldsim.faults.payloads import Payloads
from worldsim.faults.trees import canonical, leaves_of
from worldsim.spaces import Leaf

NEVER = np.inf
FIRST: Rows = np.zeros(1, np.int64)
_ALONE = tuple(np.array([number]) for number in range(1024))
NONE: Rows = np.zeros(0, np.int64)


def alone(number: int) -> Rows:
    """A number of a single session, (1,), not to be written to."""
    return _ALONE[number] if number < len(_ALONE) else np.array([number])


class InFlight:
    """What belongs to calls from when they begin until their replies arrive.

    waited_s: (N,) seconds that faults have made them wait; of a single session a list, which costs a tenth of an array.
    log: what was done to them.
    """

    __slots__ = ("log", "waited_s")

    def __init__(self, count: int) -> None:
        self.waited_s: Any = [0.0] if count == 1 else np.zeros(count)
        self.log = FaultLog(count)


class CallBatch:
    """One call of each of some of N sessions. A value: what is made of it leaves it as it is.

    rows: the sessions that call. origin: which calls these are. asked: what each asks, {"tool": its name, or its
    position in the origin's names; "arguments": ...}. leaves: of what is asked. deadline_s: (N,) on the clocks, when
    each caller gives up; None: never.
    """

    __slots__ = ("asked", "deadline_s", "flight", "leaves", "origin", "rows")

    def __init__(
        self,
        rows: Rows,
        origin: CallIdentity,
        asked: Payloads,
        leaves: Sequence[Leaf],
        flight: InFlight,
        deadline_s: Floats | None = None,
    ) -> None:
        self.rows, self.origin, self.asked, self.leaves = rows, origin, asked, leaves
        self.flight, self.deadline_s = flight, deadline_s

    @property
    def numbers(self) -> Rows:
        """(N,) of the calls among those of their tools."""
        return self.origin.numbers

    @property
    def named(self) -> bool:
        """Whether calls have arguments by name; actions of a batch have not."""
        return self.asked.batch is None

    def call(self, row: int) -> Call:
        """The call of one session."""
        asked = self.asked.payload(row)
        tool = asked["tool"] if isinstance(asked["tool"], str) else self.origin.names[asked["tool"]]
        return Call(tool, asked["arguments"], int(self.origin.numbers[row]))

    def only(self, rows: Rows) -> "CallBatch":
        """Those of some of these sessions."""
        return CallBatch(rows, self.origin, self.asked, self.leaves, self.flight, self.deadline_s)

    def without(self, rows: Rows) -> "CallBatch":
        """Those of all but some of these sessions."""
        if not len(rows):
            return self
        staying = np.zeros(len(self.numbers), np.bool_)
        staying[rows] = True
        return self.only(self.rows[~staying[self.rows]])

    def asking(self, asked: Payloads) -> "CallBatch":
        """The same sessions ask something else."""
        return CallBatch(self.rows, self.origin, asked, self.leaves, self.flight, self.deadline_s)

    def until(self, rows: Rows, deadline_s: Floats) -> "CallBatch":
        """Some of the callers, `rows`, give up at these times, (n,), if they would not do so before."""
        if self.deadline_s is None and len(rows) == len(self.numbers):
            return CallBatch(self.rows, self.origin, self.asked, self.leaves, self.flight, deadline_s)
        deadlines = np.full(len(self.numbers), NEVER) if self.deadline_s is None else self.deadline_s.copy()
        deadlines[rows] = np.minimum(deadlines[rows], deadline_s)
        return CallBatch(self.rows, self.origin, self.asked, self.leaves, self.flight, deadlines)

    def instead(self, calls: Mapping[int, Call]) -> "CallBatch":
        """Some sessions ask something else, each by itself."""
        asked = self.asked.copy()
        for row, call in calls.items():
            tool = call.tool if self.named else self.origin.names.index(call.tool)
            asked.overrides[row] = {"tool": tool, "arguments": call.arguments}
        return self.asking(asked)

    def tools(self, rows: Rows) -> NDArray[np.object_]:
        """The names of the tools that these sessions call, (n,)."""
        self.asked.merge()
        if self.asked.overrides:
            return np.array([self.call(row).tool for row in rows.tolist()], object)
        named: NDArray[np.object_] = _names(tuple(self.origin.names))[self.asked.batch["tool"][rows]]
        return named

    def calling(self, rows: Rows, globs: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which of these sessions, (n,), call a tool whose name fits one of the globs."""
        self.asked.merge()
        if self.asked.overrides:
            return np.array([matches(self.call(row).tool, globs) for row in rows.tolist()], np.bool_)
        fitting: NDArray[np.bool_] = _fitting(tuple(self.origin.names), globs)[self.asked.batch["tool"][rows]]
        return fitting

    def requests(self, rows: Rows) -> list[Any]:
        """What tells a request from others, of each of these sessions: the tool and its arguments as canonical JSON."""
        self.asked.merge()
        if not self.asked.overrides:
            found: list[int] = self._hashes(rows).tolist()
            return found
        return [canonical(self.call(row)[:2]) for row in rows.tolist()]

    def _hashes(self, rows: Rows) -> Keys:
        """A hash of each of these calls, (n,): equal for equal tools and arguments."""
        hashed = np.zeros(len(rows), np.uint64)
        for leaf in self.leaves:
            for each in hashes(self.asked.values(leaf, rows)).T:
                hashed = fold_in(hashed ^ each, 0)
        return hashed


MOST_TOOLS = 2**31


def call_space(action_space: gym.Space[Any]) -> tuple[spaces.Dict, tuple[Leaf, ...]]:
    """The space of what environments ask with such actions, and its leaves."""
    space = spaces.Dict({"tool": spaces.Discrete(MOST_TOOLS), "arguments": spaces.Dict({"action": action_space})})
    return space, leaves_of(space)


@lru_cache(maxsize=64)
def _names(names: tuple[str, ...]) -> NDArray[np.object_]:
    return np.array(names, object)


@lru_cache(maxsize=256)
def _fitting(names: tuple[str, ...], globs: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([matches(name, globs) for name in names], np.bool_)
