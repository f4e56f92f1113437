"""One exchange: a call that goes in and a reply that comes out. Faults stand between, and record what they did."""

from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple


class Lost(Enum):
    """The payload of a reply that never came or could not be read."""

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


class Call(NamedTuple):
    """What goes in: the tool's name, its arguments, and the call's number in the episode, from 0."""

    tool: str
    arguments: Mapping[str, Any]
    number: int


class Reply(NamedTuple):
    """What comes out. All but the payload is what a caller may know of how the call went.

    payload: an observation or a tool's result; LOST when nothing readable came.
    error: the kind of failure, one of `ERRORS`; None when ok.
    retry_after_s: seconds after which the other side asks to be called again, None when it does not say.
    latency_s: seconds from call to reply.
    raw: the text as it arrived, where it could not be read or was an error page; None when there is none.
    """

    payload: Any
    ok: bool = True
    error: str | None = None
    retry_after_s: float | None = None
    latency_s: float = 0.0
    raw: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All but the payload, as `info["reply"]` shows it; `raw` only where there is one."""
        told = {
            "ok": self.ok,
            "error": self.error,
            "retry_after_s": self.retry_after_s,
            "latency_s": self.latency_s,
        }
        return told if self.raw is None else {**told, "raw": self.raw}


class Passing(IntEnum):
    """What a fault may do with the calls that it gets, from the tamest on."""

    AS_IS = 0  # passes the very call on, once
    CHANGED = 1  # passes one call on, perhaps another
    AT_MOST_ONCE = 2  # may not pass it on
    ANY = 3  # may pass on none, one, or several


Forward = Callable[[Call], Reply]
"""Passes a call on, to the next fault or to the environment behind the last."""


class Record(NamedTuple):
    """What a fault really did to one call: ground truth, for reports and not for agents."""

    call: int
    fault: str
    kind: str
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"call": self.call, "fault": self.fault, "kind": self.kind, "details": dict(self.details)}
