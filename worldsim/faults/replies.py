"""The replies to the calls of N sessions: columns, a row a session."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldsim.faults.arrays import Rows
from worldsim.faults.batch_rows import where_rows
from worldsim.faults.calls import LOST, Reply
from worldsim.faults.payloads import Payloads


class Replies(Payloads):
    """The replies to N sessions: their payloads, and a column for each other field of `Reply`.

    Latencies are not among them: the pipeline counts what was waited. `latency_s` is what was waited in an inner
    wrapper.
    """

    def __init__(self, count: int, *settings: Any, **more: Any) -> None:
        super().__init__(count, *settings, **more)
        self.ok = np.ones(count, np.bool_)
        self.error = np.empty(count, object)  # None, each of them
        self.retry_after_s = np.full(count, np.nan)  # NaN: none
        self.latency_s = np.zeros(count)
        self.raws: dict[int, str] = {}  # of those that could not be read

    @classmethod
    def single(cls, reply: Reply) -> "Replies":
        """One reply, of one session. Its columns are made when a fault looks at them: latencies, for one, do not."""
        replies = cls.__new__(cls)
        replies.__dict__["_reply"] = reply
        return replies

    def __getattr__(self, name: str) -> Any:
        """What a single reply does not have yet."""
        reply: Reply | None = self.__dict__.pop("_reply", None)
        if reply is None:
            raise AttributeError(name)
        Replies.__init__(self, 1)
        self.put(0, reply)
        return getattr(self, name)

    def payload(self, row: int) -> Any:
        """The payload of one reply, LOST where none arrived. Arrays share memory with the batch."""
        return super().payload(row) if self.ok[row] else LOST

    def reply(self, row: int, waited_s: float = 0.0) -> Reply:
        """The reply to one session, which has waited so long for it besides."""
        untouched: Reply | None = self.__dict__.get("_reply")
        if untouched is not None:
            return untouched.later(waited_s) if waited_s else untouched
        retry_after_s = float(self.retry_after_s[row])
        return Reply(
            self.payload(row),
            bool(self.ok[row]),
            self.error[row],
            None if retry_after_s != retry_after_s else retry_after_s,
            float(self.latency_s[row]) + waited_s,
            self.raws.get(row),
        )

    def put(self, row: int, reply: Reply) -> None:
        """Give a session another reply."""
        self.ok[row], self.error[row] = reply.payload is not LOST, reply.error
        self.latency_s[row] = reply.latency_s
        if reply.raw is not None:
            self.raws[row] = reply.raw
        elif self.raws:
            self.raws.pop(row, None)
        self.retry_after_s[row] = np.nan if reply.retry_after_s is None else reply.retry_after_s
        self.overrides[row] = reply.payload

    def take(self, rows: Rows, other: "Replies") -> None:
        """Give these sessions the replies that they have in `other`."""
        for mine, theirs in ((self.ok, other.ok), (self.error, other.error), (self.latency_s, other.latency_s)):
            mine[rows] = theirs[rows]
        self.retry_after_s[rows] = other.retry_after_s[rows]
        of_them = set(rows.tolist())
        self.raws = {row: raw for row, raw in self.raws.items() if row not in of_them}
        self.raws.update((row, raw) for row, raw in other.raws.items() if row in of_them)
        self.overrides = {row: payload for row, payload in self.overrides.items() if row not in of_them}
        self.overrides.update((row, payload) for row, payload in other.overrides.items() if row in of_them)
        if self._space is not None:
            theirs_count = np.zeros(len(self.ok), np.bool_)
            theirs_count[rows] = True
            self.batch, self._copied_columns = where_rows(self.space, theirs_count, other.batch, self.batch), set()

    def arrive(self, rows: Rows) -> None:
        """A payload comes to these sessions after all; it still has to be written."""
        self.ok[rows], self.error[rows], self.retry_after_s[rows] = True, None, np.nan

    def lose(self, rows: Sequence[int] | Rows, error: str | None, raw: str | None = None) -> None:
        """No payload comes back to these sessions, but an error, and perhaps a text that cannot be read."""
        untouched: Reply | None = self.__dict__.get("_reply")
        if untouched is not None and len(rows):
            self.__dict__["_reply"] = Reply(LOST, False, error, None, untouched.latency_s, raw)
            return
        self.ok[rows], self.error[rows], self.retry_after_s[rows] = False, error, np.nan
        if raw is not None:
            self.raws.update((int(row), raw) for row in rows)
        elif self.raws:
            self.raws = {row: text for row, text in self.raws.items() if row not in rows}

    def garble(self, rows: Rows, texts: Sequence[str]) -> None:
        """Texts come back to these sessions, one to each, that cannot be read."""
        self.lose(rows, "malformed")
        self.raws.update(zip(rows.tolist(), texts, strict=True))

    @property
    def arrived(self) -> dict[int, Any]:
        """Of the overrides those that were not lost."""
        return {row: payload for row, payload in self.overrides.items() if self.ok[row]}
