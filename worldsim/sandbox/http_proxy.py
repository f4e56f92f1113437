"""A proxy in front of an MCP server that speaks Streamable HTTP.

Source: Model Context Protocol 2026-07-28 and 2025-11-25, section Transports, Streamable HTTP; WHATWG HTML, section
Server-sent events, for the streams.
"""

import asyncio
import math
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from typing import Any

from worldsim.errors import ConfigError, MissingExtraError
from worldsim.faults.tools import DEFAULT, STATUSES, Faults
from worldsim.sandbox.proxy import ListedTools, parsed
from worldsim.sandbox.tool_calls import Answer, Failures, Message, Response, ToolCalls, as_line

try:
    import httpx2 as httpx
    import uvicorn
    from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import Response as Reply
    from starlette.responses import StreamingResponse
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as error:
    raise MissingExtraError('url= needs the extra mcp: pip install "worldsim[mcp]"') from error

# Headers of one connection (RFC 9110, section 7.6.1).
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
MOST_SESSIONS = 1000  # of which counters are kept
GATEWAY_TIMEOUT = 504
EMPTY_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")  # the end of an event
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


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
        self._faults, self._failures, self._note = faults, failures, note
        self._tools = ListedTools(faults.plan, note)
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False)
        self._sessions: OrderedDict[str, ToolCalls] = OrderedDict()
        self._begun = count(1)
        hosts = [f"{host}:*" for host in LOOPBACK]
        origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
        self._security = TransportSecurityMiddleware(
            TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        response = await self._security.validate_request(request) or await self._response(request)
        await response(scope, receive, send)

    async def _response(self, request: Request) -> ASGIApp:
        body = await request.body()
        message = parsed(body) if request.method == "POST" else None
        calls = self._calls(request.headers.get("mcp-session-id", DEFAULT))
        if isinstance(message, dict) and calls.is_targeted(message):
            return CallResponse(self, request, body, message, calls, self._failures)
        try:
            upstream = await self.send(request, body)
        except httpx.TransportError as error:
            return self.unreachable(error)
        if isinstance(message, dict) and message.get("method") == "tools/list":
            await upstream.aread()
            self._tools.see_request(message)
            for found in messages_in(upstream):
                self._tools.see_response(found)
            return Reply(upstream.content, upstream.status_code, _passed_on(upstream.headers, decoded=True))
        return StreamingResponse(
            upstream.aiter_raw(),
            upstream.status_code,
            _passed_on(upstream.headers),
            background=BackgroundTask(upstream.aclose),
        )

    async def send(self, request: Request, body: bytes, **headers: str) -> httpx.Response:
        """The server's response to a request, whose body is not read yet. headers: other than the client's."""
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        given = {**_passed_on(request.headers), **headers}
        passed = self._client.build_request(request.method, self.url.join(path), headers=given, content=body)
        return await self._client.send(passed, stream=True)

    def unreachable(self, error: Exception) -> Reply:
        """What a client gets where the server cannot be reached."""
        self._note(problem := f"{self.url} cannot be reached ({type(error).__name__}: {error})")
        return Reply(problem, 502)

    def _calls(self, session: str) -> ToolCalls:
        if session not in self._sessions:
            name = session if session == DEFAULT else f"session {next(self._begun)}"  # ids are random, names are not
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
        self._events = asyncio.Queue[bytes]()  # of the first execution, before its response
        self._executions = 0
        self._headers: dict[str, str] | None = None  # of the server's first response, where it is a stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self._calls.answer(self._message, self._send))
        leaving = asyncio.ensure_future(_left(receive))
        streams = False
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
                if not streams:
                    await _start(send, 200, self._headers or {})
                    streams = True
                await send({"type": "http.response.body", "body": event.result(), "more_body": True})
            await self._finish(answering, streams, send, scope, receive)
        finally:
            answering.cancel()
            leaving.cancel()

    async def _finish(
        self, answering: "asyncio.Future[Answer]", streams: bool, send: Send, scope: Scope, receive: Receive
    ) -> None:
        try:
            answer = answering.result()
        except _OtherResponse as other:
            headers = _passed_on(other.response.headers, decoded=True)
            return await Reply(other.response.content, other.response.status_code, headers)(scope, receive, send)
        except httpx.TransportError as error:
            return await self._proxy.unreachable(error)(scope, receive, send)
        failed = answer.failed
        if failed is not None and self._failures == "protocol" and not streams:
            if failed.error == "connection":  # the server closes it where a response is not finished
                await _start(send, 200, {"content-type": "application/json", "content-length": str(len(answer.text))})
                return
            status = GATEWAY_TIMEOUT if failed.error == "timeout" else STATUSES.get(str(failed.error), 200)
            wait = {} if failed.retry_after_s is None else {"retry-after": str(math.ceil(failed.retry_after_s))}
            return await Reply(answer.text, status, wait, "application/json")(scope, receive, send)
        if self._headers is None:
            return await Reply(answer.text, 200, media_type="application/json")(scope, receive, send)
        if not streams:
            await _start(send, 200, self._headers)
        body = b"event: message\ndata: " + answer.text.strip().replace(b"\n", b"\ndata: ") + b"\n\n"
        await send({"type": "http.response.body", "body": body})

    async def _send(self, message: Message) -> Response:
        self._executions += 1
        is_first = self._executions == 1
        headers = {"accept-encoding": "identity"}
        if "mcp-name" in self._request.headers:
            headers["mcp-name"] = message["params"]["name"]
        body = self._body if message is self._message else as_line(message)
        upstream = await self._proxy.send(self._request, body, **headers)
        try:
            if not upstream.headers.get("content-type", "").startswith("text/event-stream"):
                await upstream.aread()
                found = parsed(upstream.content)
                if upstream.status_code != 200 or not _is_response(found, message):
                    raise _OtherResponse(upstream)
                return Response(upstream.content, found)
            if is_first:
                self._headers = _passed_on(upstream.headers)
            async for event in events_of(upstream.aiter_bytes()):
                data = data_of(event)
                found = parsed(data)
                if _is_response(found, message):
                    return Response(data, found)
                if is_first:
                    self._events.put_nowait(event)
            raise httpx.RemoteProtocolError("the stream ended without a response")
        finally:
            await upstream.aclose()


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


def messages_in(response: httpx.Response) -> list[Message]:
    """The messages in the body of a response that was read: one, or those of its events."""
    texts = [response.content]
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        texts = [data_of(event) for event in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", response.content)]
    return [found for found in map(parsed, texts) if isinstance(found, dict) and "id" in found]


def _is_response(found: Any, request: Message) -> bool:
    return isinstance(found, dict) and "method" not in found and found.get("id") == request["id"]


def _passed_on(headers: Mapping[str, str], decoded: bool = False) -> dict[str, str]:
    """Headers without those of one connection. decoded: the body is passed on decoded."""
    own = HOP_BY_HOP | {"host", "content-length"} | ({"content-encoding"} if decoded else set())
    return {name: value for name, value in headers.items() if name.lower() not in own}


async def _left(receive: Receive) -> None:
    """Waits until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


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
