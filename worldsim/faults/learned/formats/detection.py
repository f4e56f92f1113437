"""Which form a document is in, and what it holds."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import ValidationError

from worldsim.errors import ConfigError
from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.formats import atif, jaeger, langfuse, openinference, otlp
from worldsim.faults.learned.spans import TraceSpan
from worldsim.faults.learned.timestamps import moment_ns, retry_after_seconds

Document = Mapping[str, Any]
SpanOrCall = TraceSpan | TracedCall

CALL_EXAMPLE = 'a call is {"tool": "pay", "latency_s": 0.2} or more'
MUST_BE = {
    "start": "must be ISO 8601 or a number since 1970",
    "retry_after_s": "must be seconds, or a date as HTTP writes it, which needs a start",
    "ok": "must be true or false, without quotes; leave it out where it is not known",
}


class TraceFormat(NamedTuple):
    """A form: what it is called, what it is known by, and how it is read."""

    name: str
    recognizes: Callable[[Document], bool]
    read: Callable[[Document], Iterator[TraceSpan]]


def _has(*keys: str) -> Callable[[Document], bool]:
    return lambda document: any(key in document for key in keys)


FORMATS = (
    TraceFormat(
        "OTLP/JSON",
        _has("resourceSpans", "resource_spans"),
        lambda document: otlp.read_resources(otlp.get(document, "resourceSpans")),
    ),
    TraceFormat("Tempo's JSON", _has("batches"), lambda document: otlp.read_resources(document["batches"])),
    TraceFormat("OTLP/JSON", _has("scopeSpans", "scope_spans"), lambda document: otlp.read_resources([document])),
    TraceFormat(
        "OTLP/JSON",
        _has("startTimeUnixNano", "start_time_unix_nano"),
        lambda document: iter([otlp.read_span(document)]),
    ),
    TraceFormat(
        "ATIF",
        lambda document: str(document.get("schema_version")).startswith("ATIF"),
        atif.read_trajectory,
    ),
    TraceFormat("Jaeger's JSON", lambda document: "spans" in document and "traceID" in document, jaeger.read_trace),
    TraceFormat("Jaeger's JSON", _has("operationName"), lambda document: iter([jaeger.read_span(document)])),
    TraceFormat(
        "Langfuse's JSON", lambda document: isinstance(document.get("observations"), list), langfuse.read_trace
    ),
    TraceFormat(
        "Langfuse's JSON", langfuse.is_observation, lambda document: iter([langfuse.read_observation(document)])
    ),
    TraceFormat(
        "a table of spans",
        openinference.is_table,
        lambda document: map(openinference.read_span, openinference.rows(document)),
    ),
    TraceFormat("JSON of Phoenix", openinference.is_span, lambda document: iter([openinference.read_span(document)])),
)
WRAPPERS = ("data", "result", "trace", "spans", "traces")  # around documents, or lists of them
NOT_SPANS = {  # what else comes in the same files
    "resourceLogs": "logs in OTLP/JSON",
    "resourceMetrics": "metrics in OTLP/JSON",
    "rootTraceName": "Tempo's list of traces, without their spans (/api/traces/<id> has these)",
}


def read(document: Any, where: str) -> Iterator[SpanOrCall]:
    """The calls and spans that a document holds. where: its file and line.

    Raises ConfigError, which names the form and what is missing, for what cannot be read.
    """
    if isinstance(document, list):
        for each in document:
            yield from read(each, where)
        return
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: {document!r:.40} is no call; {CALL_EXAMPLE}")
    trace_format = (
        None
        if "tool" in document
        else next((trace_format for trace_format in FORMATS if trace_format.recognizes(document)), None)
    )
    if trace_format is not None:
        try:
            for span in trace_format.read(document):
                span.format_name = trace_format.name
                yield span
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ConfigError(f"{where}: {trace_format.name}, but {_problem(error)}") from error
        return
    inside = [document[key] for key in WRAPPERS if isinstance(document.get(key), list | Mapping)]
    if inside or any(key in document for key in WRAPPERS):
        yield from read(inside, where)
    else:
        yield _own_format(document, where)


def _own_format(document: Document, where: str) -> TracedCall:
    """A call in our own form."""
    for key, what in NOT_SPANS.items():
        if key in document:
            raise ConfigError(f"{where}: {what}, and no calls; export the spans")
    if document and not {"tool", "latency_s", "start", "ok", "error", "status"} & set(document):
        keys = ", ".join(list(document)[:5])
        raise ConfigError(f"{where}: no known format has the keys {keys}; {CALL_EXAMPLE}, or see docs/faults.md")
    try:
        return TracedCall.model_validate({**document, **_waits(document)})
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explained(error)}; {CALL_EXAMPLE}") from error


def _waits(document: Document) -> Document:
    """Retry-After, where it was written down as the header has it."""
    retry_after = document.get("retry_after_s")
    if not isinstance(retry_after, str | list):
        return {}
    end_ns: int | None = None
    with suppress(ValueError, TypeError):  # the model reports what is wrong with these
        end_ns = moment_ns(document.get("start")) + round(float(document.get("latency_s") or 0) * 1e9)
    seconds = retry_after_seconds(retry_after, end_ns)
    return {} if seconds is None else {"retry_after_s": seconds}


def _explained(error: ValidationError) -> str:
    first = error.errors()[0]
    key = first["loc"][0]
    if first["type"] == "missing":
        return f"{key} is missing"
    return f"{key}={first['input']!r} {MUST_BE.get(str(key), first['msg'].replace('Input should', 'must'))}"


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"'{error.args[0]}' is missing"
    if isinstance(error, json.JSONDecodeError):
        return f"a text in it is not JSON ({error})"
    return str(error)
