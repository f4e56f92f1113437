"""Public MCP servers behind `worldsim proxy`: the same bytes where nothing fires, answers under every family of faults.

python benchmarks/public_servers.py folder=/tmp/servers     # which holds venv/ and node_modules/ with the servers

    python -m venv venv && venv/bin/pip install mcp-server-time mcp-server-git
    npm install @modelcontextprotocol/server-memory @modelcontextprotocol/server-filesystem \
        @modelcontextprotocol/server-everything

Each server gets the same requests three times, in a fresh folder: alone, behind a proxy at severity 0, and behind one
whose plan is aimed at every tool and never fires. "same": how many of its lines are the same byte by byte. Then it gets
30 calls under each family of faults, one plan of all its kinds: each must be answered once, in a line of JSON, and the
faults must have done something.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from worldsim.faults import FAMILIES, KINDS, Plan, VirtualClock
from worldsim.faults.tools import Faults
from worldsim.sandbox.proxy import StdioProxy
from worldsim.sandbox.tool_calls import ToolCalls

ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "0"}}
NODE = "node_modules/@modelcontextprotocol/server-"
COMMANDS = {
    "mcp-server-time": ["venv/bin/mcp-server-time", "--local-timezone", "UTC"],
    "mcp-server-git": ["venv/bin/mcp-server-git"],
    "server-memory": ["node", NODE + "memory/dist/index.js"],
    "server-filesystem": ["node", NODE + "filesystem/dist/index.js", "."],
    "server-everything": ["node", NODE + "everything/dist/index.js"],
}
CALLS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "mcp-server-time": [
        ("convert_time", {"source_timezone": "UTC", "time": "10:30", "target_timezone": "Asia/Tokyo"}),
        ("convert_time", {"source_timezone": "nowhere", "time": "10:30", "target_timezone": "UTC"}),
    ],
    "mcp-server-git": [
        ("git_log", {"repo_path": ".", "max_count": 3}),
        ("git_status", {"repo_path": "."}),
        ("git_show", {"repo_path": ".", "revision": "nowhere"}),
    ],
    "server-memory": [
        ("create_entities", {"entities": [{"name": "Anna", "entityType": "person", "observations": ["is née"]}]}),
        ("read_graph", {}),
        ("search_nodes", {"query": "Anna"}),
    ],
    "server-filesystem": [
        ("write_file", {"path": "note.txt", "content": "hé\n"}),
        ("read_text_file", {"path": "note.txt"}),
        ("list_directory", {"path": "."}),
        ("read_text_file", {"path": "/etc/passwd"}),
    ],
    "server-everything": [
        ("echo", {"message": "hé \U0001f600"}),
        ("get-sum", {"a": 1.5, "b": 2}),
        ("get-structured-content", {"location": "Chicago"}),
        ("get-tiny-image", {}),
        ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ],
}


def requests(server: str) -> list[dict[str, Any]]:
    """What every server is asked: what it lists, its own calls, and some that are wrong."""
    calls = [("tools/call", {"name": name, "arguments": arguments}) for name, arguments in CALLS[server]]
    wrong = [("tools/call", {"name": "nowhere", "arguments": {}}), ("tools/call", {"name": CALLS[server][0][0]})]
    lists = [("tools/list", {}), ("resources/list", {}), ("prompts/list", {}), ("ping", {}), ("nowhere/list", {})]
    asked = [("initialize", ABOUT), *lists, *calls, *wrong]
    return [{"jsonrpc": "2.0", "id": n, "method": method, "params": params} for n, (method, params) in enumerate(asked)]


def fresh(folder: Path) -> Path:
    """A new folder with a repository of one commit, the same each time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "read.me").write_text("first\n")
    date = "2026-11-03T10:00:00+00:00"
    who = {name: "a" for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")}
    dated = {**os.environ, **who, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    for words in (["init", "-q", "-b", "main"], ["add", "read.me"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True, env=dated)
    return folder


def command_of(server: str, installed: Path) -> list[str]:
    words = COMMANDS[server]
    return [str(installed / word) if "/" in word else word for word in words]


def conversation(command: list[str], folder: Path, asked: list[dict[str, Any]]) -> dict[str, bytes]:
    """The line that answers each request, by the JSON of its id; other lines of the server by themselves."""
    environment = {**os.environ, "MEMORY_FILE_PATH": str(folder / "memory.jsonl")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)  # type: ignore[call-overload]
    found: dict[str, bytes] = {}
    for request in asked:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        while str(request["id"]) not in found:
            line = process.stdout.readline()
            assert line, f"{command[0]} has ended"
            message = json.loads(line)
            found[str(message["id"]) if "result" in message or "error" in message else line.decode()] = line
        if request["method"] == "initialize":
            process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    process.stdin.close()
    process.wait(20)
    return found


async def answered(command: list[str], folder: Path, plan: Plan, asked: list[dict[str, Any]]) -> tuple[int, int, int]:
    """(requests answered once and in JSON, records of the faults, errors among the answers)."""
    os.environ["MEMORY_FILE_PATH"] = str(folder / "memory.jsonl")
    (source, into), (out, sink) = os.pipe(), os.pipe()
    lines = asyncio.StreamReader(limit=2**28)
    reading = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: reading, os.fdopen(out, "rb"))
    faults = Faults(plan, seed=1, clock=VirtualClock)
    proxy = StdioProxy(command, ToolCalls(faults), plan, os.fdopen(source, "rb"), os.fdopen(sink, "wb"), print)
    running = asyncio.ensure_future(proxy.run())
    answers, errors = 0, 0
    for request in asked:
        os.write(into, json.dumps(request).encode() + b"\n")
        while True:
            message = json.loads(await asyncio.wait_for(lines.readline(), 60))
            if message.get("id") == request["id"] and "method" not in message:
                answers += ("result" in message) != ("error" in message)
                errors += "error" in message or bool(message["result"].get("isError"))
                break
        if request["method"] == "initialize":
            os.write(into, b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    os.close(into)
    await asyncio.wait_for(running, 20)
    return answers, len(faults.records), errors


def main(arguments: list[str]) -> None:
    """Prints two tables."""
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    installed = Path(given.pop("folder", ".")).absolute()
    if given:
        sys.exit(f"benchmarks/public_servers.py has no key '{next(iter(given))}'; it takes folder")
    proxy = [sys.executable, "-m", "worldsim", "proxy"]
    same = Table("server", "lines", "same at severity 0", "same where nothing fires", title="Lines, byte by byte")
    broken = Table("family", *COMMANDS, title="30 calls under each family: answered / records of faults / errors")
    with tempfile.TemporaryDirectory() as scratch:
        plan = Path(scratch) / "never.yaml"
        plan.write_text("faults:\n  - {kind: null_fields, rate: 0.0}\n  - {kind: server_error, rate: 0.0}\n")
        cells: dict[str, list[str]] = {}
        for server in COMMANDS:
            command, asked = command_of(server, installed), requests(server)
            ways = ([], [*proxy, "faults=flaky_vendor", "severity=0", "--"], [*proxy, f"faults={plan}", "--"])
            one, *others = (conversation([*way, *command], fresh(Path(scratch) / "work"), asked) for way in ways)
            counts = [sum(other.get(key) == line for key, line in one.items()) for other in others]
            same.add_row(server, str(len(one)), *map(str, counts))
            for family, kinds in FAMILIES.items():
                faults = [KINDS[kind.kind](severity=0.5) for kind in kinds if kind.kind != "plausible_lie"]
                first, calls = asked[0], [each for each in asked if each["method"] == "tools/call"]
                many = [{**calls[n % len(calls)], "id": n + 1} for n in range(30)]
                where = fresh(Path(scratch) / "work")
                os.chdir(where)
                found = asyncio.run(answered(command, where, Plan(faults=faults), [first, *many]))
                cells.setdefault(family, []).append("{} / {} / {}".format(found[0] - 1, *found[1:]))
            os.chdir(scratch)
    for family, row in cells.items():
        broken.add_row(family, *row)
    Console(width=160).print(same, broken)


if __name__ == "__main__":
    main(sys.argv[1:])
