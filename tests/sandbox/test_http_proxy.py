"""The proxy over HTTP, request by request, against a server that shows what it gets."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import uvicorn

from tests.sandbox.conftest import call
from worldsim import faults
from worldsim.faults import Plan
from worldsim.faults.clock import WallClock
from worldsim.faults.tools import Faults
from worldsim.sandbox.http_proxy import HTTPProxy

heard: list[str] = []  # what the server below was told


async def server(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it got; a call of the tool "stream" with events, and GET with a stream that does not end."""
    if scope["type"] != "http":
        return
    body = b""
    while (part := await receive())["type"] == "http.request":
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    message = json.loads(body) if body else {}
    heard.append(message.get("method", ""))
    params = message.get("params", {})
    headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
    seen = {"headers": headers, "path": scope["raw_path"].decode(), "query": scope["query_string"].decode()}
    cookies = [(b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; Path=/")]
    if scope["method"] == "GET" or params.get("name") == "never":
        try:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
            )
            await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            heard.append("gone")
        return
    result = {"content": [{"type": "text", "text": json.dumps(seen)}]}
    answer = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result}).encode()
    if params.get("name") == "stream":
        answer = b"id: 1\r\ndata:\r\n\r\n: ping\n\nid: 7\nevent: message\ndata: " + answer + b"\n\n"
    kind = b"text/event-stream" if params.get("name") == "stream" else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), *cookies]})
    await send({"type": "http.response.body", "body": answer})


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serves an app on a free port, in a thread."""
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(20)


NOTHING = [faults.NullFields(severity=1.0, rate=0.0), faults.LostAnswer(severity=1.0, rate=0.0)]


@pytest.fixture
def both() -> Iterator[tuple[str, str]]:
    """The addresses of the server and of a proxy whose plan is aimed at every tool and never fires."""
    heard.clear()
    with serving(server) as direct:
        plan = Plan.of(NOTHING)
        proxy = HTTPProxy(f"{direct}/mcp?key=1", Faults(plan, clock=WallClock), "result", lambda _: None)
        with serving(proxy) as proxied:
            yield direct, proxied


def wait_for(what: str) -> None:
    for _ in range(400):
        if what in heard:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"the server has not heard {what!r}, but {heard}")


def shown(response: httpx2.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.json()["result"]["content"][0]["text"])
    return found


@pytest.mark.parametrize("tool", ["plain", "stream", None])
def test_bodies_and_headers_are_those_of_the_server(tool: str | None, both: tuple[str, str]) -> None:
    message = call(1, tool) if tool else {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    head = [("accept", "application/json"), ("accept", "text/event-stream"), ("x-name", "Jos\u00e9".encode("latin-1"))]
    found = [httpx2.post(f"{at}/mcp?key=1", json=message, headers=head) for at in both]
    assert found[1].headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
    kept = [
        json.loads(json.dumps(each.text).replace(at.rpartition(":")[2], "PORT"))
        for each, at in zip(found, both, strict=True)
    ]
    assert "Jos" in kept[0] and kept[0].count("accept") == kept[1].count("accept")
    if tool == "stream":
        assert kept[1].startswith("id: 1\r\ndata:\r\n\r\n: ping\n\nid: 7\nevent: message\ndata: ")


def test_every_request_goes_to_the_server_of_the_url(both: tuple[str, str]) -> None:
    """Not to another host that its path names, and with the query of the url where it has none."""
    found = shown(httpx2.post(f"{both[1]}//evil.example/x", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}))
    assert found["path"] == "//evil.example/x" and found["query"] == "key=1"


def test_a_client_does_not_get_the_cookies_of_another(both: tuple[str, str]) -> None:
    for _ in range(2):
        found = shown(httpx2.post(f"{both[1]}/mcp", json=call(1, "plain")))
        assert not [value for name, value in found["headers"] if name == "cookie"]


def test_many_open_streams_leave_room_for_calls(both: tuple[str, str]) -> None:
    async def many() -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(limits=limits, timeout=20) as client, contextlib.AsyncExitStack() as streams:
            for _ in range(120):
                await streams.enter_async_context(client.stream("GET", f"{both[1]}/mcp"))
            assert (await client.post(f"{both[1]}/mcp", json=call(1, "plain"))).status_code == 200

    asyncio.run(many())


@pytest.mark.parametrize("tool", ["never", None])
def test_a_client_that_leaves_is_gone_for_the_server_too(tool: str | None, both: tuple[str, str]) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        if tool:
            httpx2.post(f"{both[1]}/mcp", json=call(1, tool), timeout=0.5).read()
        else:
            with httpx2.stream("GET", f"{both[1]}/mcp", timeout=0.5) as stream:
                stream.read()
    wait_for("gone")


def test_a_call_that_is_cancelled_is_gone_for_the_server_too(both: tuple[str, str]) -> None:
    answers: list[Any] = []

    def wait() -> None:
        answers.append(httpx2.post(f"{both[1]}/mcp", json=call(1, "never"), timeout=20).read())

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for("tools/call")
    notification = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    httpx2.post(f"{both[1]}/mcp", json=notification)
    waiting.join(10)
    assert answers == [b": hello\n\n"] and "notifications/cancelled" in heard
