"""Calls as production recorded them: JSON lines, one call a line, and spans of OpenTelemetry (OTLP/JSON)."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, Strict, ValidationError

from worldsim.errors import ConfigError
from worldsim.faults.exchange import ERRORS

LONGEST_S = 1e9  # no fault can wait longer
A_CALL = 'a call is {"tool": "pay", "latency_s": 0.2} or more'
MUST_BE = {
    "start": "must be seconds since 1970 or ISO 8601",
    "ok": "must be true or false, without quotes; leave it out where it is not known",
}
CLIENT = 3  # SpanKind of a call to another service
STATUSES = {
    401: "unauthorized",
    402: "quota",
    403: "forbidden",
    408: "timeout",
    429: "rate_limited",
    502: "bad_gateway",
    503: "unavailable",
    504: "timeout",
}
ERROR_WORDS = {  # what error texts of clients have in them, in lower case -> kind of failure
    "timeout": "timeout",
    "timed out": "timeout",
    "timed_out": "timeout",
    "deadline": "timeout",
    "connect": "connection",
    "reset": "connection",
    "json": "malformed",
    "decode": "malformed",
    "malformed": "malformed",
}


def _whole(value: Any) -> Any:
    """429.0 is the whole number 429 in JSON, and what some tables write where others have no status."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class TracedCall(BaseModel):
    """One call of a tool. Other keys than these may be there and are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)  # "no" would be a guess at false, 1 at true

    tool: str = Field(min_length=1)
    latency_s: float = Field(ge=0, le=LONGEST_S, allow_inf_nan=False)
    start: float | Annotated[datetime, Strict(False)] | None = None  # seconds since 1970, or ISO 8601, UTC by default
    ok: bool | None = None  # None: by error and status
    error: str | None = None  # one of `worldsim.faults.ERRORS`, or any text
    status: Annotated[int, BeforeValidator(_whole)] | None = None  # of HTTP
    retry_after_s: float | None = Field(None, ge=0, le=LONGEST_S, allow_inf_nan=False)
    _names_tool: bool = PrivateAttr(False)

    @property
    def names_tool(self) -> bool:
        """Whether it comes from a span that says which tool was called, and not only that something was."""
        return self._names_tool

    @property
    def failure(self) -> str | None:
        """What the service did wrong, one of `worldsim.faults.ERRORS`; None where it did nothing wrong.

        Statuses 400 to 499 that are not in `STATUSES` are the caller's own mistakes.
        """
        status = self.status or 0
        if self.ok or (self.ok is None and not self.error and status < 400):
            return None
        if self.error in ERRORS:
            return self.error
        if status in STATUSES:
            return STATUSES[status]
        if 400 <= status < 500:
            return None
        said = (self.error or "").lower()
        return next((kind for word, kind in ERROR_WORDS.items() if word in said), "server_error")

    @property
    def start_s(self) -> float:
        """Seconds since 1970; 0 where it is not known."""
        if isinstance(self.start, datetime):
            aware = self.start if self.start.tzinfo else self.start.replace(tzinfo=UTC)
            return aware.timestamp()
        return self.start or 0.0


def read_traces(path: Path) -> list[TracedCall]:
    """The calls in a file in the order in which they started; in that of the file where it does not say.

    Raises ConfigError, with the line, for a file that cannot be read or holds anything else, or nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"traces={path} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"traces={path} is not text in UTF-8; save it as that") from error
    found = [call for line, document in _documents(text, path) for call in _calls(document, f"{path}:{line}")]
    calls = [call for call in found if call.names_tool] or found  # what a tool calls in turn is part of its own call
    if not calls:
        raise ConfigError(f"traces={path} holds no calls; see docs/faults.md for what a trace looks like")
    return sorted(calls, key=lambda call: call.start_s)


def _documents(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Each JSON document with its line: the whole text is one, or every line."""
    try:
        yield 1, json.loads(text)
        return
    except ValueError:
        pass
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path}:{number}: not JSON ({error}); a trace has one call in a line") from error


def _calls(document: Any, where: str) -> Iterator[TracedCall]:
    if isinstance(document, Mapping) and "resourceSpans" in document:
        try:
            yield from _spans(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{where}: not OTLP/JSON as OpenTelemetry defines it ({_says(error)})") from error
        return
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: a {type(document).__name__} is no call; {A_CALL}")
    try:
        yield TracedCall.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0]
        given = f"{key} " if first["type"] == "missing" else f"{key}={first['input']!r} "
        says = "is missing" if first["type"] == "missing" else first["msg"].replace("Input should", "must")
        says = MUST_BE.get(str(key), says)
        raise ConfigError(f"{where}: {given}{says}; {A_CALL}") from error


def _says(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _spans(document: Mapping[str, Any]) -> Iterator[TracedCall]:
    """The spans that are calls: of a tool (semantic conventions for generative AI), or to another service.

    Calls of the model itself, which have a `gen_ai.operation.name` and no tool, are none.
    """
    for resource in document["resourceSpans"] or []:  # in the JSON of protocol buffers null stands for nothing
        for scope in resource.get("scopeSpans") or []:
            for span in scope.get("spans") or []:
                said = {each["key"]: _value(each.get("value")) for each in span.get("attributes") or []}
                client = span.get("kind") in (CLIENT, "SPAN_KIND_CLIENT") and "gen_ai.operation.name" not in said
                if "gen_ai.tool.name" in said or client:
                    yield _call(span, said)


def _call(span: Mapping[str, Any], said: Mapping[str, Any]) -> TracedCall:
    start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
    status = said.get("http.response.status_code", said.get("http.status_code"))
    if status is None and str(said.get("error.type")).isdigit():  # as HTTP instrumentations have it
        status = said["error.type"]
    outcome = span.get("status") or {}
    failed = outcome.get("code") in (2, "STATUS_CODE_ERROR") or "error.type" in said or int(status or 0) >= 400
    error = said.get("error.type") or outcome.get("message") or "error"
    retry_after = said.get("http.response.header.retry-after", [])
    call = TracedCall(
        tool=str(said.get("gen_ai.tool.name") or _service(span, said)),
        start=start / 1e9,
        latency_s=max(0, end - start) / 1e9,
        ok=not failed,
        error=str(error) if failed else None,
        status=None if status is None else int(status),
        retry_after_s=float(retry_after[0]) if retry_after and str(retry_after[0]).isdigit() else None,
    )
    call._names_tool = "gen_ai.tool.name" in said
    return call


def _service(span: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The span's name; of one that is named by nothing but HTTP's method, the server besides."""
    method, server = said.get("http.request.method"), said.get("server.address")
    return f"{span['name']} {server}" if server and span["name"] == method else str(span["name"])


def _value(value: Any) -> Any:
    """The value of an attribute, out of the wrapping that says its type."""
    if not value:
        return None
    ((kind, inner),) = value.items()
    if kind == "arrayValue":
        return [_value(each) for each in inner.get("values") or []]
    return int(inner) if kind == "intValue" else inner
