"""A shop whose actions name tools, in each form that actions may have, and whose answers are texts or numbers."""

import json
from datetime import UTC, datetime, timedelta
from string import ascii_letters, digits, punctuation
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

LETTERS = ascii_letters + digits + punctuation + " \n"
TOOLS = ("list", "refund", "wait")
PAGES = 6
ACTIONS: dict[str, spaces.Space[Any]] = {
    "classes": spaces.Dict(
        {
            "tool": spaces.Discrete(3, start=5),
            "arguments": spaces.Dict({"page": spaces.Discrete(PAGES), "id": spaces.Discrete(4)}),
        }
    ),
    "flat": spaces.Dict({"name": spaces.Discrete(3), "page": spaces.Discrete(PAGES), "id": spaces.Discrete(4)}),
    "texts": spaces.Dict(
        {
            "tool": spaces.Text(9, charset=LETTERS),
            "args": spaces.Text(200, min_length=0, charset=LETTERS),
            "thought": spaces.Text(40, min_length=0, charset=LETTERS),
        }
    ),
    "json": spaces.Text(300, min_length=0, charset=LETTERS),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    **dict.fromkeys(["json", "indented", "mixed", "mcp"], spaces.Text(2_000_000, charset=LETTERS)),
    "prose": spaces.Text(400, charset=LETTERS),
    "box": spaces.Box(0.0, 1e6, (4,), np.float64),
}


class Shop(gym.Env[Any, Any]):
    """Writes down the actions that reach it, and refuses those that are none of its space."""

    def __init__(self, actions: str = "json", observations: str = "json", length: int = 10**9) -> None:
        self.action_space, self.observation_space = ACTIONS[actions], OBSERVATIONS[observations]
        self.metadata = {"render_modes": [], "tools": TOOLS, "wait_s": {"wait": 7.0}}
        self.form, self.length = observations, length
        self.arrived: list[Any] = []
        self.answered: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.arrived, self.answered = [], []
        return self._answer("none", {}), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space, action
        self.arrived.append(action)
        calls = len(self.arrived)
        return self._answer(*called(action)), float(calls), calls >= self.length, False, {}

    def _answer(self, tool: str, arguments: dict[str, Any]) -> Any:
        calls = len(self.arrived)
        if self.form == "box":
            observation: Any = np.array(
                [calls, arguments.get("page", 0), arguments.get("id", 0), len(tool)], np.float64
            )
        elif self.form == "prose" or (self.form in ("mixed", "indented") and calls % 3 == 0):
            observation = f"Call {calls} of {tool}: nothing to report about order {5000 + calls}."
        else:
            observation = self._json(tool, arguments, calls)
        self.answered.append(observation)
        return observation

    def _json(self, tool: str, arguments: dict[str, Any], calls: int) -> str:
        said = {
            "tool": tool,
            "page": int(arguments.get("page", 0)),
            "amount_eur": 12.5 * calls + 310,
            "pieces": 40 + calls,
            "placed_at": (datetime(2026, 3, 1, 9, tzinfo=UTC) + timedelta(hours=calls)).isoformat(),
            "rows": [{"id": 5174 + calls + row, "name": f"Ada {row}"} for row in range(3)],
        }
        if self.form != "mcp":
            return json.dumps(said, indent=2 if self.form == "indented" else None)
        text = {"type": "text", "text": json.dumps(said)}
        return json.dumps({"content": [text, {"type": "text", "text": "done"}], "structuredContent": said})

    def snapshot(self) -> Any:
        return list(self.arrived), list(self.answered)

    def restore(self, snapshot: Any) -> None:
        self.arrived, self.answered = map(list, snapshot)


def action_of(form: str, tool: str, **arguments: Any) -> Any:
    """The action that calls a tool."""
    if form == "classes":
        numbers = {"page": np.int64(arguments.get("page", 0)), "id": np.int64(arguments.get("id", 0))}
        return {"tool": np.int64(5 + TOOLS.index(tool)), "arguments": numbers}
    if form == "flat":
        return {"name": TOOLS.index(tool), "page": arguments.get("page", 0), "id": arguments.get("id", 0)}
    if form == "texts":
        said = json.dumps(arguments, separators=(",", ":"))
        return {"tool": tool, "args": said, "thought": f"now {tool}"}
    return json.dumps({"name": tool, "input": arguments, "id": "toolu_1"})


def called(action: Any) -> tuple[str, dict[str, Any]]:
    """The tool that an action calls and its arguments, read without worldsim."""
    if isinstance(action, str):
        try:
            said = json.loads(action)
        except ValueError:
            return "none", {}
        return (said["name"], said["input"]) if isinstance(said, dict) and "name" in said else ("none", {})
    if "thought" in action:
        return action["tool"], json.loads(action["args"])
    if "name" in action:
        return TOOLS[int(action["name"])], {name: int(action[name]) for name in ("page", "id")}
    return TOOLS[int(action["tool"]) - 5], {name: int(value) for name, value in action["arguments"].items()}
