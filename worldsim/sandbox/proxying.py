"""`worldsim proxy`: any MCP server behind faults."""

import asyncio
import contextlib
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field

from worldsim.errors import ConfigError
from worldsim.faults.clock import WallClock
from worldsim.faults.plans.plan import Plan
from worldsim.faults.tools import Faults
from worldsim.printing import printable
from worldsim.sandbox.proxy import StdioProxy
from worldsim.sandbox.tool_calls import ToolCalls
from worldsim.settings import Seed, Settings


class ProxyConfig(Settings):
    """An MCP server, and the faults on calls of its tools."""

    faults: str = Field(
        "flaky_vendor", description="fault plan, by name or file (plan.yaml), for the tools that its globs match"
    )
    severity: float = Field(1.0, ge=0, le=1, description="of the whole plan; 0 passes everything on as it is")
    command: list[str] = Field([], description="command of a server that speaks stdio; also after --, as it is typed")
    url: str | None = Field(None, description="a server that speaks Streamable HTTP, in place of a command")
    port: int = Field(8765, ge=0, le=65535, description="with url: the loopback port to listen at; 0: any free one")
    failures: Literal["result", "protocol"] = Field(
        "result",
        description="how a failed call looks to the client. result: as a tool reports it; protocol: as a broken server "
        "does, a JSON-RPC error, an HTTP status, half a message",
    )
    record: Path | None = Field(
        None, description="JSON lines to which every call is appended, without its content, for worldsim faults fit"
    )
    seed: Seed = Field(0, description="of the faults, where the plan has none of its own")


def run_proxy(config: ProxyConfig) -> int:
    """Runs the proxy until its client or its server is gone. Returns the exit code of the server, over stdio.

    Raises ConfigError for a plan, a command or a URL that cannot be used.
    """
    if bool(config.command) == (config.url is not None):
        raise ConfigError("give either a command, worldsim proxy faults=... -- python server.py, or url=http://...")
    plan = Plan.load(config.faults).at(config.severity)
    faults = Faults(plan, seed=config.seed, clock=WallClock, record=config.record)
    code = 0
    with contextlib.suppress(KeyboardInterrupt):
        if config.url is not None:
            from worldsim.sandbox.http_proxy import serve

            serve(config.url, faults, config.failures, config.port, print_note)
        else:
            calls = ToolCalls(faults, failures=config.failures)
            source = os.fdopen(os.dup(0), "rb")  # a thread may wait for it when Python ends
            code = asyncio.run(StdioProxy(config.command, calls, plan, source, sys.stdout.buffer, print_note).run())
    counts = Counter(record.fault for record in faults.records)
    done = ", ".join(f"{kind} {count} times" for kind, count in counts.most_common()) or "nothing"
    print_note(f"what the faults did: {done}")
    return code


def print_note(line: str) -> None:
    """Prints a line on standard error: standard output belongs to the protocol."""
    print(f"worldsim: {printable(line)}", file=sys.stderr, flush=True)
