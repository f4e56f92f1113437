"""Records of what faults did to the calls of N sessions, made only when they are read."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldsim.faults.arrays import Rows
from worldsim.faults.calls import FaultRecord

_LOCK = threading.RLock()  # one for all logs, so that a log can be pickled

Details = Callable[[], Iterable[Mapping[str, Any]]]  # gives those of each record; what it refers to never changes


SharedCallIndices = Mapping[tuple[str, ...], Rows]
"""Of one call of each of N sessions, by globs over tools: its index, (N,), among the calls of all tools that fit them.

Schedules with `per_tool: false` count by these.
"""


class CallIdentity(NamedTuple):
    """Which calls these are: one of each of N sessions. Their random numbers depend on nothing else.

    names: of the tools. tools: (N,) positions in `names` of what was called. numbers: (N,) the index of each call among
    those of its tool, from 0. shared: the same for the counters that several tools share.
    """

    names: Sequence[str]
    tools: Rows
    numbers: Rows
    shared: SharedCallIndices


class FaultLog:
    """What was done to one call of each of N sessions, in the order in which it happened."""

    __slots__ = ("_count", "_pending", "_records")

    def __init__(self, count: int) -> None:
        self._count = count
        self._pending: list[tuple[Rows, CallIdentity, str, str, Details]] = []
        self._records: list[list[FaultRecord]] | None = None

    def add(self, rows: Rows, identity: CallIdentity, fault: str, kind: str, details: Details) -> None:
        """Something was done to the calls of the sessions `rows`."""
        self._pending.append((rows, identity, fault, kind, details))

    @property
    def records(self) -> list[list[FaultRecord]]:
        """The records of each session's call."""
        if self._records is not None and not self._pending:
            return self._records
        with _LOCK:  # other threads read, and add, meanwhile
            if self._records is None:
                self._records = [[] for _ in range(self._count)]
            pending = self._pending.copy()
            for rows, identity, fault, kind, details in pending:
                for row, each in zip(rows.tolist(), details(), strict=True):
                    tool, number = identity.names[identity.tools[row]], int(identity.numbers[row])
                    self._records[row].append(FaultRecord(tool, number, fault, kind, each))
            del self._pending[: len(pending)]
            return self._records

    def extend(self, row: int, records: Iterable[FaultRecord]) -> None:
        """What the faults of an inner wrapper have done to a session's call."""
        self.records[row].extend(records)

    def by_row(self) -> list["LazyRecords"]:
        """The same, each made when it is read."""
        return [*map(LazyRecords, repeat(self), range(self._count))]

    def __getstate__(self) -> tuple[int, list[list[FaultRecord]]]:
        return self._count, self.records

    def __setstate__(self, state: tuple[int, list[list[FaultRecord]]]) -> None:
        self._count, self._records = state
        self._pending = []


class LazyRecords(Sequence[FaultRecord]):
    """The records of one call, like a list of them."""

    __slots__ = ("_log", "_row")

    def __init__(self, log: FaultLog, row: int) -> None:
        self._log, self._row = log, row

    def __getitem__(self, index: Any) -> Any:
        return self._log.records[self._row][index]

    def __len__(self) -> int:
        return len(self._log.records[self._row])

    def __iter__(self) -> Iterator[FaultRecord]:
        return iter(self._log.records[self._row])

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class EpisodeLog:
    """What was done to N sessions, from their beginnings on."""

    def __init__(self, count: int) -> None:
        self._logs: list[FaultLog] = []
        self._starts = np.zeros(count, np.int64)  # which of the logs is the first of each session's episode

    def start(self, rows: NDArray[np.int64]) -> None:
        """Episodes of these sessions begin."""
        self._starts[rows] = len(self._logs)
        over = int(self._starts.min())
        del self._logs[:over]
        self._starts -= over

    def add(self, log: FaultLog) -> None:
        """One more call of each."""
        self._logs.append(log)

    def copy(self) -> "EpisodeLog":
        """A history that goes on by itself."""
        other = EpisodeLog(len(self._starts))
        other._logs, other._starts = list(self._logs), self._starts.copy()
        return other

    def records(self) -> list[list[FaultRecord]]:
        """Those of each session's episode."""
        return [
            [record for log in self._logs[start:] for record in log.records[row]]
            for row, start in enumerate(self._starts.tolist())
        ]
