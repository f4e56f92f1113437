"""Latency that `worldsim proxy` adds to calls of tools over stdio.

python benchmarks/proxy.py                # 4,000 calls each, half a minute
python benchmarks/proxy.py calls=20000

One client, one call at a time, to a server that answers at once: alone, behind a proxy at severity 0, and behind one
whose plan is aimed at the tool and never fires, so that every call goes through the faults. The three take turns, 100
calls each; medians and 99th percentiles of all after the first turn.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

import worldsim
from benchmarks.speed import machine

TURN = 100
SERVER = r"""
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    text = json.dumps(message["params"]["arguments"])
    result = {"content": [{"type": "text", "text": text}], "structuredContent": message["params"]["arguments"]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
AIMED = "faults:\n  - {kind: null_fields, rate: 0.0}\n  - {kind: server_error, rate: 0.0}\n"


class Caller:
    """A server, or a proxy in front of one, and a client that calls it."""

    def __init__(self, command: list[str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._server = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
        self.seconds: list[float] = []

    def call(self, number: int, arguments: Any) -> None:
        params = {"name": "echo", "arguments": arguments}
        request = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        line = json.dumps(request).encode() + b"\n"
        began = time.perf_counter()
        self._server.stdin.write(line)
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        self.seconds.append(time.perf_counter() - began)
        assert json.loads(answer)["result"]["structuredContent"] == arguments

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(20)


def main(arguments: list[str]) -> None:
    """Prints a table with a row for each way to the server and size of a reply."""
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    calls = given.pop("calls", 4000)
    if given:
        sys.exit(f"benchmarks/proxy.py has no key '{next(iter(given))}'; it takes calls")
    about = f"{machine(torch.device('cpu'))}; worldsim {worldsim.__version__}"
    table = Table("a reply of", "way", title=f"milliseconds a call: {about}", title_justify="left")
    for heading in ("median", "99 %", "added, median", "added, 99 %"):
        table.add_column(heading, justify="right")
    for size in (100, 10_000, 1_000_000):
        report(size, max(2, calls // (1 if size < 1e6 else 20) // TURN), table)
    Console(width=120).print(table)


def report(size: int, turns: int, table: Table) -> None:
    """Adds the rows of one size of replies, in characters."""
    server, proxy = [sys.executable, "-c", SERVER], [sys.executable, "-m", "worldsim", "proxy"]
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "aimed.yaml"
        plan.write_text(AIMED)
        ways = {
            "alone": Caller(server),
            "proxy, severity 0": Caller([*proxy, "faults=flaky_vendor", "severity=0", "--", *server]),
            "proxy, through faults": Caller([*proxy, f"faults={plan}", "--", *server]),
        }
        rows = [{"order": number, "note": "x" * 60} for number in range(max(1, size // 90))]
        for turn in range(turns + 1):
            for caller in ways.values():
                for number in range(TURN):
                    caller.call(turn * TURN + number, {"rows": rows})
        for caller in ways.values():
            caller.close()
    found = {way: figures(caller.seconds[TURN:]) for way, caller in ways.items()}
    for way, (median, most) in found.items():
        base = found["alone"]
        added = [f"{median - base[0]:.2f}", f"{most - base[1]:.2f}"] if way != "alone" else ["", ""]
        table.add_row(f"{size:,}", way, f"{median:.2f}", f"{most:.2f}", *added)


def figures(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    return 1e3 * statistics.median(seconds), 1e3 * statistics.quantiles(seconds, n=100)[98]


if __name__ == "__main__":
    main(sys.argv[1:])
