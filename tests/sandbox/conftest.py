"""A raw MCP server and client: lines of JSON, whatever they hold."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from worldsim.faults import Plan
from worldsim.faults.clock import WallClock
from worldsim.faults.tools import Faults
from worldsim.sandbox.proxy import StdioProxy
from worldsim.sandbox.tool_calls import Failures, ToolCalls

# "echo" gives its arguments back, "add" and "sum" count, "never" does not answer, "fail" and "wrong" are errors, and
# "die" ends the server.
SERVER = r"""
import json, os, sys

total = 0
for line in sys.stdin:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        print('{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "Parse error"}}', flush=True)
        continue
    params = message.get("params") or {}
    name, arguments = params.get("name"), params.get("arguments") or {}
    if name == "add":
        total += arguments["amount"]
    if name == "die":
        os._exit(7)
    if message.get("method") == "notifications/cancelled":
        print(json.dumps({"jsonrpc": "2.0", "method": "notifications/heard", "params": params}), flush=True)
    if name == "never" or "id" not in message:
        continue
    text = json.dumps({"total": total} if name in ("add", "sum") else arguments)
    if name == "big":
        text = "x" * arguments["size"]
    if name == "wrong":
        error = '"error": {"code": -32602,  "message": "no"}'
        print('{"jsonrpc":"2.0", "id": %s, %s}' % (json.dumps(message["id"]), error), flush=True)
        continue
    if name == "fail":
        result = {"content": [{"type": "text", "text": "out of order"}], "isError": True}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
        continue
    # Spaces, escapes and numbers as another program would write them.
    content = '{"content" : [{"type": "text", "text": %s}], "x": 1.50e3, "\\u00e9": "\\/"}' % json.dumps(text)
    print('{"id":%s ,"jsonrpc":"2.0","result": %s}' % (json.dumps(message["id"]), content), flush=True)
print("not JSON at the end", flush=True)
"""
COMMAND = [sys.executable, "-c", SERVER]


def call(identifier: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    """A request of `tools/call`."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": identifier, "method": "tools/call", "params": params}


def line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Proxied:
    """The client's end of a proxy: `async with Proxied(plan) as proxy: await proxy.ask(call(1, "echo"))`.

    code: what the proxy ended with. notes: what it told.
    """

    def __init__(
        self, plan: Any, command: Sequence[str] = COMMAND, failures: Failures = "result", clock: Any = WallClock
    ) -> None:
        self.plan, self.command, self.failures = Plan.of(plan), command, failures
        self.faults = Faults(self.plan, seed=1, clock=clock)
        self.notes: list[str] = []
        self.code: int | None = None

    async def __aenter__(self) -> "Proxied":
        (source, self._in), (out, sink) = os.pipe(), os.pipe()
        self._sink, self._lines = os.fdopen(sink, "wb"), asyncio.StreamReader(limit=2**28)
        protocol = asyncio.StreamReaderProtocol(self._lines)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(out, "rb"))
        calls = ToolCalls(self.faults, failures=self.failures)
        proxy = StdioProxy(self.command, calls, self.plan, os.fdopen(source, "rb"), self._sink, self.notes.append)
        self._running = asyncio.ensure_future(proxy.run())
        return self

    def send(self, text: bytes) -> None:
        os.write(self._in, text)

    async def read(self, timeout_s: float = 20) -> bytes:
        return await asyncio.wait_for(self._lines.readline(), timeout_s)

    async def ask(self, message: Any) -> dict[str, Any]:
        """The next message after a request."""
        self.send(line(message))
        answer: dict[str, Any] = json.loads(await self.read())
        return answer

    async def close(self) -> list[bytes]:
        """Hangs up; the lines that still come."""
        if self._in >= 0:
            os.close(self._in)
            self._in = -1
        self.code = await asyncio.wait_for(self._running, 20)
        self._sink.close()
        return (await self._lines.read()).splitlines(keepends=True)

    async def __aexit__(self, *error: Any) -> None:
        if self.code is None:
            await self.close()
