"""What came back to the calls of many environments: columns, a row an environment."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from worldsim.faults.exchange import LOST, Reply
from worldsim.faults.many.batches import chosen
from worldsim.faults.many.payloads import Payloads, Rows


class Replies(Payloads):
    """What came back to N environments: their payloads, and a column for each other field of `Reply`.

    count, space, batch, tidy, apart: as for `Payloads`.
    """

    def __init__(self, count: int, *settings: Any, **more: Any) -> None:
        super().__init__(count, *settings, **more)
        self.ok = np.ones(count, np.bool_)
        self.error = np.empty(count, object)  # None, each of them
        self.retry_after_s = np.full(count, np.nan)  # NaN: nothing is said
        self.latency_s = np.zeros(count)
        self.raws: dict[int, str] = {}  # of those that could not be read

    @classmethod
    def single(cls, reply: Reply) -> "Replies":
        """One reply, apart from any batch."""
        replies = cls(1)
        replies.put(0, reply)
        return replies

    def payload(self, row: int) -> Any:
        """The payload of one reply, LOST where none came. Arrays share memory with the batch."""
        return super().payload(row) if self.ok[row] else LOST

    def of(self, row: int) -> Reply:
        """The reply to one environment."""
        retry_after_s = float(self.retry_after_s[row])
        return Reply(
            self.payload(row),
            bool(self.ok[row]),
            self.error[row],
            None if np.isnan(retry_after_s) else retry_after_s,
            float(self.latency_s[row]),
            self.raws.get(row),
        )

    def put(self, row: int, reply: Reply) -> None:
        """Give an environment another reply."""
        self.ok[row], self.error[row], self.latency_s[row] = reply.payload is not LOST, reply.error, reply.latency_s
        self.raws.pop(row, None)
        if reply.raw is not None:
            self.raws[row] = reply.raw
        self.retry_after_s[row] = np.nan if reply.retry_after_s is None else reply.retry_after_s
        self.apart[row] = reply.payload

    def take(self, rows: Rows, other: "Replies") -> None:
        """Give these environments the replies that they have in `other`."""
        for mine, theirs in ((self.ok, other.ok), (self.error, other.error), (self.latency_s, other.latency_s)):
            mine[rows] = theirs[rows]
        self.retry_after_s[rows] = other.retry_after_s[rows]
        of_them = set(rows.tolist())
        self.raws = {row: raw for row, raw in self.raws.items() if row not in of_them}
        self.raws.update((row, raw) for row, raw in other.raws.items() if row in of_them)
        self.apart = {row: payload for row, payload in self.apart.items() if row not in of_them}
        self.apart.update((row, payload) for row, payload in other.apart.items() if row in of_them)
        if self._space is not None:
            theirs_count = np.zeros(len(self.ok), np.bool_)
            theirs_count[rows] = True
            self.batch, self._own = chosen(self.space, theirs_count, other.batch, self.batch), set()

    def arrive(self, rows: Rows) -> None:
        """A payload comes to these environments after all; it still has to be written."""
        self.ok[rows], self.error[rows], self.retry_after_s[rows] = True, None, np.nan

    def lose(self, rows: Sequence[int] | Rows, error: str | None, raw: str | None = None) -> None:
        """No payload comes back to these environments, but an error, and perhaps a text that cannot be read."""
        self.ok[rows], self.error[rows], self.retry_after_s[rows] = False, error, np.nan
        if raw is not None:
            self.raws.update((int(row), raw) for row in rows)
        elif self.raws:
            self.raws = {row: text for row, text in self.raws.items() if row not in rows}

    def garble(self, rows: Rows, texts: Sequence[str]) -> None:
        """Texts come back to these environments, one to each, that cannot be read."""
        self.lose(rows, "malformed")
        self.raws.update(zip(rows.tolist(), texts, strict=True))

    @property
    def arrived(self) -> dict[int, Any]:
        """Of the payloads that are apart those that were not lost."""
        return {row: payload for row, payload in self.apart.items() if self.ok[row]}
