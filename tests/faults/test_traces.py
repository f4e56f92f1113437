"""Recorded calls are read as they were meant, and a file that is none is told by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from worldsim.errors import ConfigError
from worldsim.faults.learned.traces import TracedCall, read_traces


def call(**given: Any) -> TracedCall:
    return TracedCall(tool="pay", latency_s=1.0, **given)


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        ({}, None),
        ({"ok": True, "status": 500}, None),
        ({"ok": False}, "server_error"),
        ({"status": 200}, None),
        ({"status": 429}, "rate_limited"),
        ({"status": 429.0, "retry_after_s": 2}, "rate_limited"),
        ({"status": 504}, "timeout"),
        ({"status": 404, "ok": False}, None),  # the caller's own mistake
        ({"status": 599}, "server_error"),
        ({"error": "forbidden", "status": 500}, "forbidden"),
        ({"error": "java.net.SocketTimeoutException"}, "timeout"),
        ({"error": "ECONNRESET"}, "connection"),
        ({"error": "JSONDecodeError: line 1"}, "malformed"),
    ],
)
def test_what_counts_as_the_services_failure(given: dict[str, Any], failure: str | None) -> None:
    assert call(**given).failure == failure


def test_json_lines_come_in_the_order_of_their_start(tmp_path: Path) -> None:
    rows = [
        {"tool": "b", "latency_s": 1, "start": "2026-01-01T00:00:02Z", "unknown": [1]},
        {"tool": "c", "latency_s": 1, "start": "2026-01-01T01:00:03+01:00"},
        {"tool": "a", "latency_s": 1, "start": 1767225601.5},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert [each.tool for each in read_traces(path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tool": "a", "latency_s": 1}\n{"tool": "a", "latency_s": -3}\n', ":2: latency_s=-3 must be greater"),
        ('{"tool": "a"}\n', ":1: latency_s is missing"),
        ('{"tool": "a", "latency_s": 1}\nnothing\n', ":2: not JSON"),
        ('{"tool": "a", "latency_s": NaN}', ":1: latency_s=nan must be a finite number"),
        ('{"tool": "a", "latency_s": 1e10}', ":1: latency_s=10000000000.0 must be less than"),
        ('{"tool": "a", "latency_s": 1, "start": "noon"}', ":1: start='noon' must be seconds since 1970 or ISO 8601"),
        ('{"tool": "a", "latency_s": 1}\n{"tool": "a", "latency_s": 1, "ok": "yes"}\n', ":2: ok='yes' must be true or"),
        ('{"tool": "a", "latency_s": 1, "ok": 0}', ":1: ok=0 must be true or false, without quotes"),
        ('{"tool": "a", "latency_s": "1"}', ":1: latency_s='1' must be a valid number"),
        ('{"tool": "a", "latency_s": 1, "status": true}', ":1: status=True must be a valid integer"),
        ('{"tool": "a", "latency_s": 1, "status": "429"}', ":1: status='429' must be a valid integer"),
        ('{"tool": "a", "latency_s": 1, "start": true}', ":1: start=True must be seconds since 1970 or ISO 8601"),
        ("[1, 2]", ':1: a list is no call; a call is {"tool": "pay"'),
        ("", "holds no calls"),
        ('{"resourceSpans": []}', "holds no calls"),
        ('{"resourceSpans": null}', "holds no calls"),
        (
            '{"resourceSpans": [{"scopeSpans": [{"spans": [{"kind": 3, "name": "a"}]}]}]}',
            "'startTimeUnixNano' is missing",
        ),
        ('{"resourceSpans": 3}', ":1: not OTLP/JSON"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_traces(path)
    assert str(path) in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)


def test_spans_as_opentelemetry_itself_writes_them(tmp_path: Path) -> None:
    """Its own protocol buffers, in their JSON form, against the calls that they were made from."""
    trace = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    from google.protobuf.json_format import MessageToDict

    data = trace.TracesData()
    scope = data.resource_spans.add().scope_spans.add()

    def span(name: str, kind: int, start_ms: int, took_ms: int, status: int = 0, **attributes: Any) -> None:
        made = scope.spans.add(name=name, kind=kind, start_time_unix_nano=start_ms * 10**6)
        made.end_time_unix_nano = (start_ms + took_ms) * 10**6
        made.status.code = status
        for key, value in attributes.items():
            attribute = made.attributes.add(key=key.replace("__", "."))
            if isinstance(value, list):
                attribute.value.array_value.values.add(string_value=value[0])
            elif isinstance(value, int):
                attribute.value.int_value = value
            else:
                attribute.value.string_value = value

    internal, client = trace.Span.SPAN_KIND_INTERNAL, trace.Span.SPAN_KIND_CLIENT
    wait = {"http__response__header__retry-after": ["7"], "http__request__method": "POST", "server__address": "bank"}
    span("POST", client, 4000, 80, http__response__status_code=429, **wait)
    span("GET", client, 3000, 4000, status=2, error__type="timeout")
    span("GET /orders", client, 5000, 20, status=2, error__type="503", server__address="shop")
    span("chat", client, 1000, 900, gen_ai__operation__name="chat")
    span("thinking", internal, 2000, 9999)
    path = tmp_path / "spans.jsonl"  # as the Collector's file exporter has it: one document a line
    lines = [json.dumps(MessageToDict(data))]
    path.write_text(lines[0] + "\n" + lines[0] + "\n")
    slow, refused, down = read_traces(path)[::2]
    assert (slow.tool, slow.latency_s, slow.failure, slow.start_s) == ("GET", 4.0, "timeout", 3.0)
    assert (refused.tool, refused.latency_s, refused.failure) == ("POST bank", 0.08, "rate_limited")
    assert refused.retry_after_s == 7
    assert (down.tool, down.failure) == ("GET /orders", "unavailable")

    scope.ClearField("spans")  # an agent's own spans, in another line: what its tools call in turn is not counted twice
    span("execute_tool pay", internal, 5000, 250, gen_ai__tool__name="pay", gen_ai__operation__name="execute_tool")
    path.write_text("\n".join([*lines, json.dumps(MessageToDict(data))]))
    (paid,) = read_traces(path)
    assert (paid.tool, paid.latency_s, paid.failure) == ("pay", 0.25, None)


def test_otlp_as_a_collector_writes_it(tmp_path: Path) -> None:
    """By the letter of the OTLP/JSON specification: hexadecimal ids, 64-bit numbers as text, kinds as numbers."""
    attributes = [
        {"key": "gen_ai.operation.name", "value": {"stringValue": "execute_tool"}},
        {"key": "gen_ai.tool.name", "value": {"stringValue": "refund"}},
        {"key": "gen_ai.tool.call.id", "value": {"stringValue": "call_1"}},
        {"key": "error.type", "value": {"stringValue": "httpx.ReadTimeout"}},
        {"key": "retries", "value": {"kvlistValue": {"values": [{"key": "n", "value": {"intValue": "2"}}]}}},
    ]
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "parentSpanId": "eee19b7ec3c1b173",
        "name": "execute_tool refund",
        "kind": 1,
        "startTimeUnixNano": "1772443801500000000",
        "endTimeUnixNano": "1772443806500000000",
        "attributes": attributes,
        "events": [{"timeUnixNano": "1772443806500000000", "name": "exception"}],
        "status": {"code": 2, "message": "timed out"},
    }
    scope = {"scope": {"name": "my.agents", "version": "1.0.0"}, "spans": [span]}
    service = {"attributes": [{"key": "service.name", "value": {"stringValue": "desk"}}]}
    path = tmp_path / "otlp.json"
    path.write_text(json.dumps({"resourceSpans": [{"resource": service, "scopeSpans": [scope]}]}, indent=2))
    (call,) = read_traces(path)
    assert (call.tool, call.latency_s, call.failure, call.start_s) == ("refund", 5.0, "timeout", 1772443801.5)


def test_null_in_a_span_is_nothing_as_in_all_json_of_protocol_buffers(tmp_path: Path) -> None:
    span = {"name": "pay", "kind": 3, "startTimeUnixNano": "0", "endTimeUnixNano": "2000000000"}
    odd = {**span, "attributes": None, "status": None}
    spans = [{"scopeSpans": None}, {"scopeSpans": [{"spans": None}, {"spans": [span, odd]}]}]
    (tmp_path / "t.json").write_text(json.dumps({"resourceSpans": spans}))
    plain, null = read_traces(tmp_path / "t.json")
    assert plain == null and null.latency_s == 2 and null.failure is None
