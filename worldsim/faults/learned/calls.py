"""One recorded call, as the fit sees it, and as our own JSON lines write it."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from worldsim.faults.learned.errors import failure_of
from worldsim.faults.learned.timestamps import LONGEST_S, optional_moment_ns


def _whole(value: Any) -> Any:
    """429.0 is the whole number 429 in JSON, and what some tables write where others have no status."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(value: Any) -> Any:
    """A session's number names it as well as a text does."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _seconds(value: Any) -> float | None:
    nanoseconds = optional_moment_ns(value)
    return None if nanoseconds is None else nanoseconds / 1e9


class TracedCall(BaseModel):
    """One call of a tool. Other keys than these may be there and are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)  # "no" would be a guess at false, 1 at true

    tool: str = Field(min_length=1)
    latency_s: float | None = Field(ge=0, le=LONGEST_S, allow_inf_nan=False)  # None: nobody measured it
    start: Annotated[float | None, BeforeValidator(_seconds)] = (
        None  # seconds since 1970, or all that `moment_ns` reads
    )
    ok: bool | None = None  # None: by error and status
    error: str | None = None  # one of `worldsim.faults.ERRORS`, or any text
    status: Annotated[int, BeforeValidator(_whole)] | None = None  # of HTTP
    retry_after_s: float | None = Field(None, ge=0, le=LONGEST_S, allow_inf_nan=False)
    session: Annotated[str, BeforeValidator(_name)] = ""  # calls are numbered within one

    @property
    def failure(self) -> str | None:
        """What the service did wrong, one of `worldsim.faults.ERRORS`; None where it did nothing wrong.

        Statuses 400 to 499 that are not in `worldsim.faults.learned.errors.STATUSES` are the caller's own mistakes.
        """
        if self.ok or (self.ok is None and not self.error and (self.status or 0) < 400):
            return None
        return failure_of(self.status, self.error or "")

    @property
    def start_s(self) -> float:
        """Seconds since 1970; 0 where it is not known."""
        return self.start or 0.0
