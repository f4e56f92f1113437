"""One span of a trace: its tool, its session, and its outcome."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldsim.faults.learned.errors import LONGEST_TEXT, grpc_name

TOOL_KEYS = ("gen_ai.tool.name", "ai.toolCall.name", "mcp.tool.name")  # OpenTelemetry, Vercel's AI SDK, Sentry
TOOL_KINDS = {  # attribute that is "tool" -> where the tool's name may be then; else the span's name is the tool's
    "openinference.span.kind": "tool.name",
    "traceloop.span.kind": "traceloop.entity.name",
    "langfuse.observation.type": "",
}
SESSION_KEYS = (
    "gen_ai.conversation.id",
    "session.id",
    "langfuse.session.id",
    "traceloop.association.properties.session_id",
    "ai.telemetry.metadata.sessionId",
)
MODEL_CALLS = ("chat", "text_completion", "generate_content", "embeddings")  # of gen_ai.operation.name
RESULT_KEYS = ("gen_ai.tool.call.result", "ai.toolCall.result", "output.value", "traceloop.entity.output")
STATUS_KEYS = ("http.response.status_code", "http.status_code")

# How results of the Model Context Protocol are marked as errors, also within a text of JSON
_IS_ERROR = re.compile(r'\\?"isError\\?"\s*:\s*true')


@dataclass(slots=True)
class TraceSpan:
    """One span, whichever format it was exported in. Ids are texts, empty where there is none."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str  # "client", "server", "step" (a call if nothing is below it), or anything else
    start_ns: int | None
    end_ns: int | None
    attributes: Mapping[str, Any]  # with dots in their names
    failed: bool | None = None  # None: nothing is known of it
    texts: Sequence[str] = ()  # messages of the status and of exceptions
    session: str = ""  # where the format has it elsewhere than in attributes
    timed: bool = True  # whether the format has durations
    format_name: str = ""  # that it was exported in
    tool: str = field(init=False)  # empty where no tool is named

    def __post_init__(self) -> None:
        self.tool = _tool(self.attributes, self.name)
        self.session = self.session or session_of(self.attributes)

    @property
    def key(self) -> tuple[str, str, bool]:
        """What it is known by: a server may share its id with the client that called it, as in Zipkin and Envoy."""
        return self.trace, self.id, self.kind == "server"

    @property
    def is_model_call(self) -> bool:
        """Whether it is a call of the model itself."""
        attributes = self.attributes
        return (
            attributes.get("gen_ai.operation.name") in MODEL_CALLS
            or "llm.request.type" in attributes
            or str(attributes.get("openinference.span.kind")).upper() in ("LLM", "EMBEDDING")
            or ".do" in str(attributes.get("ai.operationId"))  # of Vercel's AI SDK: ai.streamText.doStream and such
        )


def session_of(attributes: Mapping[str, Any]) -> str:
    """The session that attributes name; empty where they name none."""
    return next((str(attributes[key]) for key in SESSION_KEYS if attributes.get(key)), "")


def _tool(attributes: Mapping[str, Any], name: str) -> str:
    operation = attributes.get("gen_ai.operation.name")
    if operation not in (None, "execute_tool"):  # a span of the model or of an agent may list tools, and is none
        return ""
    for key in TOOL_KEYS:
        if attributes.get(key):
            return str(attributes[key])
    for key, named in TOOL_KINDS.items():
        if str(attributes.get(key)).lower() == "tool":
            return str(attributes.get(named) or name)
    if attributes.get("mcp.method.name") == "tools/call":
        return name.removeprefix("tools/call ")
    return name.removeprefix("execute_tool ") if operation else ""


def has_failed(span: TraceSpan) -> bool:
    """Whether a span is marked, in any way, as failed."""
    attributes = span.attributes
    if span.failed or "error.type" in attributes or str(attributes.get("error")).lower() == "true" or _result(span):
        return True
    return span.failed is None and (
        (status_of(attributes) or 0) >= 400 or bool(whole_number(attributes.get("rpc.grpc.status_code")))
    )


def _result(span: TraceSpan) -> str:
    """The result of a tool, where it is marked as an error."""
    texts = (str(span.attributes[key]) for key in RESULT_KEYS if key in span.attributes)
    return next((text for text in texts if _IS_ERROR.search(text)), "")


def status_of(attributes: Mapping[str, Any]) -> int | None:
    """The status of HTTP, which HTTP instrumentations repeat as `error.type` and some proxies write as text."""
    found = (whole_number(attributes.get(key)) for key in (*STATUS_KEYS, "error.type"))
    return next((status for status in found if status is not None and 100 <= status < 600), None)


def whole_number(value: Any) -> int | None:
    """A whole number that may be written as text, or with a point as columns of tables have it."""
    text = str(value).removesuffix(".0")
    return int(text) if text.isdecimal() else None


def error_of(span: TraceSpan) -> str:
    """All that a span has on its error: the type, the code of gRPC, exceptions, the message of its status."""
    code = whole_number(span.attributes.get("rpc.grpc.status_code"))
    causes = [
        span.attributes.get("error.type"),
        grpc_name(code) if code else None,
        span.attributes.get("rpc.response.status_code"),
    ]
    causes += [
        span.attributes.get("exception.type"),
        span.attributes.get("exception.message"),
        *span.texts,
        _result(span),
    ]
    texts = dict.fromkeys(str(each)[:LONGEST_TEXT] for each in causes if each)
    return ": ".join(texts) or "error"


def service_of(span: TraceSpan) -> str:
    """The span's name; of one that is named by nothing but HTTP's method, the server besides."""
    attributes = span.attributes
    method = attributes.get("http.request.method", attributes.get("http.method"))
    server = attributes.get("server.address", attributes.get("net.peer.name"))
    if server and span.name in ("", method, f"HTTP {method}"):
        return f"{span.name} {server}".strip()
    return span.name or "unnamed"


def exceptions_in(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names and messages of the exceptions among the events of a span, of which these are the attributes."""
    texts: list[str] = []
    for attributes in events:
        texts += [str(attributes[key]) for key in ("exception.type", "exception.message") if attributes.get(key)]
    return texts
