"""Faults in a row over many environments at once. Which of them are struck is found with arrays."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.chance import Dice
from worldsim.faults.exchange import Call, Record, Reply
from worldsim.faults.fault import Fault
from worldsim.faults.pipeline import placed
from worldsim.faults.stage import Shared, Stage
from worldsim.spaces import Leaf

Rows = NDArray[np.int64]  # numbers of environments, ascending


class Calls(NamedTuple):
    """One call of each of some environments."""

    rows: Rows
    tools: NDArray[np.int64]  # (N,) what each environment calls: positions in `names`
    names: Sequence[str]
    numbers: NDArray[np.int64]  # (N,) the calls' numbers in their episodes
    arguments: Callable[[int], Mapping[str, Any]]  # of an environment's call
    changed: Mapping[int, Call]  # what a fault has put in the place of an environment's call

    def of(self, row: int) -> Call:
        """The call of one environment."""
        if row in self.changed:
            return self.changed[row]
        return Call(self.names[self.tools[row]], self.arguments(row), int(self.numbers[row]))

    def only(self, rows: Rows, changed: Mapping[int, Call]) -> "Calls":
        """The calls of some of these environments, some of them changed."""
        return self._replace(rows=rows, changed={**self.changed, **changed})


class Replies:
    """What came back to some environments: as it came in a batch, and those replies that a fault has touched.

    payload: gives what the batch holds for an environment.
    """

    def __init__(self, count: int, payload: Callable[[int], Any]) -> None:
        self._payload = payload
        self.latency_s = np.zeros(count)  # of those that are not touched
        self.touched: dict[int, Reply] = {}
        self.given: dict[int, Any] = {}  # what faults were given from the batch: an untouched payload is this very one

    def of(self, row: int) -> Reply:
        """The reply to one environment."""
        if row in self.touched:
            return self.touched[row]
        self.given[row] = payload = self._payload(row)
        return Reply(payload, latency_s=float(self.latency_s[row]))

    @property
    def payloads(self) -> dict[int, Any]:
        """The payloads that are others than those in the batch, LOST ones too."""
        return {row: each.payload for row, each in self.touched.items() if each.payload is not self.given.get(row)}

    def delay(self, rows: Rows, seconds: NDArray[np.float64]) -> None:
        """Make replies come later."""
        self.latency_s[rows] += seconds
        if self.touched:
            for row, latency_s in zip(rows.tolist(), seconds.tolist(), strict=True):
                if row in self.touched:
                    reply = self.touched[row]
                    self.touched[row] = reply._replace(latency_s=reply.latency_s + latency_s)


Forward = Callable[[Calls], Replies]
"""Passes the calls of some environments on, to the next fault or to the environments."""


class BatchPipeline:
    """Carries the calls of N environments through faults; environment i meets what it would meet in a `Pipeline`.

    Args:
        faults: outermost first, each with the seed of its plan.
        count: N.
        leaves: of one environment's payload.
        names: of all tools there are.
        missing: leaf name -> what stands for "unknown" there, as plain JSON.

    Raises ConfigError for tools or targets that match nothing.
    """

    def __init__(
        self,
        faults: Sequence[tuple[Fault, int]],
        count: int,
        leaves: tuple[Leaf, ...],
        names: Sequence[str],
        missing: Mapping[str, Any],
    ) -> None:
        self.count, self.names = count, names
        self.numbers = np.zeros(count, np.int64)  # of the next call of each environment's episode
        self.shared = Shared(count)
        self.records: list[list[Record]] = [[] for _ in range(count)]  # of each environment's episode
        places = placed(faults, leaves, names, Counter())
        self.stages = [Stage(place, self.shared, names, dict(missing)) for place in places]

    @property
    def idle(self) -> bool:
        """Whether no fault can ever do anything."""
        return not self.stages

    @property
    def now(self) -> list[list[Record]]:
        """What was done to the present call of each environment."""
        return self.shared.now

    def start(self, rows: Rows, episodes: Sequence[tuple[int, int]], payload: Callable[[int], Any]) -> None:
        """Begin episodes, as `Pipeline.start` does: of the environments `rows`, named by `episodes`."""
        self.numbers[rows] = 0
        for row, episode in zip(rows.tolist(), episodes, strict=True):
            self.records[row], self.shared.now[row] = [], []
            for stage in self.stages:
                stage.start(row, Dice(*stage.seeds, *episode), payload)

    def exchange(
        self, rows: Rows, tools: NDArray[np.int64], arguments: Callable[[int], Mapping[str, Any]], forward: Forward
    ) -> Replies:
        """Carry one call of each of the environments `rows` through the faults; `forward` takes them to where they go.

        `forward` is asked once, of no environment where all calls are lost; and again by faults that pass a call on
        more than once.
        """
        self.shared.now = [[] for _ in range(self.count)]
        calls = Calls(rows, tools, self.names, self.numbers.copy(), arguments, {})
        self.numbers[rows] += 1
        replies = self._pass(0, forward, calls)
        for row, records in enumerate(self.shared.now):
            if records:
                self.records[row] += records
        return replies

    def _pass(self, position: int, forward: Forward, calls: Calls) -> Replies:
        for position in range(position, len(self.stages)):  # noqa: B020
            stage = self.stages[position]
            struck = stage.struck(calls)
            if len(struck):
                return stage.exchange(calls, struck, partial(self._pass, position + 1, forward))
        return forward(calls)

    def snapshot(self) -> Any:
        """Where the episodes stand, as a value for `restore`."""
        kept = [list(records) for records in self.records], [list(records) for records in self.now]
        return self.numbers.copy(), self.shared.seconds.copy(), *kept, [stage.snapshot() for stage in self.stages]

    def restore(self, snapshot: Any) -> None:
        """Go back (or forth) to where a snapshot was taken."""
        numbers, seconds, records, now, stages = snapshot
        self.numbers, self.shared.seconds[:] = numbers.copy(), seconds
        self.records, self.shared.now = [list(each) for each in records], [list(each) for each in now]
        for stage, kept in zip(self.stages, stages, strict=True):
            stage.restore(kept)
