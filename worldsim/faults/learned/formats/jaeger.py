"""Jaeger's own JSON, as its user interface saves traces and its API v2 (`/api/traces`) answers; times are in µs.

https://www.jaegertracing.io/docs/latest/apis/
"""

from collections.abc import Iterator, Mapping
from typing import Any

from worldsim.faults.learned.formats.otlp import plain_id, status_failed
from worldsim.faults.learned.spans import TraceSpan, exceptions_in, session_of


def read_trace(trace: Mapping[str, Any]) -> Iterator[TraceSpan]:
    """The spans of one trace."""
    processes = trace.get("processes") or {}
    for span in trace["spans"] or []:
        process = processes.get(span.get("processID")) or span.get("process") or {}
        yield read_span(span, session_of(_tags(process.get("tags"))), str(trace.get("traceID") or ""))


def read_span(span: Mapping[str, Any], session: str = "", trace: str = "") -> TraceSpan:
    """One span. session, trace: what its process and its trace say."""
    fields = _tags(span.get("tags"))
    took_us = span.get("duration")
    start_us = int(span["startTime"])
    message = fields.get("otel.status_description")
    logs = [_tags(log.get("fields")) for log in span.get("logs") or []]
    return TraceSpan(
        trace=plain_id(span.get("traceID") or trace),
        id=plain_id(span["spanID"]),
        parent=_parent(span),
        name=str(span["operationName"]),
        kind=str(fields.get("span.kind", "")),
        start_ns=start_us * 1000,
        end_ns=None if took_us is None else (start_us + int(took_us)) * 1000,
        attributes=fields,
        failed=status_failed(fields.get("otel.status_code")),
        texts=[*exceptions_in(logs), *([str(message)] if message else [])],
        session=session_of(fields) or session,
    )


def _tags(tags: Any) -> dict[str, Any]:
    return {tag["key"]: tag.get("value") for tag in tags or []}


def _parent(span: Mapping[str, Any]) -> str:
    """The span that waits for this one; what only follows from another is no part of it."""
    above = [each["spanID"] for each in span.get("references") or [] if each.get("refType") == "CHILD_OF"]
    return plain_id(above[0] if above else span.get("parentSpanID"))
