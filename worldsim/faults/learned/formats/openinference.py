"""Spans one an object, as Arize Phoenix and the console exporter of OpenTelemetry's SDKs write them.

Phoenix writes attributes nested, flat, or each in a column `attributes.*` of a table.
https://arize-ai.github.io/openinference/spec/semantic_conventions.html
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from worldsim.faults.learned.formats.otlp import attributes, plain_id, span_kind, status_failed
from worldsim.faults.learned.spans import TraceSpan, exceptions_in
from worldsim.faults.learned.timestamps import is_missing, optional_moment_ns

MARKS = ("span_kind", "context", "context.span_id", "status_code", "attributes.openinference.span.kind")


def is_span(document: Mapping[str, Any]) -> bool:
    """Whether a document is a span in this form."""
    return "start_time" in document and any(key in document for key in MARKS)


def is_table(document: Mapping[str, Any]) -> bool:
    """Whether a document is a table of spans, by column or split into columns and rows, as pandas writes them."""
    return isinstance(document.get("start_time"), Mapping) or ("columns" in document and "data" in document)


def rows(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The spans of a table."""
    if "columns" in table:
        yield from (dict(zip(table["columns"], row, strict=True)) for row in table["data"])
    else:
        yield from ({key: column.get(row) for key, column in table.items()} for row in table["start_time"])


def read_span(document: Mapping[str, Any]) -> TraceSpan:
    """One span."""
    flat = _flat(document)
    fields = {key.removeprefix("attributes."): value for key, value in flat.items() if key.startswith("attributes.")}
    if not is_missing(flat.get("span_kind")):
        fields.setdefault("openinference.span.kind", flat["span_kind"])
    message = _first(flat, "status_message", "status.description", "status.message")
    start_ns = optional_moment_ns(flat.get("start_time"))
    return TraceSpan(
        trace=plain_id(_first(flat, "context.trace_id", "trace_id")),
        id=plain_id(_first(flat, "context.span_id", "span_id")),
        parent=plain_id(_first(flat, "parent_id", "parent_span_id")),
        name=str(flat.get("name") or ""),
        kind=span_kind(_first(flat, "kind")),
        start_ns=start_ns,
        end_ns=_end_ns(flat, start_ns),
        attributes=fields,
        failed=status_failed(_first(flat, "status_code", "status.status_code", "status")),
        texts=[*exceptions_in(_events(document.get("events"))), *([str(message)] if message else [])],
    )


def _end_ns(flat: Mapping[str, Any], start_ns: int | None) -> int | None:
    """The end, or what the table says of how long it took."""
    took_ms = flat.get("latency_ms")
    if not is_missing(flat.get("end_time")) or is_missing(took_ms) or start_ns is None:
        return optional_moment_ns(flat.get("end_time"))
    return start_ns + round(float(str(took_ms)) * 1e6)


def _events(events: Any) -> list[dict[str, Any]]:
    if isinstance(events, str) and events:
        events = json.loads(events)
    return [_flat(attributes(event.get("attributes"))) for event in events or []]


def _first(flat: Mapping[str, Any], *keys: str) -> Any:
    return next((flat[key] for key in keys if not is_missing(flat.get(key))), None)


def _flat(given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, with dots in the names; Phoenix's API writes the attributes as a text of JSON."""
    flat: dict[str, Any] = {}
    for key, value in given.items():
        if key == "attributes" and isinstance(value, str) and value.startswith("{"):
            value = json.loads(value)
        if key == "attributes" and isinstance(value, list):
            value = attributes(value)
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif not is_missing(value):
            flat[prefix + key] = value
    return flat
