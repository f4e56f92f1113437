"""The part of a payload that faults change: the JSON in a text, or the content of an MCP result.

A tool may answer with JSON as a text, or with a result of the Model Context Protocol, which has it twice: as
`structuredContent` and as the text of `content` (MCP 2025-06-18, section Tools). A view opens such a payload, and what
has changed in it is written back wherever it stands, so that no two parts of an answer contradict each other.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class PayloadView(NamedTuple):
    """The part of a payload that faults change, and how to put it back.

    inner: what they change. rebuild: makes a payload of what they have made of it. malformed: makes one of a text that
    cannot be parsed, where the payload has a text that its reader parses; None elsewhere.
    """

    inner: Any
    rebuild: Callable[[Any], Any]
    malformed: Callable[[str], Any] | None = None


def view_of(payload: Any) -> PayloadView:
    """The view of a payload; most payloads are their own."""
    if isinstance(payload, str):
        return _text(payload)
    if isinstance(payload, Mapping) and is_mcp_result(payload):
        return _mcp(payload)
    return PayloadView(payload, lambda inner: inner)


def is_mcp_result(payload: Mapping[str, Any]) -> bool:
    """Whether this is what a tool of the Model Context Protocol answers."""
    content = payload.get("content")
    return isinstance(content, list) and all(isinstance(each, Mapping) and "type" in each for each in content)


def _parsed(text: str) -> Any:
    """The object or list that a text is, None for every other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _text(text: str) -> PayloadView:
    found = _parsed(text)
    if found is None:
        return PayloadView(text, lambda changed: changed if isinstance(changed, str) else json.dumps(changed), str)
    view = view_of(found)

    def rebuild(changed: Any) -> str:
        if isinstance(changed, str):  # an answer from before, which was no JSON
            return changed
        return text if changed is view.inner else json_like(view.rebuild(changed), text)

    return PayloadView(view.inner, rebuild, str)


def json_like(value: Any, like: str) -> str:
    """JSON spaced like another text of it."""
    lines = like.strip().splitlines()
    indent = len(lines[1]) - len(lines[1].lstrip()) if len(lines) > 1 else None
    tight = indent is None and '": ' not in like
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=(",", ":") if tight else None)


def _mcp(result: Mapping[str, Any]) -> PayloadView:
    texts = {at: each["text"] for at, each in enumerate(result["content"]) if isinstance(each.get("text"), str)}
    structured = result.get("structuredContent")

    def malformed(raw: str) -> Any:
        rest = {key: value for key, value in result.items() if key != "structuredContent"}
        return {**rest, "content": [{"type": "text", "text": raw}]}

    if structured is not None:

        def rebuild(inner: Any) -> Any:
            return result if inner is structured else _rewritten(result, texts, structured, inner)

        return PayloadView(structured, rebuild, malformed)
    if len(texts) != 1:
        inner = list(texts.values())
        return PayloadView(
            inner, lambda changed: _with_texts(result, dict(zip(texts, _texts(changed, inner), strict=True))), malformed
        )
    ((at, text),) = texts.items()
    view = _text(text)
    return PayloadView(view.inner, lambda changed: _with_texts(result, {at: view.rebuild(changed)}), malformed)


def _texts(changed: Any, before: list[str]) -> list[str]:
    """Texts that a fault has left, one for each that there was."""
    found = (
        [each if isinstance(each, str) else json.dumps(each) for each in changed] if isinstance(changed, list) else []
    )
    return (found + [""] * len(before))[: len(before)]


def _rewritten(result: Mapping[str, Any], texts: Mapping[int, str], before: Any, after: Any) -> Any:
    """A result whose structured content is another one, and whose texts that repeated it repeat the new one."""
    same = {at: text for at, text in texts.items() if _parsed(text) == before}
    return {
        **_with_texts(result, {at: json_like(after, text) for at, text in same.items()}),
        "structuredContent": after,
    }


def _with_texts(result: Mapping[str, Any], texts: Mapping[int, str]) -> dict[str, Any]:
    content = [{**each, "text": texts[at]} if at in texts else each for at, each in enumerate(result["content"])]
    return {**result, "content": content}
