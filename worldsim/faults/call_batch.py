"""Calls of N sessions at once. A call is a payload, too: a tool and its arguments."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.arrays import Rows
from worldsim.faults.calls import Call
from worldsim.faults.columns import hashes
from worldsim.faults.fault_log import CallIdentity, FaultLog
from worldsim.faults.keys import Keys, fold_in
from worldsim.faults.parameters import matches
from worldsim.faults.payloads import Payloads
from worldsim.faults.trees import canonical, leaves_of
from worldsim.spaces import Floats, Leaf

NEVER = np.inf
FIRST_ROW: Rows = np.zeros(1, np.int64)
_ALONE = tuple(np.array([number]) for number in range(1024))
NONE: Rows = np.zeros(0, np.int64)


def single_row(number: int) -> Rows:
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

    rows: the sessions that call. identity: which calls these are. payloads: of the calls, {"tool": its name, or its
    position in `identity.names`; "arguments": ...}. leaves: of the payloads. deadline_s: (N,) on the clocks, when each
    caller gives up; None: never.
    """

    __slots__ = ("deadline_s", "identity", "in_flight", "leaves", "payloads", "rows")

    def __init__(
        self,
        rows: Rows,
        identity: CallIdentity,
        payloads: Payloads,
        leaves: Sequence[Leaf],
        in_flight: InFlight,
        deadline_s: Floats | None = None,
    ) -> None:
        self.rows, self.identity, self.payloads, self.leaves = rows, identity, payloads, leaves
        self.in_flight, self.deadline_s = in_flight, deadline_s

    @property
    def numbers(self) -> Rows:
        """(N,) the index of each call among those of its tool, from 0."""
        return self.identity.numbers

    @property
    def has_named_arguments(self) -> bool:
        """Whether calls have arguments by name; actions of a batch have not."""
        return self.payloads.batch is None

    def call(self, row: int) -> Call:
        """The call of one session."""
        payloads = self.payloads.payload(row)
        tool = payloads["tool"] if isinstance(payloads["tool"], str) else self.identity.names[payloads["tool"]]
        return Call(tool, payloads["arguments"], int(self.identity.numbers[row]))

    def only(self, rows: Rows) -> "CallBatch":
        """Those of some of these sessions."""
        return CallBatch(rows, self.identity, self.payloads, self.leaves, self.in_flight, self.deadline_s)

    def without(self, rows: Rows) -> "CallBatch":
        """Those of all but some of these sessions."""
        if not len(rows):
            return self
        staying = np.zeros(len(self.numbers), np.bool_)
        staying[rows] = True
        return self.only(self.rows[~staying[self.rows]])

    def with_payloads(self, payloads: Payloads) -> "CallBatch":
        """The same sessions ask something else."""
        return CallBatch(self.rows, self.identity, payloads, self.leaves, self.in_flight, self.deadline_s)

    def with_deadline(self, rows: Rows, deadline_s: Floats) -> "CallBatch":
        """Some of the callers, `rows`, give up at these times, (n,), if they would not do so before."""
        if self.deadline_s is None and len(rows) == len(self.numbers):
            return CallBatch(self.rows, self.identity, self.payloads, self.leaves, self.in_flight, deadline_s)
        deadlines = np.full(len(self.numbers), NEVER) if self.deadline_s is None else self.deadline_s.copy()
        deadlines[rows] = np.minimum(deadlines[rows], deadline_s)
        return CallBatch(self.rows, self.identity, self.payloads, self.leaves, self.in_flight, deadlines)

    def with_calls(self, calls: Mapping[int, Call]) -> "CallBatch":
        """Some sessions ask something else, each by itself."""
        payloads = self.payloads.copy()
        for row, call in calls.items():
            tool = call.tool if self.has_named_arguments else self.identity.names.index(call.tool)
            payloads.overrides[row] = {"tool": tool, "arguments": call.arguments}
        return self.with_payloads(payloads)

    def tools(self, rows: Rows) -> NDArray[np.object_]:
        """The names of the tools that these sessions call, (n,)."""
        self.payloads.merge()
        if self.payloads.overrides:
            return np.array([self.call(row).tool for row in rows.tolist()], object)
        tool_names: NDArray[np.object_] = _names(tuple(self.identity.names))[self.payloads.batch["tool"][rows]]
        return tool_names

    def calls_tool(self, rows: Rows, globs: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which of these sessions, (n,), call a tool whose name fits one of the globs."""
        self.payloads.merge()
        if self.payloads.overrides:
            return np.array([matches(self.call(row).tool, globs) for row in rows.tolist()], np.bool_)
        fitting: NDArray[np.bool_] = _fitting(tuple(self.identity.names), globs)[self.payloads.batch["tool"][rows]]
        return fitting

    def request_keys(self, rows: Rows) -> list[Any]:
        """A key for the request of each of these sessions, equal for equal requests: tool and arguments."""
        self.payloads.merge()
        if not self.payloads.overrides:
            found: list[int] = self._hashes(rows).tolist()
            return found
        return [canonical(self.call(row)[:2]) for row in rows.tolist()]

    def _hashes(self, rows: Rows) -> Keys:
        """A hash of each of these calls, (n,): equal for equal tools and arguments."""
        hashed = np.zeros(len(rows), np.uint64)
        for leaf in self.leaves:
            for each in hashes(self.payloads.values(leaf, rows)).T:
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
