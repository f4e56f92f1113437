"""Every form of export is read into the same calls, with the numbers that the export means."""

import json
from pathlib import Path
from typing import Any

import pytest

from worldsim.faults.learned.calls import TracedCall
from worldsim.faults.learned.traces import read_traces

SAMPLES = Path(__file__).parent / "traces"
START = 1772443800  # 2026-03-02T09:30:00Z
# What happened, as every sample tells it: tool, seconds from the start on, seconds that it took, failure, seconds to
# wait. Most have a fourth call, too, that had not ended, and spans of the model, of HTTP below a tool, or sent twice.
STORY = [
    ("pay", 0.5, 0.31, None, None),
    ("pay", 1.0, 0.02, "rate_limited", 7.0),
    ("find", 2.0, 5.0, "timeout", None),
]
UNFINISHED = "spans without a start or an end"


def told(call: TracedCall) -> tuple[Any, ...]:
    return call.tool, round(call.start_s - START, 6), call.latency_s, call.failure, call.retry_after_s


@pytest.mark.parametrize("path", sorted(SAMPLES.iterdir()), ids=lambda path: path.name)
def test_every_form_tells_the_same_story(path: Path) -> None:
    traces = read_traces(path)
    story = STORY
    if path.name == "atif.json":  # does not say how long calls took, and two of one step start as one
        story = [(*STORY[0][:2], None, *STORY[0][3:]), ("pay", 1, None, "rate_limited", None)]
        story += [("find", 1, None, "timeout", None)]
    elif path.name == "atif_nvidia.json":  # has no headers
        story = [STORY[0], (*STORY[1][:4], None), STORY[2]]
    assert [told(call) for call in traces.calls] == story
    assert {call.session for call in traces.calls} == {"talk-1"}
    assert traces.left_out.get(UNFINISHED, 0) == (0 if path.name.startswith("own") else 1)


def test_all_of_them_together_are_the_story_once_a_source() -> None:
    """The same spans in seven files of OTLP, and in Jaeger's and Phoenix's forms with the same ids, are one session."""
    same_ids = ("otlp", "tempo", "jaeger", "phoenix")
    found = [
        [told(call) for call in read_traces(path).calls] for path in SAMPLES.iterdir() if path.name.startswith(same_ids)
    ]
    assert len(found) == 13 and all(calls == found[0] for calls in found)


@pytest.fixture(scope="module")
def sdk_spans() -> Any:
    """Spans that OpenTelemetry's own SDK made: a chat, a tool that went well over HTTP, and one that did not."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")

    def ns(seconds: float) -> int:
        return START * 10**9 + round(seconds * 1e9)

    def begin(name: str, start_s: float, above: Any = None, kind: Any = SpanKind.INTERNAL, **said: Any) -> Any:
        named = {key.replace("__", "."): value for key, value in said.items()}
        context = None if above is None else set_span_in_context(above)
        return tracer.start_span(name, context, kind, named, start_time=ns(start_s))

    agent = begin("invoke_agent", 0, gen_ai__operation__name="invoke_agent", gen_ai__conversation__id="talk-1")
    chat = begin("chat", 0, agent, SpanKind.CLIENT, gen_ai__operation__name="chat")
    begin("POST", 0, chat, SpanKind.CLIENT, http__response__status_code=500).end(ns(0.2))
    chat.end(ns(0.25))
    for start_s, took_s, failed in ((0.5, 0.25, False), (1, 0.5, True)):
        named = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": "pay"}
        tool = begin("execute_tool pay", start_s, agent, **named)
        asked = begin("POST", start_s, tool, SpanKind.CLIENT, **{"http.response.header.retry-after": ["7"]})
        asked.set_attribute("http.response.status_code", 429 if failed else 200)
        asked.end(ns(start_s + took_s / 2))
        if failed:
            tool.record_exception(ConnectionResetError("[Errno 104] Connection reset by peer"))
            tool.set_status(Status(StatusCode.ERROR, "the bank is gone"))
        tool.end(ns(start_s + took_s))
    agent.end(ns(9))
    return exporter.get_finished_spans()


SDK_STORY = [("pay", 0.5, 0.25, None, None), ("pay", 1.0, 0.5, "connection", None)]


@pytest.mark.parametrize("proto_names", [False, True])
def test_spans_as_opentelemetrys_sdk_sends_them(sdk_spans: Any, proto_names: bool, tmp_path: Path) -> None:
    """Its protocol buffers in their JSON form, whose ids are in base64, in camelCase and in snake_case."""
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    from google.protobuf.json_format import MessageToDict

    request = MessageToDict(encoder.encode_spans(sdk_spans), preserving_proto_field_name=proto_names)
    path = tmp_path / "spans.json"
    path.write_text(json.dumps(request))
    traces = read_traces(path)
    assert [told(call) for call in traces.calls] == SDK_STORY
    assert {call.session for call in traces.calls} == {"talk-1"}
    assert traces.left_out == {"spans within a call that is counted already": 2}


def test_spans_as_the_console_exporter_prints_them(sdk_spans: Any, tmp_path: Path) -> None:
    """Objects over many lines, one after the other."""
    path = tmp_path / "spans.txt"
    path.write_text("".join(span.to_json() + "\n" for span in sdk_spans))
    traces = read_traces(path)
    assert [told(call) for call in traces.calls] == SDK_STORY
    assert traces.left_out == {"spans within a call that is counted already": 2}


def test_older_langfuse_wrote_tools_as_spans_with_nothing_below(tmp_path: Path) -> None:
    def observation(name: str, parent: str | None, **more: Any) -> dict[str, Any]:
        moments = {"startTime": "2026-03-02T09:30:00.000Z", "endTime": "2026-03-02T09:30:02.000Z"}
        ids = {"id": name, "traceId": "t", "parentObservationId": parent}
        return {**ids, "type": "SPAN", "name": name, "level": "DEFAULT", **moments, **more}

    below = [observation("pay", "agent", level="ERROR", statusMessage="ECONNRESET"), observation("find", "agent")]
    model = observation("chat", "agent", type="GENERATION")
    path = tmp_path / "observations.json"
    path.write_text(json.dumps([observation("agent", None), *below, model]))
    assert {each.tool: each.failure for each in read_traces(path).calls} == {"pay": "connection", "find": None}


@pytest.mark.parametrize(
    ("step", "failure"),
    [
        ({"content": "the log says: 503 Service Unavailable"}, None),  # what a tool found, and not how it went
        ({"content": "Error: no such file"}, None),
        ({"content": "Error: Request failed with status code 503"}, "unavailable"),
        ({"content": "[error] tool timed out"}, "timeout"),
        ({"content": "Exit code 1", "is_error": True}, "server_error"),
        ({"content": "529 overloaded", "extra": {"is_error": True}}, "unavailable"),
        ({"content": None}, None),
    ],
)
def test_how_a_trajectory_says_that_a_call_failed(step: dict[str, Any], failure: str | None, tmp_path: Path) -> None:
    calls = [{"tool_call_id": "1", "function_name": "pay", "arguments": {}}]
    steps = [{"step_id": 1, "source": "agent", "tool_calls": calls, "observation": {"results": [step]}}]
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps({"schema_version": "ATIF-v1.4", "session_id": "s", "steps": steps}))
    (call,) = read_traces(path).calls
    assert (call.failure, call.latency_s) == (failure, None)


def test_a_trajectory_of_claude_code_marks_errors_in_its_step(tmp_path: Path) -> None:
    calls = [{"tool_call_id": "1", "function_name": "Bash", "arguments": {}}]
    results = [{"source_call_id": "1", "content": "connect ECONNREFUSED 127.0.0.1:80"}]
    step = {"step_id": 1, "source": "agent", "tool_calls": calls, "observation": {"results": results}}
    path = tmp_path / "trajectory.json"
    for marked, failure in ((True, "connection"), (False, None)):
        marks = {**step, "extra": {"tool_result_is_error": marked}}
        path.write_text(json.dumps({"schema_version": "ATIF-v1.4", "session_id": "s", "steps": [marks]}))
        assert [call.failure for call in read_traces(path).calls] == [failure]


def test_single_spans_of_jaeger_and_of_otlp_may_stand_one_a_line(tmp_path: Path) -> None:
    """As Elasticsearch holds those of Jaeger, and Phoenix's API sends those of OTLP."""
    jaeger = json.loads((SAMPLES / "jaeger_ui.json").read_text())["data"][0]["spans"]
    otlp = json.loads((SAMPLES / "otlp_document.json").read_text())["resourceSpans"][0]["scopeSpans"][0]["spans"]
    for spans in (jaeger, otlp):
        path = tmp_path / "spans.jsonl"
        path.write_text("".join(json.dumps(span) + "\n" for span in spans))
        assert [told(call) for call in read_traces(path).calls] == STORY
