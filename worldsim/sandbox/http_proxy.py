"""A proxy in front of an MCP server that speaks Streamable HTTP.

Source: Model Context Protocol 2026-07-28 and 2025-11-25, section Transports, Streamable HTTP; WHATWG HTML, section
Server-sent events, for the streams.
"""

import asyncio
import math
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import count
from typing import Any

from worldsim.errors import ConfigError, MissingExtraError
from worldsim.faults.tools import DEFAULT, STATUSES, Faults
from worldsim.sandbox.proxy import ListedTools, key_of, parsed
from worldsim.sandbox.tool_calls import (
    INTERNAL_ERROR,
    Answer,
    Failures,
    Message,
    Response,
    ToolCalls,
    as_line,
    error_text,
)

try:
    import httpx2 as httpx
    import uvicorn
    from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
    from starlette.requests import Request
    from starlette.responses import Response as Reply
    from starlette.types import Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError('url= needs the extra mcp: pip install "worldsim[mcp]"') from error

# Headers of one connection (RFC 9110, section 7.6.1), and those that are made anew.
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
MADE_ANEW = HOP_BY_HOP | {b"host", b"content-length"}
MOST_SESSIONS = 1000  # of which counters are kept
GATEWAY_TIMEOUT = 504
EMPTY_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")  # the end of an event
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Headers = list[tuple[bytes, bytes]]


class HTTPProxy:
    """Passes HTTP requests on to a server; calls of tools go through faults on the way.

    Each session of the protocol (Mcp-Session-Id) is one of the faults, and they are numbered as they begin; requests
    without one share a session.

    url: of the server's endpoint; clients find the proxy's under the same path. Raises ConfigError for a URL that
    is none.
    """

    def __init__(self, url: str, faults: Faults, failures: Failures, note: Callable[[str], None]) -> None:
        self.url = httpx.URL(url)
        if self.url.scheme not in ("http", "https") or not self.url.host:
            raise ConfigError(f"url={url} is no address of a server; give one like http://127.0.0.1:8000/mcp")
        self.note, self._faults, self._failures = note, faults, failures
        self._tools = ListedTools(faults.plan, note)
        # A transport and no client: that would add headers of its own, and send one client's cookies for another.
        self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None))
        self._shared = ToolCalls(faults, failures=failures)
        self._sessions: OrderedDict[str, ToolCalls] = OrderedDict()
        self._begun = count(1)
        self._open: dict[tuple[str, str], CallResponse] = {}  # calls under way, by session and the JSON of their id
        hosts = [f"{host}:*" for host in LOOPBACK]
        origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
        self._security = TransportSecurityMiddleware(
            TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if refused := await self._security.validate_request(request):
            return await refused(scope, receive, send)
        body = await request.body()
        message = parsed(body) if request.method == "POST" else None
        session = request.headers.get("mcp-session-id", DEFAULT)
        if not isinstance(message, dict):
            return await self._pass_on(request, body, {}, send)
        if self._shared.is_targeted(message):
            key = session, key_of(message["id"])
            self._open[key] = call = CallResponse(self, request, body, message, self._calls(session), self._failures)
            try:
                return await call(scope, receive, send)
            finally:
                if self._open.get(key) is call:
                    del self._open[key]
        if message.get("method") == "notifications/cancelled" and isinstance(message.get("params"), dict):
            call_there = self._open.get((session, key_of(message["params"].get("requestId"))))
            if call_there is not None and not call_there.cancel():
                return await Reply(status_code=202)(scope, receive, send)  # the server never heard of it
        await self._pass_on(request, body, message, send)

    async def _pass_on(self, request: Request, body: bytes, message: Message, send: Send) -> None:
        """Passes a request and its response on as they are, until the client leaves."""
        passing = asyncio.ensure_future(self._stream(request, body, message, send))
        leaving = asyncio.ensure_future(_left(request.receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.wait({passing, leaving})

    async def _stream(self, request: Request, body: bytes, message: Message, send: Send) -> None:
        try:
            upstream = await self.send(request, body, passed_on(request.scope["headers"]))
        except httpx.TransportError as error:
            return await respond(send, 502, PLAIN, self.unreachable(error))
        listed = bytearray()
        is_list = message.get("method") == "tools/list"
        try:
            await _start(send, upstream.status_code, passed_on(upstream.headers.raw))
            async for chunk in upstream.aiter_raw():
                listed += chunk if is_list else b""
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except httpx.TransportError as error:  # the client's response breaks off, too
            self.unreachable(error)
        finally:
            await upstream.aclose()
        if is_list and "content-encoding" not in upstream.headers:
            self._tools.on_request(message)
            for found in messages_in(bytes(listed), is_stream(upstream)):
                self._tools.on_response(found)

    async def send(self, request: Request, body: bytes, headers: Headers) -> httpx.Response:
        """The server's response to a request, whose body is not read yet. It always goes to the server of `url`."""
        query = request.scope["query_string"] or self.url.query
        path = request.scope.get("raw_path") or request.url.path.encode()
        url = self.url.copy_with(raw_path=path + (b"?" + query if query else b""))
        passed = httpx.Request(request.method, url, headers=headers, content=body)
        return await self._transport.handle_async_request(passed)

    def unreachable(self, error: Exception) -> bytes:
        """What a client gets where the server cannot be reached."""
        self.note(problem := f"{self.url.copy_with(query=None)} failed ({type(error).__name__}: {error})")
        return problem.encode()

    def _calls(self, session: str) -> ToolCalls:
        if session == DEFAULT:
            return self._shared
        if session not in self._sessions:
            name = f"session {next(self._begun)}"  # ids are random, and the same seed is to do the same
            self._sessions[session] = ToolCalls(self._faults, name, self._failures)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(session)
        return self._sessions[session]


class CallResponse:
    """The response to one call of a tool: JSON, or a stream of events where the server sends one.

    Where the client goes away, the call is given up, at the server, too.
    """

    def __init__(
        self, proxy: HTTPProxy, request: Request, body: bytes, message: Message, calls: ToolCalls, failures: Failures
    ) -> None:
        self._proxy, self._request, self._body, self._message = proxy, request, body, message
        self._calls, self._failures = calls, failures
        self._events = asyncio.Queue[bytes]()  # before the response
        self._executions = 0
        self._head: Headers | None = None  # of the server's first response
        self._streams = False  # whether that is a stream of events
        self._last: dict[bytes, bytes] = {}  # the text of a response -> the event that it came in
        self._answering: asyncio.Future[Answer] | None = None

    def cancel(self) -> bool:
        """Gives the call up, and ends its response. Whether the server has heard of it."""
        if self._answering is not None:
            self._answering.cancel()
        return self._executions > 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._answering = answering = asyncio.ensure_future(self._calls.answer(self._message, self._send))
        leaving = asyncio.ensure_future(_left(receive))
        begun = False
        try:
            while not answering.done() or not self._events.empty():
                event = asyncio.ensure_future(self._events.get())
                done, _ = await asyncio.wait({answering, leaving, event}, return_when=asyncio.FIRST_COMPLETED)
                if leaving in done:
                    event.cancel()
                    return
                if event not in done:
                    event.cancel()
                    continue
                if not begun:
                    await _start(send, 200, self._head or [])
                    begun = True
                await send({"type": "http.response.body", "body": event.result(), "more_body": True})
            await self._finish(answering, begun, send)
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.wait({answering, leaving})

    async def _finish(self, answering: "asyncio.Future[Answer]", begun: bool, send: Send) -> None:
        try:
            answer = answering.result()
        except asyncio.CancelledError:  # by the client, who expects no response
            return await _end(send) if begun else await respond(send, 202, [], b"")
        except _OtherResponse as other:
            if begun:
                return await _end(send)
            head = passed_on(other.response.headers.raw, decoded=True)
            return await respond(send, other.response.status_code, head, other.response.content)
        except httpx.TransportError as error:
            problem = self._proxy.unreachable(error)
            return await _end(send) if begun else await respond(send, 502, PLAIN, problem)
        except Exception as error:
            problem_text = f"{self._message['params']['name']}: {type(error).__name__}: {error}"
            self._proxy.note(problem_text)
            answer = Answer(error_text(self._message["id"], INTERNAL_ERROR, f"worldsim proxy: {problem_text}"))
        failed = answer.failed
        if failed is not None and self._failures == "protocol" and not begun:
            if failed.error == "connection":  # uvicorn closes it where a response is not finished
                return await _start(send, 200, [*JSON, (b"content-length", b"%d" % len(answer.text))])
            status = GATEWAY_TIMEOUT if failed.error == "timeout" else STATUSES.get(str(failed.error), 200)
            wait = [] if failed.retry_after_s is None else [(b"retry-after", b"%d" % math.ceil(failed.retry_after_s))]
            return await respond(send, status, JSON + wait, answer.text)
        if not self._streams:
            return await respond(send, 200, self._head or JSON, answer.text)
        if not begun:
            await _start(send, 200, self._head or [])
        event = self._last.get(answer.text)
        if event is None:
            event = b"event: message\ndata: " + answer.text.strip().replace(b"\n", b"\ndata: ") + b"\n\n"
        await send({"type": "http.response.body", "body": event})

    async def _send(self, message: Message) -> Response:
        self._executions += 1
        is_first = self._executions == 1
        own = {b"accept-encoding": b"identity"}
        if message["params"] != self._message["params"]:  # what repeats them in headers must say the same
            own |= {b"mcp-name": message["params"]["name"].encode("latin-1", "replace")}
        head = [pair for pair in passed_on(self._request.scope["headers"]) if not _is_repeated(pair[0], own)]
        head += [pair for pair in own.items() if pair[0] != b"mcp-name" or b"mcp-name" in self._names()]
        body = self._body if message is self._message else as_line(message)
        upstream = await self._proxy.send(self._request, body, head)
        try:
            if is_first:
                self._streams = is_stream(upstream)
                self._head = passed_on(upstream.headers.raw, decoded=True)
            if not is_stream(upstream):
                await upstream.aread()
                found = parsed(upstream.content)
                if upstream.status_code != 200 or not _is_response(found, message):
                    raise _OtherResponse(upstream)
                return Response(upstream.content, found)
            async for event in events_of(upstream.aiter_bytes()):
                data = data_of(event)
                found = parsed(data)
                if _is_response(found, message):
                    self._last[data] = event
                    return Response(data, found)
                if is_first or (isinstance(found, dict) and "method" in found and "id" in found):
                    self._events.put_nowait(event)  # of a repetition only what the server asks
            raise httpx.RemoteProtocolError("the stream ended without a response")
        finally:
            await upstream.aclose()

    def _names(self) -> set[bytes]:
        return {name.lower() for name, _ in self._request.scope["headers"]}


class _OtherResponse(Exception):
    """An HTTP response that holds no response to the call, such as 401: the client gets it as it is."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"HTTP {response.status_code}")
        self.response = response


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The events of a stream, each with the empty line that ends it."""
    rest, searched = bytearray(), 0
    async for chunk in chunks:
        rest += chunk
        while end := EMPTY_LINE.search(rest, searched):
            yield bytes(rest[: end.end()])
            del rest[: end.end()]
            searched = 0
        searched = max(0, len(rest) - 3)


def data_of(event: bytes) -> bytes:
    """The data of an event: its `data:` lines."""
    lines = re.split(rb"\r\n|\n|\r", event)
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def messages_in(body: bytes, stream: bool) -> list[Message]:
    """The messages in a body: one, or those of its events."""
    texts = [data_of(event) for event in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", body)] if stream else [body]
    return [found for found in map(parsed, texts) if isinstance(found, dict) and "id" in found]


def is_stream(response: httpx.Response) -> bool:
    """Whether a response is a stream of events."""
    return bool(response.headers.get("content-type", "").startswith("text/event-stream"))


def _is_response(found: Any, request: Message) -> bool:
    return isinstance(found, dict) and "method" not in found and found.get("id") == request["id"]


def _is_repeated(name: bytes, own: Mapping[bytes, bytes]) -> bool:
    """Whether a header of the client is replaced: one of `own`, and parameters where the call is another one."""
    return name.lower() in own or (b"mcp-name" in own and name.lower().startswith(b"mcp-param-"))


def passed_on(headers: Sequence[tuple[bytes, bytes]], decoded: bool = False) -> Headers:
    """Headers without those of one connection. decoded: the body is passed on decoded."""
    without = MADE_ANEW | ({b"content-encoding"} if decoded else set())
    return [(name, value) for name, value in headers if name.lower() not in without]


PLAIN: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
JSON: Headers = [(b"content-type", b"application/json")]


async def _left(receive: Receive) -> None:
    """Waits until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b""})


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Sends a whole response."""
    await _start(send, status, [*headers, (b"content-length", b"%d" % len(body))])
    await send({"type": "http.response.body", "body": body})


def serve(url: str, faults: Faults, failures: Failures, port: int, note: Callable[[str], None]) -> None:
    """Serves the proxy on the loopback address until it is interrupted. port: 0 for any free one."""
    proxy = HTTPProxy(url, faults, failures, note)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK[0], port))
        except OSError as error:
            raise ConfigError(f"port={port} cannot be used ({error.strerror}); give another one") from error
        note(
            f"proxy of {url} at http://{LOOPBACK[0]}:{listening.getsockname()[1]}{proxy.url.path}; stop it with Ctrl-C"
        )
        config = uvicorn.Config(proxy, log_level="critical", lifespan="off", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])
