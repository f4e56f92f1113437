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
    answer_of,
    as_utf16,
    changed_stream,
    chunks,
    cut_after,
    library_of,
    remembered,
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

    def matched(self, request: Any) -> RouteMatch | None:
        """Which tool a request calls; None where nobody needs to know, as no fault is aimed at it."""
        if not self._faults and self.faults.recording is None:
            return None
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        found = self._templates.match(request.method, path)
        return found if self.aimed_at(found.tool) or self.faults.recording is not None else None

    def aimed_at(self, tool: str) -> bool:
        return any(matches(tool, fault.tools) for fault in self._faults)

    def session_of(self, request: Any) -> Session:
        name = request.headers.get(self._session) if isinstance(self._session, str) else None
        if callable(self._session):
            name = self._session(request)
        return self.faults.current if name is None else self.faults.session(name)

    def remember(self, session: Session, asked: ParsedRequest) -> "ToolState":
        """A tool is called."""
        with self._lock:
            found = self._known.setdefault((session.name, asked.tool), ToolState())
            self._known.move_to_end((session.name, asked.tool))
            found.asked = asked
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found

    def last_asked(self, session: Session, tool: str) -> ParsedRequest:
        """The last request for a tool."""
        found = self._known.get((session.name, tool))
        if found is None:
            raise ConfigError(f"a fault calls '{tool}', which no request has called: nobody knows its address")
        return found.asked


class ToolState:
    """What is known of a tool in a session: the last request for it, and its last answers."""

    asked: ParsedRequest

    def __init__(self) -> None:
        self.answers = RecentResponses()


class HTTPExchange:
    """One request through the faults, and what of it is open.

    answers: all that have come from the service, the last one last; which of them the client gets shows in the end.
    """

    def __init__(self, door: FaultTransportBase, request: Any, matched: RouteMatch) -> None:
        self._door, self._request = door, request
        self.session, self.tool, self.library = door.session_of(request), matched.tool, library_of(request)
        self.answers: list[UpstreamResponse] = []
        self._given: UpstreamResponse | None = None  # the one whose stream the client reads
        self._matched, self._looked_at, self._known = matched, False, ToolState()

    @property
    def timeout_s(self) -> float | None:
        """Seconds after which the client gives up waiting for an answer."""
        found: float | None = self._request.extensions.get("timeout", {}).get("read")
        return found

    def arguments(self) -> Mapping[str, Any]:
        """Of the call. The body has been read, if any fault is aimed at it."""
        if not self._door.aimed_at(self.tool):
            return {}
        self._known = self._door.remember(self.session, ParsedRequest(self._request, self._matched))
        return self._known.asked.arguments

    def outgoing(self, call: Call, trip: ForwardContext) -> Any:
        """The request that carries a call out."""
        if trip.log is None:
            return self._request
        arguments = call.arguments  # those that a fault has written anew do not say of which request they are
        asked = arguments.asked if isinstance(arguments, Arguments) else self._door.last_asked(self.session, call.tool)
        request = asked.asking(arguments)
        extensions = self._request.extensions
        if trip.deadline_s is not None and isinstance(self.session.clock, WallClock):
            left_s = max(1e-3, trip.deadline_s - self.session.clock.now())  # 0 would be no time even to try
            timeout = extensions.get("timeout", {})
            read_s = timeout.get("read")
            left_s = left_s if read_s is None else min(left_s, read_s)
            extensions = {**extensions, "timeout": {**timeout, "read": left_s}}
        if request is self._request and extensions is request.extensions:
            return request
        return self.library.Request(
            request.method, request.url, headers=request.headers, stream=request.stream, extensions=extensions
        )

    def answered(self, response: Any) -> UpstreamResponse:
        """A response has come; of its body nothing is known yet."""
        self.answers.append(UpstreamResponse(response))
        return self.answers[-1]

    def needs_body(self, call: Call, trip: ForwardContext, answer: UpstreamResponse) -> bool:
        """Whether the body must be read before the faults go on. A stream of events is not: each counts as it comes."""
        if trip.log is not None:
            effects = self.session.effects(self.tool, call.number)
            self._looked_at = not all(isinstance(each, _LOOK_AT_NO_BODY) for each in effects)
        return self._looked_at and not answer.is_events

    def read(self, answer: UpstreamResponse, chunks: list[bytes]) -> None:
        """The body of an answer is there."""
        answer.chunks = chunks
        self._known.answers.add(answer)

    def unread(self) -> list[UpstreamResponse]:
        """Answers whose streams nobody is going to read: each holds a connection."""
        return [each for each in self.answers if each.chunks is None and each is not self._given]

    def superseded(self) -> list[UpstreamResponse]:
        """The same, when the call is carried out once more: a client with one connection needs it for that."""
        return [] if self._looked_at else self.unread()

    # --- what the client gets ---

    def response(self, reply: Reply, records: Sequence[FaultRecord]) -> Any:
        """The response that a reply is. Raises the library's exceptions where none came."""
        if reply.payload is not LOST:
            return self._with(reply.payload)
        if reply.error == "timeout":  # were it another one for lost requests, a client could tell what none can
            raise self.library.ReadTimeout("timed out", request=self._request)
        if reply.error == "connection":
            raise self.library.ReadError("connection reset by peer", request=self._request)
        if reply.error == "malformed":
            return self._malformed(reply.raw, records)
        return self._refusal(reply)

    def _with(self, payload: Any) -> Any:
        answer = answer_of(payload) or self._saying(payload)
        if answer is None:
            return self._page(200, "application/json", as_text(payload))
        if answer.chunks is None:
            return self._unread(answer)
        if answer.says(payload):
            return self._like(answer, chunks(self.library, answer.chunks))
        return self._of(answer, answer.written(payload))

    def _saying(self, payload: Any) -> UpstreamResponse | None:
        """The answer that says this: the one that came now, or one from before; else what a fault has changed."""
        now = self.answers[-1] if self.answers else None
        if now is not None and (now.chunks is None or now.says(payload)):
            return now
        return self._known.answers.find(payload) or now

    def _unread(self, answer: UpstreamResponse) -> Any:
        """A response whose body passes by; one from an earlier request shows what passed by then."""
        if answer not in self.answers:
            return self._like(answer, chunks(self.library, answer.seen))
        self._given = answer
        if not self._looked_at:
            return answer.response
        return self._like(answer, changed_stream(self.library, answer.response.stream, remembered(answer)))

    def _like(self, answer: UpstreamResponse, stream: Any, headers: Any = None) -> Any:
        response = answer.response
        return self.library.Response(
            response.status_code,
            headers=response.headers if headers is None else headers,
            stream=stream,
            extensions=response.extensions,
        )

    def _of(self, answer: UpstreamResponse, body: bytes) -> Any:
        """A response with another body, sent in one piece and as it is."""
        headers = with_length(answer.response.headers, len(body), b"content-encoding")
        return self._like(answer, chunks(self.library, [body]), headers)

    def _refusal(self, reply: Reply) -> Any:
        status = STATUSES[reply.error or ""]
        said = {} if reply.retry_after_s is None else {"Retry-After": str(math.ceil(reply.retry_after_s))}
        if reply.raw is None:
            body = {"status": status, "error": HTTPStatus(status).phrase}
            return self.library.Response(status, headers=said, json=body)
        return self._page(status, "application/json", reply.raw, said)

    def _page(self, status: int, kind: str, text: str, headers: Mapping[str, str] | None = None) -> Any:
        content = text.encode("utf-8", "replace")
        return self.library.Response(status, headers={"Content-Type": kind, **(headers or {})}, content=content)

    # --- replies that cannot be read ---

    def _malformed(self, raw: str | None, records: Sequence[FaultRecord]) -> Any:
        if raw is not None and _PAGE.match(raw):
            found = re.search(r"<title>\s*(5\d\d)", raw)
            return self._page(int(found[1]) if found else 503, "text/html; charset=utf-8", raw)
        answer = self.answers[-1] if self.answers else None
        if answer is None:
            return self._page(200, "application/json", raw or "")
        if answer.chunks is None:
            return self._malformed_stream(answer, raw, records)
        if not answer.body:  # there is nothing that could be wrong with it but all
            error = "Server disconnected without sending a response."
            raise self.library.RemoteProtocolError(error, request=self._request)
        if raw is None:
            return self._of(answer, answer.body[: len(answer.body) // 2])
        if raw.startswith("\xff\xfe"):
            text = raw.encode("latin-1").decode("utf-16", "replace")
            text = (answer.text or text) if text == answer.sent else text
            return self._of(answer, BYTE_ORDER_TWICE + text.encode("utf-16-le", "surrogatepass"))
        if _are_cut(records) or (answer.sent.startswith(raw) and raw != answer.sent):
            return self._cut(answer, raw)
        return self._of(answer, raw.encode(answer.charset, "replace"))

    def _broke_off(self, answer: UpstreamResponse, received: int) -> Exception:
        expected = answer.response.headers.get("content-length")
        rest = "incomplete chunked read" if expected is None else f"received {received} bytes, expected {expected}"
        error: Exception = self.library.RemoteProtocolError(f"{_BROKE_OFF} ({rest})", request=self._request)
        return error

    def _cut(self, answer: UpstreamResponse, raw: str) -> Any:
        """The headers promise all of the body, and as much of it comes as faults have left of it."""
        if answer.sent.startswith(raw):
            left = int(len(answer.body) * len(raw) / len(answer.sent))
            left = min(max(left, 1), len(answer.body) - 1)
            return self._like(answer, chunks(self.library, [answer.body[:left]], self._broke_off(answer, left)))
        body = raw.encode(answer.charset, "replace")  # of what other faults had made of it
        headers = with_length(answer.response.headers, max(len(answer.body), len(body) + 1), b"content-encoding")
        cut = self._like(answer, None, headers)
        error = self._broke_off(UpstreamResponse(cut), len(body))
        return self._like(answer, chunks(self.library, [body], error), headers)

    def _malformed_stream(self, answer: UpstreamResponse, raw: str | None, records: Sequence[FaultRecord]) -> Any:
        """A stream that breaks off, or is in another encoding; or one event that cannot be read."""
        stream, self._given = answer.response.stream, answer
        if raw is not None and raw.startswith("\xff\xfe"):
            return self._like(answer, changed_stream(self.library, stream, as_utf16(answer.charset)))
        if raw is None or _are_cut(records):
            count = len(raw or "") or 1
            broke_off = self._broke_off(answer, count)
            return self._like(answer, changed_stream(self.library, stream, cut_after(count, broke_off)))
        self._given = None
        event = "".join(f"data: {line}\n" for line in raw.splitlines()) + "\n"
        return self._of(answer, event.encode(answer.charset, "replace"))


def _are_cut(records: Sequence[FaultRecord]) -> bool:
    """Whether the reply ends in the middle."""
    return any(record.fault == "truncated_json" for record in records)
