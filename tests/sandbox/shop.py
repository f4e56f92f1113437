"""An MCP server made with the official SDK: `python -m tests.sandbox.shop`, or with a port, over HTTP."""

import os
import sys

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

app = MCPServer("shop", instructions="Sells things.")
refunds: list[int] = []


class Order(BaseModel):
    """What is known of an order."""

    number: int
    amount: float
    placed_at: str
    paid: bool


class Sure(BaseModel):
    """An answer of the user."""

    sure: bool


@app.tool()
def look_up(number: int) -> Order:
    """Looks an order up."""
    return Order(number=number, amount=120.5, placed_at="2026-11-03T10:15:00+00:00", paid=True)


@app.tool()
def refund(number: int) -> str:
    """Pays an order back."""
    refunds.append(number)
    return f"refunded order {number}"


@app.tool()
def ledger() -> list[int]:
    """The orders that were paid back."""
    return refunds


@app.tool()
def fail(reason: str) -> str:
    """Fails."""
    raise ValueError(reason)


@app.tool()
async def slow(steps: int, ctx: Context) -> str:
    """Reports progress."""
    for step in range(steps):
        await ctx.report_progress(step + 1, steps)
    return "done"


@app.tool()
async def ask(ctx: Context) -> str:
    """Asks the user."""
    answer = await ctx.elicit("Are you sure?", Sure)
    return f"{answer.action}: {getattr(answer, 'data', None)}"


@app.tool()
def vanish() -> str:
    """Ends the server."""
    os._exit(3)


@app.resource("shop://hours")
def hours() -> str:
    """When it is open."""
    return "nine to five"


@app.prompt()
def greet(name: str) -> str:
    """A greeting."""
    return f"Greet {name} in one line."


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app.run("streamable-http", port=int(sys.argv[1]))
    else:
        app.run()
