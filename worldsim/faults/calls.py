"""A call goes in and a reply comes out. Faults stand between, and record what they did."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple


class Lost(Enum):
    """The payload of a reply that was lost or could not be read."""

    LOST = "lost"


LOST: Final = Lost.LOST

ERRORS: Final[Mapping[str, str]] = {
    "timeout": "timeout",
    "connection": "timeout",
    "malformed": "malformed",
    "unavailable": "unavailable",
    "rate_limited": "unavailable",
    "server_error": "unavailable",
    "bad_gateway": "unavailable",
    "unauthorized": "unavailable",
    "forbidden": "unavailable",
    "quota": "unavailable",
}
"""Kinds of failure -> which of the three basic ones each looks like to a caller who knows only those."""


class Unchangeable:
    """Base class of payloads that faults may delay, lose and repeat, but not change: what a tool has raised."""

    def __deepcopy__(self, memo: Any) -> "Unchangeable":
        return self


class Call(NamedTuple):
    """What goes in.

    tool: the name of what is called. arguments: by name. number: which call of this tool it is in its session, from 0.
    """

    tool: str
    arguments: Mapping[str, Any]
    number: int = 0


class Reply(NamedTuple):
    """What comes out. All but the payload is what a caller may know of how the call went.

    payload: an observation or a tool's result; LOST where none arrived.
    error: the kind of failure, one of `ERRORS`; None when ok.
    retry_after_s: seconds after which the other side asks to be called again, None when it does not.
    latency_s: seconds from call to reply.
    raw: the text as it arrived, where it could not be read or was an error page; None when there is none.
    """

    payload: Any
    ok: bool = True
    error: str | None = None
    retry_after_s: float | None = None
    latency_s: float = 0.0
    raw: str | None = None

    @classmethod
    def failed(cls, error: str, *, retry_after_s: float | None = None, raw: str | None = None) -> "Reply":
        """A reply without a payload. `error` is one of `ERRORS`."""
        assert error in ERRORS, f"no error is called {error!r}; there are {', '.join(ERRORS)}"
        return cls(LOST, ok=False, error=error, retry_after_s=retry_after_s, raw=raw)

    def later(self, seconds: float) -> "Reply":
        """The same, so many seconds later: what `_replace` does, in a third of the time."""
        payload, ok, error, retry_after_s, latency_s, raw = self
        return Reply(payload, ok, error, retry_after_s, latency_s + seconds, raw)

    def to_json(self) -> dict[str, Any]:
        """All but the payload, as `info["reply"]` shows it; `raw` only where there is one."""
        shown = {
            "ok": self.ok,
            "error": self.error,
            "retry_after_s": self.retry_after_s,
            "latency_s": self.latency_s,
        }
        return shown if self.raw is None else {**shown, "raw": self.raw}


class FaultRecord(NamedTuple):
    """What a fault really did to one call: ground truth, for reports and not for agents.

    tool, call: which call, by its tool's name and its number among the calls of that tool. fault: the kind of fault.
    kind: what it did. details: plain JSON.
    """

    tool: str
    call: int
    fault: str
    kind: str
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**self._asdict(), "details": dict(self.details)}
