"""The official SDK's client and server, with the proxy between them, over stdio and over HTTP, in both revisions."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import ElicitResult

from tests.sandbox.conftest import COMMAND, call, line

ROOT = Path(__file__).parents[2]
SHOP = [sys.executable, "-m", "tests.sandbox.shop"]
PROXY = [sys.executable, "-m", "worldsim", "proxy"]
MODES = ["legacy", "auto"]  # 2025-11-25, 2026-07-28

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDK's own, of what is deprecated in the later revision


async def agree(context: Any, params: Any) -> ElicitResult:
    """A user who says yes."""
    return ElicitResult(action="accept", content={"sure": True})


@contextlib.asynccontextmanager
async def over_stdio(command: Sequence[str], mode: Any) -> AsyncIterator[Client]:
    with open(os.devnull, "w") as nowhere:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        server = StdioServerParameters(command=command[0], args=list(command[1:]), env=environment, cwd=str(ROOT))
        transport = stdio_client(server, errlog=nowhere)
        async with Client(transport, mode=mode, elicitation_callback=agree, cache=None) as client:
            yield client


async def everything(client: Client, mode: str) -> list[Any]:
    """What a client gets for everything that the shop has."""
    said: list[Any] = []
    progress: list[tuple[float, float | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total))

    said.append([tool.model_dump(mode="json") for tool in (await client.list_tools()).tools])
    for name, arguments in (
        ("look_up", {"number": 3}),
        ("refund", {"number": 3}),
        ("ledger", {}),
        ("fail", {"reason": "out of order"}),
        ("look_up", {"number": "three"}),
        ("nowhere", {}),
        *([("ask", {})] if mode == "legacy" else []),
    ):
        try:
            said.append((await client.call_tool(name, arguments)).model_dump(mode="json"))
        except MCPError as error:
            said.append([error.code, str(error)])
    said.append((await client.call_tool("slow", {"steps": 3}, progress_callback=note)).model_dump(mode="json"))
    said.append(progress)
    said.append((await client.read_resource("shop://hours")).model_dump(mode="json"))
    said.append((await client.get_prompt("greet", {"name": "Anna"})).model_dump(mode="json"))
    return said


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("words", [["faults=flaky_vendor", "severity=0"], ["faults=quiet.yaml"]])
def test_over_stdio_a_client_gets_the_same(mode: str, words: list[str], tmp_path: Path) -> None:
    plan = tmp_path / "quiet.yaml"
    plan.write_text("faults:\n  - {kind: null_fields, rate: 0.0}\n  - {kind: constant_latency, seconds: 0.001}\n")
    words = [word.replace("quiet.yaml", str(plan)) for word in words]

    async def both() -> list[list[Any]]:
        said = []
        for command in (SHOP, [*PROXY, *words, "--", *SHOP]):
            async with over_stdio(command, mode) as client:
                said.append(await everything(client, mode))
        return said

    direct, proxied = asyncio.run(both())
    assert proxied == direct and len(direct) >= 10


@pytest.fixture
def url() -> Iterator[str]:
    """A shop over Streamable HTTP."""
    with serving(lambda port: [*SHOP, str(port)]) as found:
        yield found


@contextlib.contextmanager
def serving(command: Any) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command(port), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while time.monotonic() - began < 60:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None, "the server has ended"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait(20)


def proxying(url: str, *words: str) -> Any:
    return serving(lambda port: [*PROXY, *words, f"url={url}", f"port={port}"])


@pytest.mark.parametrize("mode", MODES)
def test_over_http_a_client_gets_the_same(mode: Any, url: str, tmp_path: Path) -> None:
    plan = tmp_path / "quiet.yaml"
    plan.write_text("faults:\n  - {kind: null_fields, rate: 0.0}\n  - {kind: constant_latency, seconds: 0.001}\n")

    async def said(at: str) -> list[Any]:
        async with Client(at, mode=mode, elicitation_callback=agree, cache=None) as client:
            return await everything(client, mode)

    with proxying(url, f"faults={plan}") as proxy:
        found = [asyncio.run(said(at)) for at in (url, proxy)]
    for one in found:
        one.pop(3)  # the ledger, which the first one has written to
    assert found[0] == found[1]


def test_faults_reach_a_client_over_http(url: str, tmp_path: Path) -> None:
    plan = tmp_path / "broken.yaml"
    plan.write_text(
        "faults:\n"
        "  - {kind: null_fields, tools: [look_up], targets: [paid], severity: 1.0, rate: 1.0, spread: 1.0}\n"
        "  - {kind: rate_limited, tools: [refund], severity: 1.0, rate: 1.0, retry_after_s: 2}\n"
        "  - {kind: duplicate_execution, tools: [slow], severity: 1.0, rate: 1.0}\n"
    )

    async def found(at: str) -> list[Any]:
        async with Client(at, cache=None) as client:
            answers = []
            for name, arguments in (("look_up", {"number": 1}), ("refund", {"number": 7}), ("ledger", {})):
                try:
                    answers.append(await client.call_tool(name, arguments))
                except RuntimeError as error:
                    answers.append(error)
            answers.append(await client.call_tool("slow", {"steps": 2}))
            return answers

    with proxying(url, f"faults={plan}") as proxy:
        looked_up, refunded, ledger, slow = asyncio.run(found(proxy))
    # The SDK's client checks the schema of what it gets: `paid` may not be null.
    assert isinstance(looked_up, RuntimeError) and "paid" in str(looked_up).lower() or looked_up.is_error
    assert refunded.is_error and "retry after 2 s" in refunded.content[0].text
    assert ledger.structured_content == {"result": []}
    assert slow.content[0].text == "done"


def test_failures_of_the_protocol_are_those_of_http(url: str, tmp_path: Path) -> None:
    plan = tmp_path / "broken.yaml"
    plan.write_text(
        "faults:\n"
        "  - {kind: unavailable, tools: [refund], severity: 1.0, rate: 1.0, retry_after_s: 1.5}\n"
        "  - {kind: dropped_connection, tools: [ledger], severity: 1.0, rate: 1.0}\n"
        "  - {kind: lost_answer, tools: [look_up], severity: 1.0, rate: 1.0, timeout_s: 0.01}\n"
    )
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"}

    def post(at: str, message: dict[str, Any], **more: str) -> httpx2.Response:
        return httpx2.post(at, json={"jsonrpc": "2.0", **message}, headers={**headers, **more}, timeout=20)

    about = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    with proxying(url, f"faults={plan}", "failures=protocol") as proxy:
        begun = post(proxy, {"id": 0, "method": "initialize", "params": about})
        session = {"mcp-session-id": begun.headers["mcp-session-id"]}
        post(proxy, {"method": "notifications/initialized"}, **session)

        def call(tool: str) -> httpx2.Response:
            return post(proxy, {"id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}, **session)

        refused = call("refund")
        assert refused.status_code == 503 and refused.headers["retry-after"] == "2" and refused.json()["id"] == 1
        with pytest.raises(httpx2.TransportError):
            call("ledger")
        assert call("look_up").status_code == 504
        assert post(proxy, {"id": 2, "method": "ping"}, **session).status_code == 200
        assert post(proxy, {"id": 3, "method": "ping"}, origin="http://evil.example", **session).status_code == 403
        assert post(proxy, {"id": 3, "method": "ping"}, host="evil.example", **session).status_code == 421
        assert httpx2.delete(proxy, headers={**headers, **session}).status_code == 200
        assert call("refund").status_code == 503  # of a session that the server has forgotten: the fault comes first


@pytest.mark.parametrize(("tool", "code"), [("die", 7), ("echo", 0)])
def test_the_command_ends_as_its_server_does_and_says_what_the_faults_did(tool: str, code: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    command = [*PROXY, "faults=slow_api", "severity=0", "--", *COMMAND]
    proxy = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)
    assert proxy.stdin is not None and proxy.stdout is not None and proxy.stderr is not None
    proxy.stdin.write(line(call(1, tool, text="x")))
    proxy.stdin.flush()
    if tool == "echo":
        assert json.loads(proxy.stdout.readline())["id"] == 1
        proxy.stdin.close()
    assert proxy.wait(30) == code
    assert proxy.stderr.read() == b"worldsim: what the faults did: nothing\n"


def test_a_command_is_passed_on_word_by_word() -> None:
    words = ["a b", "it's", '"q"', "$x", "[a,b]", "{c:d}", "\\back", "x=y", "${env:HOME}", "", "5", "null", "--foo=1"]
    shows = "import sys; print(sys.argv[1:], flush=True)"
    command = [*PROXY, "faults=slow_api", "--", sys.executable, "-c", shows, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, cwd=ROOT, env=environment, input="", capture_output=True, text=True, timeout=60)
    assert shown.stdout == f"{words}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["faults=slow_api"], "give either a command"),
        (["faults=slow_api", "url=http://127.0.0.1:1/mcp", "--", "python"], "give either a command"),
        (["url=nowhere"], "url=nowhere is no address"),
        (["faults=slow_apy", "--", "python"], "slow_api"),
        (["severity=2", "--", "python"], "severity"),
        (["--", "nowhere-to-be-found"], "'nowhere-to-be-found' cannot be started"),
        (["record=/nowhere/calls.jsonl", "--", "python"], "cannot be written"),
    ],
)
def test_a_mistake_is_a_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    from worldsim.cli import main

    assert main(["proxy", *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err.splitlines()[0] and "Traceback" not in shown.err and shown.out == ""
