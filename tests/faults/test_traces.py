"""Recorded calls are read as they were meant, each once, and a file that is none is told by line."""

import codecs
import gzip
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from worldsim.errors import ConfigError
from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.timestamps import moment_ns, retry_after_seconds
from worldsim.faults.learned.traces import Traces, read_traces


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


def read(tmp_path: Path, *documents: Any) -> Traces:
    """The calls of documents that are written one a line."""
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    return read_traces(path)


def test_json_lines_come_in_the_order_of_their_start(tmp_path: Path) -> None:
    rows = [
        {"tool": "b", "latency_s": 1, "start": "2026-01-01T00:00:02Z", "unknown": [1]},
        {"tool": "c", "latency_s": 1, "start": "2026-01-01T01:00:03+01:00"},
        {"tool": "a", "latency_s": 1, "start": 1767225601.5},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    assert [each.tool for each in read_traces(path).calls] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "start",
    [
        "2026-01-01T00:00:01.5Z",
        "2026-01-01T00:00:01.500000+00:00",
        "2026-01-01T02:00:01.5+02:00",
        "2026-01-01T00:00:01.500000000",
        "2026-01-01 00:00:01.5",
        1767225601.5,
        "1767225601.5",
        1767225601500,
        "1767225601500",
        1767225601500000,
        1767225601500000000,
        "1767225601500000000",
        1767225601.5e9,
    ],
)
def test_all_ways_to_write_a_moment_are_one(start: Any) -> None:
    """Zones, and seconds, milliseconds, microseconds and nanoseconds since 1970, as numbers or text."""
    assert moment_ns(start) == 1767225601500000000
    assert call(start=start).start_s == 1767225601.5


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        (7, 7.0),
        ("7", 7.0),
        ("0.5", 0.5),
        (["7"], 7.0),
        ([7, 9], 7.0),
        ('["7"]', 7.0),  # how Jaeger writes a list
        ("Thu, 01 Jan 2026 00:02:00 GMT", 90.0),
        (["Thu, 01 Jan 2026 00:02:00 GMT"], 90.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),  # over already
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ([], None),
        ("[", None),
        (None, None),
        (True, None),
    ],
)
def test_what_a_service_asks_to_wait(retry_after: Any, wait: float | None) -> None:
    """A date is relative to the end of the call, here half a minute past midnight."""
    assert retry_after_seconds(retry_after, moment_ns("2026-01-01T00:00:30Z")) == wait


def test_our_own_lines_may_quote_the_header(tmp_path: Path) -> None:
    row = {"tool": "a", "latency_s": 30, "start": "2026-01-01T00:00:00Z", "status": 429}
    retry_after = [2, "2", ["2"], "Thu, 01 Jan 2026 00:00:32 GMT"]
    calls = read(tmp_path, *({**row, "retry_after_s": each} for each in retry_after)).calls
    assert [each.retry_after_s for each in calls] == [2.0] * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tool": "a", "latency_s": 1}\n{"tool": "a", "latency_s": -3}\n', ":2: latency_s=-3 must be greater"),
        ('{"tool": "a"}\n', ":1: latency_s is missing"),
        ('{"tool": "a", "latency_s": 1}\nnothing\n', ":2: not JSON"),
        ('{"tool": "a", "latency_s": 1}\n{"tool": "a", "lat', ":2: not JSON"),
        ('{"tool": "a", "latency_s": NaN}', ":1: latency_s=nan must be a finite number"),
        ('{"tool": "a", "latency_s": 1e10}', ":1: latency_s=10000000000.0 must be less than"),
        ('{"tool": "a", "latency_s": 1, "start": "noon"}', ":1: start='noon' must be ISO 8601 or a number since 1970"),
        ('{"tool": "a", "latency_s": 1}\n{"tool": "a", "latency_s": 1, "ok": "yes"}\n', ":2: ok='yes' must be true or"),
        ('{"tool": "a", "latency_s": 1, "ok": 0}', ":1: ok=0 must be true or false, without quotes"),
        ('{"tool": "a", "latency_s": "1"}', ":1: latency_s='1' must be a valid number"),
        ('{"tool": "a", "latency_s": 1, "status": true}', ":1: status=True must be a valid integer"),
        ('{"tool": "a", "latency_s": 1, "status": "429"}', ":1: status='429' must be a valid integer"),
        ('{"tool": "a", "latency_s": 1, "start": true}', ":1: start=True must be ISO 8601 or a number since 1970"),
        (
            '{"tool": "a", "latency_s": 1, "retry_after_s": "soon"}',
            ":1: retry_after_s='soon' must be seconds, or a date",
        ),
        ("[1, 2]", ':1: 1 is no call; a call is {"tool": "pay"'),
        ("", "holds no calls"),
        ('{"resourceSpans": []}', "holds no calls"),
        ('{"resourceSpans": null}', "holds no calls"),
        ('{"data": null, "errors": null}', "holds no calls"),
        ('{"resourceSpans": 3}', ":1: OTLP/JSON, but 'int' object is not iterable"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [{"value": {}}]}]}]}]}', "'key' is missing"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "soon"}]}]}]}', ":1: OTLP/JSON, but "),
        (
            '{"resourceSpans": [{"scopeSpans": [{"spans": [{"kind": 3, "name": "a"}]}]}]}',
            "holds no calls (1 spans in OTLP/JSON, of which none that has ended names a tool or is of kind client",
        ),
        (
            '{"data": [{"traceID": "1", "spans": [{"spanID": "2", "operationName": "a"}]}]}',
            "Jaeger's JSON, but 'startTime'",
        ),
        ('{"schema_version": "ATIF-v1.6", "session_id": "s"}', ":1: ATIF, but 'steps' is missing"),
        ('{"batches": [3]}', ":1: Tempo's JSON, but "),
        ('{"id": "t", "observations": ["o-1"]}', "Langfuse's JSON, but it holds the ids of observations"),
        ('{"type": "TOOL", "startTime": "noon"}', "Langfuse's JSON, but "),
        ('{"span_kind": "TOOL", "start_time": "noon"}', "JSON of Phoenix, but "),
        ('{"resourceLogs": []}', ":1: logs in OTLP/JSON, and no calls; export the spans"),
        ('{"traces": [{"traceID": "1", "rootTraceName": "a"}]}', ":1: Tempo's list of traces, without their spans"),
        ('{"level": "info", "msg": "started"}', ":1: no known format has the keys level, msg; a call is"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_traces(path)
    assert str(path) in str(caught.value) and says in str(caught.value) and "\n" not in str(caught.value)


ROW = {"tool": "a", "latency_s": 1, "error": "line\u2028paragraph\u2029next\x85"}


@pytest.mark.parametrize(
    "pack",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: gzip.compress(text.encode()),
        lambda text: (
            gzip.compress(text.encode()[:20]) + gzip.compress(text.encode()[20:])
        ),  # as rotated logs are joined
        lambda text: gzip.compress(text.encode("utf-16")),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: json.dumps([json.loads(line) for line in text.split("\n") if line], indent=1).encode(),
        lambda text: "".join(json.dumps(json.loads(line), indent=2) for line in text.split("\n") if line).encode(),
    ],
)
def test_encodings_packings_and_layouts(pack: Any, tmp_path: Path) -> None:
    """Byte order marks, gzip under any name, JSON arrays, objects over several lines; line breaks within texts."""
    path = tmp_path / "traces.txt"
    lines = [json.dumps(ROW, ensure_ascii=False)] * 3
    path.write_bytes(pack("\n".join(lines) + "\n") if pack is not str.encode else "\n".join(lines).encode())
    calls = read_traces(path).calls
    assert [(each.tool, each.error) for each in calls] == [("a", ROW["error"])] * 3


def test_what_was_cut_off_or_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode() * 50)[:-12])
    with pytest.raises(ConfigError, match="is damaged or was cut off"):
        read_traces(path)
    path.write_bytes(b'{"tool": "\xff\xff\xff"}')
    with pytest.raises(ConfigError, match="is not text in UTF-8 or UTF-16"):
        read_traces(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_traces(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is an empty folder"):
        read_traces(tmp_path / "empty")


def test_calls_without_a_session_are_one_session_a_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "session": 7}))
    sessions = [each.session for each in read_traces(tmp_path).calls]
    assert sessions == [str(tmp_path / "a.jsonl"), "7", str(tmp_path / "b.jsonl"), "7"]


# --- spans ---


def span(
    number: int, name: str, kind: int = 1, parent: int = 0, at: tuple[float, float | None] = (0, 1), **said: Any
) -> Any:
    """A span of OTLP/JSON; `__` in the names of attributes stands for a dot, trace and status are told apart."""
    trace, status = said.pop("trace", 1), said.pop("status", {})
    start, end = (None if moment is None else str(round((1.7e9 + moment) * 1e9)) for moment in at)
    values = [{"key": key.replace("__", "."), "value": {"stringValue": str(value)}} for key, value in said.items()]
    ids = {"traceId": f"{trace:032x}", "spanId": f"{number:016x}", "parentSpanId": f"{parent:016x}" if parent else ""}
    times = {"startTimeUnixNano": start, "endTimeUnixNano": end}
    return {**ids, **times, "name": name, "kind": kind, "attributes": values, "status": status}


def document(*spans: Any) -> Any:
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


TOOL = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": "pay"}
HTTP = {"http__request__method": "POST", "server__address": "bank"}
FAILED = {"code": 2, "message": "503 Service Unavailable"}
ONE_CALL = [
    span(1, "invoke_agent", at=(0, 9), gen_ai__operation__name="invoke_agent", gen_ai__conversation__id="talk"),
    span(2, "execute_tool pay", parent=1, at=(1, 3), status=FAILED, **TOOL),
    span(3, "tools/call pay", 3, parent=2, at=(1.1, 2.9), gen_ai__tool__name="pay", mcp__method__name="tools/call"),
    span(4, "tools/call pay", 2, parent=3, at=(1.2, 2.8), gen_ai__tool__name="pay", mcp__method__name="tools/call"),
    span(5, "POST", 3, parent=4, at=(1.3, 1.5), http__response__status_code=503, **HTTP),
    span(6, "POST", 3, parent=4, at=(2.0, 2.5), http__response__status_code=200, http__request__resend_count=1, **HTTP),
    span(7, "POST /pay", 2, parent=6, at=(2.1, 2.4), http__response__status_code=200),
]


def test_a_call_that_many_spans_saw_is_one_with_the_outcome_of_the_tool(tmp_path: Path) -> None:
    """The tool, its client and server of the Model Context Protocol, two tries over HTTP, and the server of these."""
    traces = read(tmp_path, document(*ONE_CALL))
    (found,) = traces.calls
    assert (found.tool, found.latency_s, found.failure, found.session) == ("pay", 2.0, "unavailable", "talk")
    assert traces.notes == ["not counted, spans within a call that is counted already: 5"]


def test_where_a_tool_says_only_that_it_failed_what_it_asked_says_why(tmp_path: Path) -> None:
    header = {"http__response__header__retry-after": 7}
    spans = [
        span(1, "execute_tool pay", at=(0, 3), status={"code": 2}, **TOOL),
        span(2, "POST", 3, parent=1, at=(0, 1), http__response__status_code=503, **HTTP),
        span(3, "POST", 3, parent=1, at=(1, 2), http__response__status_code=429, **HTTP, **header),
        span(4, "GET", 3, parent=1, at=(2, 3), http__response__status_code=200, **HTTP),
        span(5, "execute_tool pay", at=(5, 6), status={"code": 2, "message": "MCP error -32001: timeout"}, **TOOL),
        span(6, "POST", 3, parent=5, at=(5, 6), http__response__status_code=500, **HTTP),
        span(7, "execute_tool pay", at=(7, 8), status={"code": 2, "message": "ToolException"}, **TOOL),
        span(8, "execute_tool pay", at=(9, 10), **TOOL),
        span(
            9, "POST", 3, parent=8, at=(9, 10), http__response__status_code=500, **HTTP
        ),  # and it came to terms with it
    ]
    calls = read(tmp_path, document(*spans)).calls
    found = [(each.failure, each.retry_after_s) for each in calls]
    assert found == [("rate_limited", 7.0), ("timeout", None), ("server_error", None), (None, None)]


@pytest.mark.parametrize(
    ("name", "said", "tool"),
    [
        ("execute_tool pay", {"gen_ai__operation__name": "execute_tool"}, "pay"),
        ("tools/call pay", {"mcp__method__name": "tools/call"}, "pay"),
        ("tools/call pay", {"mcp__tool__name": "pay"}, "pay"),
        ("run", {"gen_ai__tool__name": "pay", "gen_ai__operation__name": "execute_tool"}, "pay"),
        ("ai.toolCall", {"ai__toolCall__name": "pay"}, "pay"),
        ("FunctionTool.acall", {"openinference__span__kind": "TOOL", "tool__name": "pay"}, "pay"),
        ("pay", {"openinference__span__kind": "TOOL"}, "pay"),
        ("pay.tool", {"traceloop__span__kind": "tool", "traceloop__entity__name": "pay"}, "pay"),
        ("pay", {"langfuse__observation__type": "tool"}, "pay"),
        ("chat", {"gen_ai__operation__name": "chat", "gen_ai__tool__name": "pay"}, ""),  # only offered to the model
        ("pay", {"openinference__span__kind": "CHAIN", "tool__name": "pay"}, ""),
    ],
)
def test_how_a_span_names_its_tool(name: str, said: dict[str, Any], tool: str, tmp_path: Path) -> None:
    other = span(9, "execute_tool other", at=(50, 51), gen_ai__tool__name="other")
    found = [each.tool for each in read(tmp_path, document(span(1, name, **said), other)).calls]
    assert found == ([tool, "other"] if tool else ["other"])


def test_order_and_resending_change_nothing(tmp_path: Path) -> None:
    once = read(tmp_path, document(*ONE_CALL)).calls
    for seed in range(5):
        spans = [*ONE_CALL, *ONE_CALL]
        random.Random(seed).shuffle(spans)
        lines = [document(*spans[:4]), document(*spans[4:])]
        traces = read(tmp_path, *lines)
        assert traces.calls == once
        assert traces.left_out["spans exported again"] == len(ONE_CALL)
    (tmp_path / "again").write_text(json.dumps(document(*ONE_CALL)))
    assert read_traces(tmp_path).calls == once, "over several files, too"


def test_the_last_export_of_a_span_knows_how_it_ended(tmp_path: Path) -> None:
    begun = span(2, "execute_tool pay", at=(1, None), **TOOL)
    ended = span(2, "execute_tool pay", at=(1, 3), **TOOL)
    corrected = span(2, "execute_tool pay", at=(1, 3), status=FAILED, **TOOL)
    for lines in ([begun, ended, corrected], [ended, begun, corrected], [ended, corrected, begun]):
        (found,) = read(tmp_path, *map(document, lines)).calls
        assert (found.latency_s, found.failure) == (2.0, "unavailable")
    traces = read(tmp_path, document(begun, span(3, "execute_tool find", gen_ai__tool__name="find")))
    assert [each.tool for each in traces.calls] == ["find"]
    assert traces.notes == ["not counted, spans without a start or an end: 1"]


def test_ids_tell_calls_apart_only_together(tmp_path: Path) -> None:
    """Span ids are unique in a trace and no further; a server may have the id of its client, as Envoy and Zipkin do."""
    same = [span(2, "execute_tool pay", trace=trace, **TOOL) for trace in (1, 2)]
    assert len(read(tmp_path, document(*same)).calls) == 2
    shared = [span(2, "POST /pay", kind, at=(0, kind), http__response__status_code=200) for kind in (3, 2)]
    for spans in itertools.permutations(shared):
        traces = read(tmp_path, document(*spans))
        assert [each.latency_s for each in traces.calls] == [3.0]
        assert traces.left_out == {"spans within a call that is counted already": 1}


def test_without_a_tool_clients_are_calls_and_their_retries_are_not(tmp_path: Path) -> None:
    """Requests that are sent again under the same parent: one call, from its first try to its last outcome."""
    sent = [
        span(2, "POST", 3, parent=1, at=(0, 1), http__response__status_code=503, **HTTP),
        span(3, "POST", 3, parent=1, at=(2, 3), http__response__status_code=429, http__request__resend_count=1, **HTTP),
        span(4, "POST", 3, parent=1, at=(5, 6), http__response__status_code=200, http__request__resend_count=2, **HTTP),
        span(5, "POST", 3, parent=1, at=(7, 8), http__response__status_code=504, **HTTP),
        span(6, "POST", 3, parent=1, at=(8, 9), http__response__status_code=502, http__request__resend_count=1, **HTTP),
        span(7, "POST", 3, parent=9, at=(8, 9), http__response__status_code=200, **HTTP),
        span(8, "POST /pay", 2, parent=7, at=(8, 9), http__response__status_code=200),
        span(10, "chat", 3, at=(0, 9), gen_ai__operation__name="chat"),
        span(11, "POST", 3, parent=10, at=(0, 9), http__response__status_code=500, server__address="model"),
    ]
    for seed in range(4):
        random.Random(seed).shuffle(sent)
        traces = read(tmp_path, document(*sent))
        found = [(each.tool, each.latency_s, each.failure) for each in traces.calls]
        assert found == [("POST bank", 6.0, None), ("POST bank", 2.0, "bad_gateway"), ("POST bank", 1.0, None)]
    assert traces.left_out == {"spans within a call that is counted already": 1, "retries within a call": 3}


def test_retries_of_requests_side_by_side_go_on_their_own(tmp_path: Path) -> None:
    sent = [
        span(2, "POST", 3, parent=1, at=(0.0, 1.0), http__response__status_code=503, **HTTP),
        span(3, "POST", 3, parent=1, at=(0.1, 5.0), http__response__status_code=200, **HTTP),
        span(
            4,
            "POST",
            3,
            parent=1,
            at=(2.0, 3.0),
            http__response__status_code=502,
            http__request__resend_count=1,
            **HTTP,
        ),
    ]
    found = [(each.latency_s, each.failure) for each in read(tmp_path, document(*sent)).calls]
    assert found == [(3.0, "bad_gateway"), (4.9, None)]


def test_a_tool_that_an_agent_within_a_tool_calls_is_a_call_of_its_own(tmp_path: Path) -> None:
    spans = [
        span(1, "execute_tool research", at=(0, 9), gen_ai__tool__name="research"),
        span(2, "execute_tool find", parent=1, at=(1, 2), gen_ai__tool__name="find"),
        span(3, "execute_tool research", parent=1, at=(1, 2), gen_ai__tool__name="research"),  # a wrapper of it
        span(4, "GET", 3, at=(20, 21), **HTTP),
    ]
    traces = read(tmp_path, document(*spans))
    assert [each.tool for each in traces.calls] == ["research", "find"]
    assert traces.left_out == {
        "spans within a call that is counted already": 1,
        "spans of kind client, outside of all tools": 1,
    }


def test_sessions_come_from_the_span_what_is_above_it_its_trace_or_its_resource(tmp_path: Path) -> None:
    spans = [
        span(1, "execute_tool a", trace=1, gen_ai__tool__name="a", gen_ai__conversation__id="own", session__id="no"),
        span(2, "execute_tool b", trace=2, gen_ai__tool__name="b"),
        span(3, "chat", trace=2, gen_ai__operation__name="chat", session__id="of the trace"),
        span(4, "agent", trace=3, session__id="above"),
        span(5, "execute_tool c", trace=3, parent=4, gen_ai__tool__name="c"),
        span(6, "agent", trace=3, session__id="beside"),
        span(7, "execute_tool d", trace=4, gen_ai__tool__name="d"),
    ]
    sessions = {each.tool: each.session for each in read(tmp_path, document(*spans)).calls}
    assert sessions == {"a": "own", "b": "of the trace", "c": "above", "d": "4"}
    said = [{"key": "langfuse.session.id", "value": {"stringValue": "of the process"}}]
    resource = {"resource": {"attributes": said}, "scopeSpans": [{"spans": [spans[-1]]}]}
    (found,) = read(tmp_path, {"resourceSpans": [resource]}).calls
    assert found.session == "of the process"


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        ({}, None),
        ({"status": {"code": 2}}, "server_error"),
        ({"status": {"code": "STATUS_CODE_ERROR", "message": "socket hang up"}}, "connection"),
        ({"status": {"code": 1}, "http__response__status_code": 500}, None),  # somebody decided that it is well
        ({"http__response__status_code": 404}, None),
        ({"http__status_code": "504"}, "timeout"),  # Envoy writes text
        ({"http__status_code": "504.0"}, "timeout"),  # and tables a point
        ({"error__type": "429"}, "rate_limited"),
        ({"error__type": "_OTHER", "status": {"code": 2, "message": "401 Unauthorized"}}, "unauthorized"),
        ({"error__type": "ToolError", "exception__message": "MCP error -32001: Request timed out"}, "timeout"),
        ({"error": "true"}, "server_error"),
        ({"error": "false"}, None),
        ({"rpc__grpc__status_code": 0}, None),
        ({"rpc__grpc__status_code": 14}, "unavailable"),
        ({"rpc__grpc__status_code": 3}, None),  # INVALID_ARGUMENT
        ({"ai__toolCall__result": '{"content":[{"text":"429 Too Many Requests"}],"isError":true}'}, "rate_limited"),
        ({"output__value": '{"isError": false, "text": "429 Too Many Requests"}'}, None),
    ],
)
def test_how_a_span_says_that_it_failed(given: dict[str, Any], failure: str | None, tmp_path: Path) -> None:
    (found,) = read(tmp_path, document(span(1, "execute_tool pay", **{"gen_ai__tool__name": "pay", **given}))).calls
    assert found.failure == failure


def test_a_span_whose_clocks_were_at_odds_has_an_outcome_and_no_latency(tmp_path: Path) -> None:
    for moments in ((3, 2), (-1.7e9, 2)):
        (found,) = read(tmp_path, document(span(1, "execute_tool pay", at=moments, status=FAILED, **TOOL))).calls
        assert (found.latency_s, found.failure) == (None, "unavailable")


def test_ancestors_in_a_circle_end(tmp_path: Path) -> None:
    spans = [span(1, "", 3, parent=2), span(2, "", 1, parent=1), span(3, "", 3, parent=3)]
    assert [each.tool for each in read(tmp_path, document(*spans)).calls] == ["unnamed"] * 2


def test_null_in_a_span_is_nothing_as_in_all_json_of_protocol_buffers(tmp_path: Path) -> None:
    bare = {"name": "pay", "kind": 3, "startTimeUnixNano": "0", "endTimeUnixNano": "2000000000"}
    odd = {**bare, "attributes": None, "status": None, "events": None}
    spans = [{"scopeSpans": None}, {"scopeSpans": [{"spans": None}, {"spans": [bare, odd]}]}]
    plain, null = read(tmp_path, {"resourceSpans": spans}).calls
    assert plain == null and null.latency_s == 2 and null.failure is None
