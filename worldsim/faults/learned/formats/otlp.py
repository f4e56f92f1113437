"""OTLP in JSON, as OpenTelemetry's Collector, Jaeger's API v3 and Grafana Tempo write it, old and new, in any case.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from worldsim.faults.learned.spans import TraceSpan, exceptions_in, session_of
from worldsim.faults.learned.timestamps import moment_ns

KINDS = {1: "internal", 2: "server", 3: "client"}
FAILED = {1: False, 2: True}  # by the code of the status; 0 says nothing
NAMES = {"OK": False, "ERROR": True}
_CAPITALS = re.compile(r"(?<!^)(?=[A-Z])")


def get(mapping: Mapping[str, Any], name: str) -> Any:
    """What stands under a name that the JSON of protocol buffers writes in camelCase, and some exports in snake_case.

    In that JSON null stands for nothing.
    """
    return mapping[name] if name in mapping else mapping.get(_snake_case(name))


@cache
def _snake_case(name: str) -> str:
    return _CAPITALS.sub("_", name).lower()


def read_resources(resources: Any) -> Iterator[TraceSpan]:
    """The spans of a list of resources; in the JSON of protocol buffers null stands for nothing."""
    for resource in resources or []:
        session = session_of(attributes(get(get(resource, "resource") or {}, "attributes")))
        scopes = get(resource, "scopeSpans") or get(resource, "instrumentationLibrarySpans")
        for scope in scopes or []:
            for span in get(scope, "spans") or []:
                yield read_span(span, session)


def read_span(span: Mapping[str, Any], session: str = "") -> TraceSpan:
    """One span. session: what its resource says of it."""
    status = get(span, "status") or {}
    fields = attributes(get(span, "attributes"))
    events = [attributes(get(event, "attributes")) for event in get(span, "events") or []]
    return TraceSpan(
        trace=plain_id(get(span, "traceId")),
        id=plain_id(get(span, "spanId")),
        parent=plain_id(get(span, "parentSpanId")),
        name=str(get(span, "name") or ""),
        kind=span_kind(get(span, "kind")),
        start_ns=_nanoseconds(get(span, "startTimeUnixNano")),
        end_ns=_nanoseconds(get(span, "endTimeUnixNano")) or None,  # 0: not ended
        attributes=fields,
        failed=status_failed(status.get("code")),
        texts=(*exceptions_in(events), *([str(status["message"])] if status.get("message") else [])),
        session=session_of(fields) or session,
    )


def plain_id(given: Any) -> str:
    """An id in hexadecimal digits without leading zeros, empty for none; it may be written in base64."""
    text = str(given or "").removeprefix("0x")
    if len(text) in (12, 24) and text.endswith("="):
        with suppress(binascii.Error):
            text = base64.b64decode(text, validate=True).hex()
    return text.lower().lstrip("0")


def span_kind(given: Any) -> str:
    """ "client", "server" and so on, of a number or of a name such as SPAN_KIND_CLIENT or SpanKind.CLIENT."""
    if isinstance(given, int):
        return KINDS.get(given, "")
    return re.split(r"[_.]", str(given or ""))[-1].lower()


def status_failed(code: Any) -> bool | None:
    """Whether a status, a number or a name such as STATUS_CODE_ERROR, is an error; None where it says nothing."""
    if isinstance(code, int):
        return FAILED.get(code)
    return NAMES.get(re.split(r"[_.]", str(code or ""))[-1].upper())


def attributes(given: Any) -> dict[str, Any]:
    """Attributes without the wrapping that says their types; a plain mapping is taken as it is."""
    if isinstance(given, Mapping):
        return dict(given)
    return {each["key"]: _value(each.get("value")) for each in given or []}


def _value(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for kind, inner in value.items():
        if kind in ("arrayValue", "array_value"):
            return [_value(each) for each in inner.get("values") or []]
        if kind in ("kvlistValue", "kvlist_value"):
            return attributes(inner.get("values"))
        return int(inner) if kind in ("intValue", "int_value") else inner
    return None


def _nanoseconds(value: Any) -> int | None:
    """Nanoseconds by definition, as number or text; a date is taken, too."""
    if value in (None, ""):
        return None
    return int(value) if isinstance(value, int | float) or value.isdecimal() else moment_ns(value)
