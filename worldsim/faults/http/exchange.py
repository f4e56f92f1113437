"""One request on its way through faults: what is sent, what has come, and what the client gets."""

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

_LOOK_AT_NO_BODY = (Delay, TimeOut, SlowService, Refuse, FailAfterExecution, ExecuteTwice, ReplayCall)
_REMEMBERED = 1000  # tools in sessions
_BROKE_OFF = "peer closed connection without sending complete message body"
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
        self._known: OrderedDict[tuple[str, str], ToolState] = OrderedDict()  # by session and tool
        self._lock = threading.Lock()

    def match_route(self, request: Any) -> RouteMatch | None:
        """Which tool a request calls; None where nobody needs to know, as no fault is aimed at it."""
        if not self._faults and self.faults.recording is None:
            return None
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        found = self._templates.match(request.method, path)
        return found if self.is_targeted(found.tool) or self.faults.recording is not None else None

    def is_targeted(self, tool: str) -> bool:
        return any(matches(tool, fault.tools) for fault in self._faults)

    def session_of(self, request: Any) -> Session:
        name = request.headers.get(self._session) if isinstance(self._session, str) else None
        if callable(self._session):
            name = self._session(request)
        return self.faults.current if name is None else self.faults.session(name)

    def remember_request(self, session: Session, asked: ParsedRequest) -> "ToolState":
        """A tool is called."""
        with self._lock:
            found = self._known.setdefault((session.name, asked.tool), ToolState())
            self._known.move_to_end((session.name, asked.tool))
            found.asked = asked
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found

    def last_request_of(self, session: Session, tool: str) -> ParsedRequest:
        """The last request for a tool."""
        found = self._known.get((session.name, tool))
        if found is None:
            raise ConfigError(f"a fault calls '{tool}', which no request has called: nobody knows its address")
        return found.asked


class ToolState:
    """What is known of a tool in a session: the last request for it, and its last answers."""

    asked: ParsedRequest

    def __init__(self) -> None:
        self.responses = RecentResponses()


class HTTPExchange:
    """One request through the faults, and what of it is open.

    answers: all that have come from the service, the last one last; which of them the client gets shows in the end.
    """

    def __init__(self, transport_base: FaultTransportBase, request: Any, route: RouteMatch) -> None:
        self._transport_base, self._request = transport_base, request
        self.session, self.tool, self.library = transport_base.session_of(request), route.tool, library_of(request)
        self.responses: list[UpstreamResponse] = []
        self._streamed: UpstreamResponse | None = None  # the one whose stream the client reads
        self._matched, self._body_needed, self._known = route, False, ToolState()

    @property
    def timeout_s(self) -> float | None:
        """Seconds after which the client gives up waiting for an answer."""
        found: float | None = self._request.extensions.get("timeout", {}).get("read")
        return found

    def arguments(self) -> Mapping[str, Any]:
        """Of the call. The body has been read, if any fault is aimed at it."""
        if not self._transport_base.is_targeted(self.tool):
            return {}
        self._known = self._transport_base.remember_request(self.session, ParsedRequest(self._request, self._matched))
        return self._known.asked.arguments

    def outgoing_request(self, call: Call, context: ForwardContext) -> Any:
        """The request that carries a call out."""
        if context.log is None:
            return self._request
        arguments = call.arguments  # those that a fault has written anew do not say of which request they are
        asked = (
            arguments.asked
            if isinstance(arguments, Arguments)
            else self._transport_base.last_request_of(self.session, call.tool)
        )
        request = asked.with_arguments(arguments)
        extensions = self._request.extensions
        if context.deadline_s is not None and isinstance(self.session.clock, WallClock):
            left_s = max(1e-3, context.deadline_s - self.session.clock.now())  # 0 would be no time even to try
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
        """A response has come; of its body nothing is known yet."""
        self.responses.append(UpstreamResponse(response))
        return self.responses[-1]

    def needs_body(self, call: Call, context: ForwardContext, upstream: UpstreamResponse) -> bool:
        """Whether the body must be read before the faults go on. A stream of events is not: each counts as it comes."""
        if context.log is not None:
            effects = self.session.effects(self.tool, call.number)
            self._body_needed = not all(isinstance(each, _LOOK_AT_NO_BODY) for each in effects)
        return self._body_needed and not upstream.is_event_stream

    def read(self, upstream: UpstreamResponse, fixed_stream: list[bytes]) -> None:
        """The body of an answer is there."""
        upstream.chunks = fixed_stream
        self._known.responses.add(upstream)

    def unread(self) -> list[UpstreamResponse]:
        """Answers whose streams nobody is going to read: each holds a connection."""
        return [each for each in self.responses if each.chunks is None and each is not self._streamed]

    def superseded(self) -> list[UpstreamResponse]:
        """The same, when the call is carried out once more: a client with one connection needs it for that."""
        return [] if self._body_needed else self.unread()

    # --- what the client gets ---

    def response(self, reply: Reply, records: Sequence[FaultRecord]) -> Any:
        """The response that a reply is. Raises the library's exceptions where none came."""
        if reply.payload is not LOST:
            return self._response_with(reply.payload)
        if reply.error == "timeout":  # were it another one for lost requests, a client could tell what none can
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
        """The answer that says this: the one that came now, or one from before; else what a fault has changed."""
        now = self.responses[-1] if self.responses else None
        if now is not None and (now.chunks is None or now.equals_payload(payload)):
            return now
        return self._known.responses.find(payload) or now

    def _unread(self, upstream: UpstreamResponse) -> Any:
        """A response whose body passes by; one from an earlier request shows what passed by then."""
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
        """A response with another body, sent in one piece and as it is."""
        headers = with_length(upstream.response.headers, len(body), b"content-encoding")
        return self._copy(upstream, fixed_stream(self.library, [body]), headers)

    def _refusal(self, reply: Reply) -> Any:
        status = STATUSES[reply.error or ""]
        said = {} if reply.retry_after_s is None else {"Retry-After": str(math.ceil(reply.retry_after_s))}
        if reply.raw is None:
            body = {"status": status, "error": HTTPStatus(status).phrase}
            return self.library.Response(status, headers=said, json=body)
        return self._new_response(status, "application/json", reply.raw, said)

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
        if not upstream.body:  # there is nothing that could be wrong with it but all
            error = "Server disconnected without sending a response."
            raise self.library.RemoteProtocolError(error, request=self._request)
        if raw is None:
            return self._with_body(upstream, upstream.body[: len(upstream.body) // 2])
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
        error: Exception = self.library.RemoteProtocolError(f"{_BROKE_OFF} ({rest})", request=self._request)
        return error

    def _truncated(self, upstream: UpstreamResponse, raw: str) -> Any:
        """The headers promise all of the body, and as much of it comes as faults have left of it."""
        if upstream.sent_text.startswith(raw):
            left = int(len(upstream.body) * len(raw) / len(upstream.sent_text))
            left = min(max(left, 1), len(upstream.body) - 1)
            return self._copy(
                upstream,
                fixed_stream(self.library, [upstream.body[:left]], self._incomplete_body_error(upstream, left)),
            )
        body = raw.encode(upstream.charset, "replace")  # of what other faults had made of it
        headers = with_length(upstream.response.headers, max(len(upstream.body), len(body) + 1), b"content-encoding")
        cut = self._copy(upstream, None, headers)
        error = self._incomplete_body_error(UpstreamResponse(cut), len(body))
        return self._copy(upstream, fixed_stream(self.library, [body], error), headers)

    def _malformed_stream(self, upstream: UpstreamResponse, raw: str | None, records: Sequence[FaultRecord]) -> Any:
        """A stream that breaks off, or is in another encoding; or one event that cannot be read."""
        stream, self._streamed = upstream.response.stream, upstream
        if raw is not None and raw.startswith("\xff\xfe"):
            return self._copy(upstream, changed_stream(self.library, stream, as_utf16(upstream.charset)))
        if raw is None or _are_truncated(records):
            count = len(raw or "") or 1
            broke_off = self._incomplete_body_error(upstream, count)
            return self._copy(upstream, changed_stream(self.library, stream, cut_after(count, broke_off)))
        self._streamed = None
        event = "".join(f"data: {line}\n" for line in raw.splitlines()) + "\n"
        return self._with_body(upstream, event.encode(upstream.charset, "replace"))


def _are_truncated(records: Sequence[FaultRecord]) -> bool:
    """Whether the reply ends in the middle."""
    return any(record.fault == "truncated_json" for record in records)
