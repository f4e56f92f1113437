"""One HTTP exchange through faults: the request that goes upstream, its responses, and the one that the client gets."""

import contextlib
import json
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from worldsim.errors import ConfigError
from worldsim.faults.calls import LOST, Call, FaultRecord, Reply
from worldsim.faults.clock import WallClock
from worldsim.faults.definition import Fault
from worldsim.faults.effects.delays import Delay, SlowService, TimeOut
from worldsim.faults.effects.refusals import FailAfterExecution, Refuse
from worldsim.faults.effects.replays import ExecuteTwice, ReplayCall
from worldsim.faults.http.bodies import (
    BYTE_ORDER_TWICE,
    RecentResponses,
    UpstreamResponse,
    as_utf16,
    changed_stream,
    cut_after,
    fixed_stream,
    library_of,
    record_chunks,
    response_of,
)
from worldsim.faults.http.requests import Arguments, ParsedRequest, PathTemplates, RouteMatch, with_length
from worldsim.faults.parameters import matches
from worldsim.faults.pipeline import ForwardContext
from worldsim.faults.plans.plan import Plan
from worldsim.faults.tools import STATUSES, Faults, Session
from worldsim.faults.trees import as_text

_BODY_INDEPENDENT_EFFECTS = (Delay, TimeOut, SlowService, Refuse, FailAfterExecution, ExecuteTwice, ReplayCall)
_REMEMBERED = 1000  # tools in sessions
_INCOMPLETE_BODY = "peer closed connection without sending complete message body"
_PAGE = re.compile(r"\s*<(!doctype html|html)", re.IGNORECASE)

SessionOf = str | Callable[[Any], str] | None
AnyFaults = Faults | Plan | str | Path | Fault | Sequence[Fault | Mapping[str, Any]]


class FaultTransportBase:
    """What the sync and the async transport have in common."""

    def __init__(
        self,
        faults: AnyFaults,
        transport: Any = None,
        templates: Sequence[str] | Mapping[str, str] = (),
        session: SessionOf = None,
    ) -> None:
        self.faults = faults if isinstance(faults, Faults) else Faults(faults)
        self._inner, self._templates, self._session = transport, PathTemplates(templates), session
        self._faults = [fault for fault in self.faults.plan.faults if not fault.idle]
        self._tool_states: OrderedDict[tuple[str, str], ToolState] = OrderedDict()  # by session and tool
        self._lock = threading.Lock()

    def match_route(self, request: Any) -> RouteMatch | None:
        """The route of a request; None where no fault is aimed at it and calls are not recorded."""
        if not self._faults and self.faults.recorder is None:
            return None
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        found = self._templates.match(request.method, path)
        return found if self.is_targeted(found.tool) or self.faults.recorder is not None else None

    def is_targeted(self, tool: str) -> bool:
        return any(matches(tool, fault.tools) for fault in self._faults)

    def session_of(self, request: Any) -> Session:
        name = request.headers.get(self._session) if isinstance(self._session, str) else None
        if callable(self._session):
            name = self._session(request)
        return self.faults.current if name is None else self.faults.session(name)

    def remember_request(self, session: Session, parsed: ParsedRequest) -> "ToolState":
        """Remember the last request for its tool in this session."""
        with self._lock:
            found = self._tool_states.setdefault((session.name, parsed.tool), ToolState())
            self._tool_states.move_to_end((session.name, parsed.tool))
            found.last_request = parsed
            if len(self._tool_states) > _REMEMBERED:
                self._tool_states.popitem(last=False)
        return found

    def last_request_of(self, session: Session, tool: str) -> ParsedRequest:
        """The last request for a tool."""
        found = self._tool_states.get((session.name, tool))
        if found is None:
            raise ConfigError(f"a fault calls '{tool}', which no request has called: so its URL is not known")
        return found.last_request


class ToolState:
    """Of one tool in one session: the last request for it, and its recent responses."""

    last_request: ParsedRequest

    def __init__(self) -> None:
        self.responses = RecentResponses()


class HTTPExchange:
    """One request through the faults, and its responses.

    responses: all that the service has sent, oldest first; the reply decides which of them the client gets.
    """

    def __init__(self, transport: FaultTransportBase, request: Any, route: RouteMatch) -> None:
        self._transport, self._request = transport, request
        self.session, self.tool, self.library = transport.session_of(request), route.tool, library_of(request)
        self.responses: list[UpstreamResponse] = []
        self._streamed: UpstreamResponse | None = None  # whose stream the client reads itself
        self._route, self._body_needed, self._tool_state = route, False, ToolState()

    @property
    def timeout_s(self) -> float | None:
        """Seconds after which the client gives up waiting for an answer."""
        found: float | None = self._request.extensions.get("timeout", {}).get("read")
        return found

    def arguments(self) -> Mapping[str, Any]:
        """The arguments of the call. The request body has been read if any fault is aimed at its tool."""
        if not self._transport.is_targeted(self.tool):
            return {}
        self._tool_state = self._transport.remember_request(self.session, ParsedRequest(self._request, self._route))
        return self._tool_state.last_request.arguments

    def outgoing_request(self, call: Call, context: ForwardContext) -> Any:
        """The request to send upstream: the client's own, unless a fault has changed the call or its deadline."""
        if context.log is None:
            return self._request
        arguments = call.arguments  # no `Arguments` where a fault has made them
        parsed = (
            arguments.parsed
            if isinstance(arguments, Arguments)
            else self._transport.last_request_of(self.session, call.tool)
        )
        request = parsed.with_arguments(arguments)
        extensions = self._request.extensions
        if context.deadline_s is not None and isinstance(self.session.clock, WallClock):
            left_s = max(1e-3, context.deadline_s - self.session.clock.now())  # 0 would fail at once
            timeout = extensions.get("timeout", {})
            read_s = timeout.get("read")
            left_s = left_s if read_s is None else min(left_s, read_s)
            extensions = {**extensions, "timeout": {**timeout, "read": left_s}}
        if request is self._request and extensions is request.extensions:
            return request
        return self.library.Request(
            request.method, request.url, headers=request.headers, stream=request.stream, extensions=extensions
        )

    def receive(self, response: Any) -> UpstreamResponse:
        """Note a response, whose body is not read yet."""
        self.responses.append(UpstreamResponse(response))
        return self.responses[-1]

    def needs_body(self, call: Call, context: ForwardContext, upstream: UpstreamResponse) -> bool:
        """Whether the faults need the body first. That of an event stream is passed on event by event instead."""
        if context.log is not None:
            effects = self.session.effects(self.tool, call.number)
            self._body_needed = not all(isinstance(each, _BODY_INDEPENDENT_EFFECTS) for each in effects)
        return self._body_needed and not upstream.is_event_stream

    def set_body(self, upstream: UpstreamResponse, chunks: list[bytes]) -> None:
        """Give a response its body, which was read."""
        upstream.chunks = chunks
        self._tool_state.responses.add(upstream)

    def unread(self) -> list[UpstreamResponse]:
        """Responses whose streams nobody will read. Close them: each holds a connection."""
        return [each for each in self.responses if each.chunks is None and each is not self._streamed]

    def superseded(self) -> list[UpstreamResponse]:
        """Those to close before the call is executed again: a client may have one connection only."""
        return [] if self._body_needed else self.unread()

    # --- what the client gets ---

    def response(self, reply: Reply, records: Sequence[FaultRecord]) -> Any:
        """The response that the client gets for a reply. Raises the library's exception for a lost one."""
        if reply.payload is not LOST:
            return self._response_with(reply.payload)
        if reply.error == "timeout":  # the same for lost requests and lost answers: no client can tell these apart
            raise self.library.ReadTimeout("timed out", request=self._request)
        if reply.error == "connection":
            raise self.library.ReadError("connection reset by peer", request=self._request)
        if reply.error == "malformed":
            return self._malformed(reply.raw, records)
        return self._refusal(reply)

    def _response_with(self, payload: Any) -> Any:
        upstream = response_of(payload) or self._matching_response(payload)
        if upstream is None:
            return self._new_response(200, "application/json", as_text(payload))
        if upstream.chunks is None:
            return self._unread(upstream)
        if upstream.equals_payload(payload):
            return self._copy(upstream, fixed_stream(self.library, upstream.chunks))
        return self._with_body(upstream, upstream.encode(payload))

    def _matching_response(self, payload: Any) -> UpstreamResponse | None:
        """The response with this payload, the newest or a recent one; else the newest, with a changed payload."""
        now = self.responses[-1] if self.responses else None
        if now is not None and (now.chunks is None or now.equals_payload(payload)):
            return now
        return self._tool_state.responses.find(payload) or now

    def _unread(self, upstream: UpstreamResponse) -> Any:
        """A response whose body is streamed to the client; one of an earlier request, with the chunks streamed then."""
        if upstream not in self.responses:
            return self._copy(upstream, fixed_stream(self.library, upstream.passed))
        self._streamed = upstream
        if not self._body_needed:
            return upstream.response
        return self._copy(upstream, changed_stream(self.library, upstream.response.stream, record_chunks(upstream)))

    def _copy(self, upstream: UpstreamResponse, stream: Any, headers: Any = None) -> Any:
        response = upstream.response
        return self.library.Response(
            response.status_code,
            headers=response.headers if headers is None else headers,
            stream=stream,
            extensions=response.extensions,
        )

    def _with_body(self, upstream: UpstreamResponse, body: bytes) -> Any:
        """A response with another body, not chunked and not compressed."""
        headers = with_length(upstream.response.headers, len(body), b"content-encoding")
        return self._copy(upstream, fixed_stream(self.library, [body]), headers)

    def _refusal(self, reply: Reply) -> Any:
        status = STATUSES[reply.error or ""]
        headers = {} if reply.retry_after_s is None else {"Retry-After": str(math.ceil(reply.retry_after_s))}
        if reply.raw is None:
            body = {"status": status, "error": HTTPStatus(status).phrase}
            return self.library.Response(status, headers=headers, json=body)
        return self._new_response(status, "application/json", reply.raw, headers)

    def _new_response(self, status: int, kind: str, text: str, headers: Mapping[str, str] | None = None) -> Any:
        content = text.encode("utf-8", "replace")
        return self.library.Response(status, headers={"Content-Type": kind, **(headers or {})}, content=content)

    # --- replies that cannot be read ---

    def _malformed(self, raw: str | None, records: Sequence[FaultRecord]) -> Any:
        if raw is not None and _PAGE.match(raw):
            found = re.search(r"<title>\s*(5\d\d)", raw)
            return self._new_response(int(found[1]) if found else 503, "text/html; charset=utf-8", raw)
        upstream = self.responses[-1] if self.responses else None
        if upstream is None:
            return self._new_response(200, "application/json", raw or "")
        if upstream.chunks is None:
            return self._malformed_stream(upstream, raw, records)
        if not upstream.body:  # an empty body cannot be malformed: the connection breaks
            error = "Server disconnected without sending a response."
            raise self.library.RemoteProtocolError(error, request=self._request)
        if raw is None:
            return self._with_body(upstream, _half(upstream.body))
        if raw.startswith("\xff\xfe"):
            text = raw.encode("latin-1").decode("utf-16", "replace")
            text = (upstream.text or text) if text == upstream.sent_text else text
            return self._with_body(upstream, BYTE_ORDER_TWICE + text.encode("utf-16-le", "surrogatepass"))
        if _are_truncated(records) or (upstream.sent_text.startswith(raw) and raw != upstream.sent_text):
            return self._truncated(upstream, raw)
        return self._with_body(upstream, raw.encode(upstream.charset, "replace"))

    def _incomplete_body_error(self, upstream: UpstreamResponse, received: int) -> Exception:
        expected = upstream.response.headers.get("content-length")
        rest = "incomplete chunked read" if expected is None else f"received {received} bytes, expected {expected}"
        error: Exception = self.library.RemoteProtocolError(f"{_INCOMPLETE_BODY} ({rest})", request=self._request)
        return error

    def _truncated(self, upstream: UpstreamResponse, raw: str) -> Any:
        """The headers give the full length, and the body ends before: where the faults have cut the payload's text."""
        if upstream.sent_text.startswith(raw):
            left = int(len(upstream.body) * len(raw) / len(upstream.sent_text))
            left = min(max(left, 1), len(upstream.body) - 1)
            return self._copy(
                upstream,
                fixed_stream(self.library, [upstream.body[:left]], self._incomplete_body_error(upstream, left)),
            )
        body = raw.encode(upstream.charset, "replace")  # another fault had changed the text before it was cut
        headers = with_length(upstream.response.headers, max(len(upstream.body), len(body) + 1), b"content-encoding")
        cut = self._copy(upstream, None, headers)
        error = self._incomplete_body_error(UpstreamResponse(cut), len(body))
        return self._copy(upstream, fixed_stream(self.library, [body], error), headers)

    def _malformed_stream(self, upstream: UpstreamResponse, raw: str | None, records: Sequence[FaultRecord]) -> Any:
        """A stream that breaks off or is in another encoding, or a single event that cannot be parsed."""
        stream, self._streamed = upstream.response.stream, upstream
        if raw is not None and raw.startswith("\xff\xfe"):
            return self._copy(upstream, changed_stream(self.library, stream, as_utf16(upstream.charset)))
        if raw is None or _are_truncated(records):
            count = len(raw or "") or 1
            error = self._incomplete_body_error(upstream, count)
            return self._copy(upstream, changed_stream(self.library, stream, cut_after(count, error)))
        self._streamed = None
        event = "".join(f"data: {line}\n" for line in raw.splitlines()) + "\n"
        return self._with_body(upstream, event.encode(upstream.charset, "replace"))


def _half(body: bytes) -> bytes:
    """The first half of a body, or less where that would be JSON again, as the half of a number is."""
    half = body[: len(body) // 2]
    with contextlib.suppress(ValueError, RecursionError):
        while True:
            json.loads(half)
            half = half[:-1]
    return half


def _are_truncated(records: Sequence[FaultRecord]) -> bool:
    """Whether a fault has truncated the reply."""
    return any(record.fault == "truncated_json" for record in records)
