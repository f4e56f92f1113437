"""Which tool an action calls: what turns a step of an environment into a call, and a call into an action again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
from gymnasium import spaces

from worldsim.faults.payload_views import json_like
from worldsim.faults.trees import canonical

STEP = "step"  # the name of every call where the environment's actions have no names
TOOL_KEYS = ("tool", "name", "tool_name", "function")
ARGUMENT_KEYS = ("arguments", "args", "input", "parameters")


class ActionTools(Protocol):
    """The tools that an environment's actions call.

    names: of all there are; None: they get known when they are called. one_request: whether all actions ask for the
    same, as those without names do.
    """

    @property
    def names(self) -> tuple[str, ...] | None: ...

    @property
    def one_request(self) -> bool: ...

    @property
    def by_name(self) -> bool:
        """Whether calls have arguments by name, and not just the action."""
        ...

    def call(self, action: Any) -> tuple[str, Mapping[str, Any]]:
        """The tool that an action calls, and its arguments."""
        ...

    def action(self, tool: str, arguments: Mapping[str, Any], original: Any) -> Any:
        """The action that makes a call; `original` is the agent's, which may have made another call."""
        ...


@dataclass(frozen=True)
class UnnamedActions:
    """Every step is a call of one and the same tool."""

    names: tuple[str, ...] | None = (STEP,)
    one_request: bool = True
    by_name: bool = False

    def call(self, action: Any) -> tuple[str, Mapping[str, Any]]:
        return STEP, {"action": action}

    def action(self, tool: str, arguments: Mapping[str, Any], original: Any) -> Any:
        return arguments["action"]


@dataclass(frozen=True)
class NamedActions:
    """Discrete actions with names. first: the action that has the first of them."""

    names: tuple[str, ...]
    first: int
    one_request: bool = False
    by_name: bool = False

    def call(self, action: Any) -> tuple[str, Mapping[str, Any]]:
        return self.names[int(action) - self.first], {"action": action}

    def action(self, tool: str, arguments: Mapping[str, Any], original: Any) -> Any:
        return arguments["action"]


@dataclass(frozen=True)
class DictActions:
    """Actions that are a Dict of a tool and its arguments.

    tool_key, argument_key: where they stand; without arguments all else in the Dict is one. tools: the names of a
    Discrete tool's classes, and the first class.
    """

    tool_key: str
    argument_key: str | None
    tools: tuple[tuple[str, ...], int] | None
    names: tuple[str, ...] | None
    one_request: bool = False
    by_name: bool = True

    def call(self, action: Any) -> tuple[str, Mapping[str, Any]]:
        given = action[self.tool_key]
        tool = str(given) if self.tools is None else self.tools[0][int(given) - self.tools[1]]
        arguments = action[self.argument_key] if self.argument_key else _without(action, self.tool_key)
        return tool, _as_arguments(arguments)

    def action(self, tool: str, arguments: Mapping[str, Any], original: Any) -> Any:
        named = tool if self.tools is None else type(original[self.tool_key])(self.tools[0].index(tool) + self.tools[1])
        if self.argument_key is None:
            return {**original, **arguments, self.tool_key: named}
        return {**original, self.tool_key: named, self.argument_key: _like(original[self.argument_key], arguments)}


@dataclass(frozen=True)
class TextActions:
    """Actions that are a text with JSON: {"tool": ..., "arguments": {...}}, or the same under other usual names.

    Every other text is a step.
    """

    names: tuple[str, ...] | None
    one_request: bool = False
    by_name: bool = True

    def call(self, action: Any) -> tuple[str, Mapping[str, Any]]:
        found = _read(action)
        return (STEP, {"action": action}) if found is None else found[:2]

    def action(self, tool: str, arguments: Mapping[str, Any], original: Any) -> Any:
        if tool == STEP and set(arguments) == {"action"}:
            return arguments["action"]
        found = _read(original)
        if found is None:
            return json.dumps({"tool": tool, "arguments": dict(arguments)})
        _, _, whole, tool_key, argument_key = found
        changed = {**whole, tool_key: tool, argument_key: _like(whole.get(argument_key, {}), arguments)}
        return json_like(changed, original)


ParsedAction = tuple[str, Mapping[str, Any], Mapping[str, Any], str, str]


def _read(text: Any) -> ParsedAction | None:
    """The tool, the arguments, the whole object, and the keys under which the two stand in it."""
    try:
        given = json.loads(text)
    except (TypeError, ValueError):
        return None
    if not isinstance(given, dict):
        return None
    tool_key = next((key for key in TOOL_KEYS if isinstance(given.get(key), str)), None)
    if tool_key is None:
        return None
    argument_key = next((key for key in ARGUMENT_KEYS if key in given), ARGUMENT_KEYS[0])
    return given[tool_key], _as_arguments(given.get(argument_key, {})), given, tool_key, argument_key


def _as_arguments(given: Any) -> Mapping[str, Any]:
    """Arguments by name, out of a mapping or a text with JSON."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return {"text": given}
    return given if isinstance(given, Mapping) else {"value": given}


def _like(before: Any, arguments: Mapping[str, Any]) -> Any:
    """Arguments by name in the form in which an action had others."""
    if isinstance(before, str):
        try:
            json.loads(before)
        except ValueError:
            if set(arguments) == {"text"} and isinstance(arguments["text"], str):
                return arguments["text"]
        return json_like(dict(arguments), before)
    if not isinstance(before, Mapping) and set(arguments) == {"value"}:
        return arguments["value"]
    return dict(arguments)


class SessionActions:
    """The actions that a session has made, so that a call which is repeated gets the very action that made it."""

    def __init__(self, tools: ActionTools) -> None:
        self._tools = tools
        self._actions: dict[str, Any] = {}  # by tool and arguments

    def begin(self) -> None:
        """A session begins."""
        self._actions = {}

    def call(self, action: Any) -> tuple[str, Mapping[str, Any]]:
        """The tool that an action calls, and its arguments."""
        tool, arguments = self._tools.call(action)
        if self._tools.by_name:
            self._actions[canonical([tool, arguments])] = action
        return tool, arguments

    def action(self, tool: str, arguments: Mapping[str, Any], original: Any) -> Any:
        """The action that makes a call; `original` is the agent's, which may have made another call."""
        if self._tools.by_name:
            key = canonical([tool, arguments])
            if key in self._actions:
                return self._actions[key]
        return self._tools.action(tool, arguments, original)


def _without(action: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in action.items() if name != key}


def action_tools(metadata: Mapping[str, Any], space: gym.Space[Any]) -> ActionTools:
    """The tools that the actions of an environment call.

    Discrete actions have the names in `metadata["action_names"]`. A Dict with a key "tool" (or "name", "tool_name"),
    a Text or a Discrete one with names in `metadata["tools"]`, and a Text with JSON name their tools themselves.
    """
    names = tuple(metadata.get("action_names", ()))
    tools = tuple(metadata.get("tools", ())) or None
    if isinstance(space, spaces.Discrete) and len(names) >= space.n:
        return NamedActions(names[: int(space.n)], int(space.start))
    if isinstance(space, spaces.Dict):
        found = _dict_actions(space, tools)
        if found is not None:
            return found
    return TextActions(tools) if isinstance(space, spaces.Text) else UnnamedActions()


def _dict_actions(space: spaces.Dict, tools: tuple[str, ...] | None) -> DictActions | None:
    key = next((key for key in TOOL_KEYS if key in space.spaces), None)
    argument_key = next((name for name in ARGUMENT_KEYS if name in space.spaces), None)
    if key is None:
        return None
    tool = space.spaces[key]
    if isinstance(tool, spaces.Text):
        return DictActions(key, argument_key, None, tools)
    if isinstance(tool, spaces.Discrete) and tools is not None and len(tools) >= tool.n:
        return DictActions(key, argument_key, (tools, int(tool.start)), tools)
    return None
