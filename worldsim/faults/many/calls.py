"""Calls of many environments at once. A call is a payload, too: which tool, and its arguments."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults.chance import Words, splitmix
from worldsim.faults.exchange import Call
from worldsim.faults.fault import matches
from worldsim.faults.leafwise import as_text, leaves_of, words_of
from worldsim.faults.many.payloads import Payloads, Rows
from worldsim.spaces import Leaf


class Calls:
    """One call of each of some of N environments. A value: what is made of it leaves it as it is.

    rows: of the environments that call. numbers: (N,) of the calls in their episodes. names: of the tools.
    asked: what each environment asks, {"tool": its name, or its position in `names`; "arguments": ...}.
    leaves: of what is asked.
    """

    def __init__(
        self, rows: Rows, numbers: NDArray[np.int64], names: Sequence[str], asked: Payloads, leaves: Sequence[Leaf]
    ) -> None:
        self.rows, self.numbers, self.names, self.asked, self.leaves = rows, numbers, tuple(names), asked, leaves

    @classmethod
    def single(cls, call: Call) -> "Calls":
        """The call of one environment alone."""
        asked = Payloads(1, apart={0: {"tool": call.tool, "arguments": call.arguments}})
        return cls(_FIRST, np.array([call.number]), (), asked, ())

    @classmethod
    def none(cls, rows: Rows, count: int) -> "Calls":
        """Before the first calls of these among `count` environments."""
        return cls(rows, np.zeros(count, np.int64), (), Payloads(count), ())

    def of(self, row: int) -> Call:
        """The call of one environment."""
        asked = self.asked.payload(row)
        tool = asked["tool"] if isinstance(asked["tool"], str) else self.names[asked["tool"]]
        return Call(tool, asked["arguments"], int(self.numbers[row]))

    def only(self, rows: Rows) -> "Calls":
        """Those of some of these environments."""
        return Calls(rows, self.numbers, self.names, self.asked, self.leaves)

    def without(self, rows: Rows) -> "Calls":
        """Those of all but some of these environments."""
        if not len(rows):
            return self
        staying = np.zeros(len(self.numbers), np.bool_)
        staying[rows] = True
        return self.only(self.rows[~staying[self.rows]])

    def asking(self, asked: Payloads) -> "Calls":
        """The same environments ask something else."""
        return Calls(self.rows, self.numbers, self.names, asked, self.leaves)

    def instead(self, calls: Mapping[int, Call]) -> "Calls":
        """Some environments ask something else, each by itself."""
        asked, names = self.asked.copy(), list(self.names)
        for row, call in calls.items():
            if call.tool not in names:
                names.append(call.tool)
            asked.apart[row] = {"tool": names.index(call.tool), "arguments": call.arguments}
        return Calls(self.rows, self.numbers, names, asked, self.leaves)

    def tools(self, rows: Rows) -> NDArray[np.object_]:
        """The names of the tools that these environments call, (n,)."""
        self.asked.settle()
        if self.asked.apart:
            return np.array([self.of(row).tool for row in rows.tolist()], object)
        named: NDArray[np.object_] = _names(self.names)[self.asked.batch["tool"][rows]]
        return named

    def calling(self, rows: Rows, globs: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which of these environments, (n,), call a tool whose name fits one of the globs."""
        self.asked.settle()
        if self.asked.apart:
            return np.array([matches(self.of(row).tool, globs) for row in rows.tolist()], np.bool_)
        fitting: NDArray[np.bool_] = _fitting(self.names, globs)[self.asked.batch["tool"][rows]]
        return fitting

    def hashes(self, rows: Rows) -> Words:
        """A word for each of these calls, (n,): equal for equal tools and arguments."""
        self.asked.settle()
        if self.asked.apart:
            calls = [self.of(row) for row in rows.tolist()]
            return words_of([f"{call.tool} {as_text(dict(call.arguments))}" for call in calls])[:, 0]
        hashed = np.zeros(len(rows), np.uint64)
        for leaf in self.leaves:
            for word in words_of(self.asked.values(leaf, rows)).T:
                hashed = splitmix(hashed ^ word, 0)
        return hashed


_FIRST = np.zeros(1, np.int64)


def call_space(names: Sequence[str], action_space: gym.Space[Any]) -> tuple[spaces.Dict, tuple[Leaf, ...]]:
    """The space of what environments ask with such tools and actions, and its leaves."""
    space = spaces.Dict({"tool": spaces.Discrete(len(names)), "arguments": spaces.Dict({"action": action_space})})
    return space, leaves_of(space)


@lru_cache(maxsize=64)
def _names(names: tuple[str, ...]) -> NDArray[np.object_]:
    return np.array(names, object)


@lru_cache(maxsize=256)
def _fitting(names: tuple[str, ...], globs: tuple[str, ...]) -> NDArray[np.bool_]:
    return np.array([matches(name, globs) for name in names], np.bool_)
