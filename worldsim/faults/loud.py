"""Malformed, loud: replies that no parser takes, and replies that no schema takes."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from worldsim.faults import leafwise, wrong
from worldsim.faults.changes import Loud, PayloadChange, SomeLeaves, SomeReplies, unreadable
from worldsim.faults.exchange import Call, Forward, Reply
from worldsim.faults.fault import Context, choice, count, number
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class _Unreadable(SomeReplies, PayloadChange):
    """Replies that arrive as a text which cannot be parsed: error "malformed", and the text in `raw`."""

    def exchange(self, call: Call, forward: Forward, context: Context) -> Reply:
        reply = forward(call)
        if not reply.ok or context.uniform() >= self.share:
            return reply
        raw = self.text(reply.payload, context.rng())
        context.record(self.kind, characters=len(raw))
        return unreadable(reply, raw)

    def changed(self, payload: Any, context: Context) -> Any:
        return payload

    @abstractmethod
    def text(self, payload: Any, rng: np.random.Generator) -> str:
        """What arrives, as the caller's HTTP library decodes it."""


@dataclass(frozen=True, kw_only=True)
class TruncatedJSON(_Unreadable):
    """The reply ends in the middle.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `truncated_json` (characters that arrived).
    """

    kind: ClassVar[str] = "truncated_json"

    def text(self, payload: Any, rng: np.random.Generator) -> str:
        whole = leafwise.as_text({"result": payload})  # an object: no beginning of one is JSON
        return whole[: int(rng.integers(1, len(whole)))]


@dataclass(frozen=True, kw_only=True)
class InvalidJSON(_Unreadable):
    """The reply is nearly JSON: single quotes, a trailing comma, a comment, Python's True and None, or a chat preamble.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `invalid_json` (characters).
    """

    kind: ClassVar[str] = "invalid_json"

    def text(self, payload: Any, rng: np.random.Generator) -> str:
        whole = leafwise.as_text({"result": payload})
        return (
            repr(json.loads(whole)),
            whole[:-1] + ",}",
            whole[:-1] + " // end of result\n}",
            f"Sure! Here is the result:\n```json\n{whole}\n```",
        )[int(rng.integers(4))]


@dataclass(frozen=True, kw_only=True)
class HTMLErrorPage(_Unreadable):
    """A proxy's error page arrives where JSON was expected.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `html_error_page` (characters).
    """

    kind: ClassVar[str] = "html_error_page"

    def text(self, payload: Any, rng: np.random.Generator) -> str:
        title = ("502 Bad Gateway", "504 Gateway Time-out", "Service temporarily unavailable")[int(rng.integers(3))]
        page = f"<head><title>{title}</title></head>\n<body>\n<center><h1>{title}</h1></center>\n<hr>\n</body>"
        return f"<!DOCTYPE html>\n<html>\n{page}\n</html>\n"


@dataclass(frozen=True, kw_only=True)
class WrongEncoding(_Unreadable):
    """The reply is UTF-16 and read as Latin-1, with its byte order mark and a zero after every letter.

    | severity | share |
    |----------|-------|
    | 0.5      | 20 %  |
    | 1        | 40 %  |

    Records: `wrong_encoding` (characters).
    """

    kind: ClassVar[str] = "wrong_encoding"

    def text(self, payload: Any, rng: np.random.Generator) -> str:
        whole = b"\xff\xfe" + leafwise.as_text({"result": payload}).encode("utf-16-le", "replace")
        return whole.decode("latin-1")


# --- readable, and against the schema ---


@dataclass(frozen=True, kw_only=True)
class _WrongLeaf(Loud, SomeLeaves):
    """Leaves of a reply are nothing that its schema allows."""


@dataclass(frozen=True, kw_only=True)
class WrongType(_WrongLeaf):
    """Numbers arrive as text, texts as numbers, frames as floats from 0 to 1.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Records: `wrong_type` (leaf, before, after).
    """

    kind: ClassVar[str] = "wrong_type"

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        if isinstance(value, str):
            return len(value)
        return wrong.wrong_type(value, leaf.space, self.severity, rng) if leafwise.usual(leaf, value) else value


@dataclass(frozen=True, kw_only=True)
class WrongShape(_WrongLeaf):
    """Half of a vector or frame arrives, or one number where several belong.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    A single number arrives as a list of two. Records: `wrong_shape` (leaf, before, after).
    """

    kind: ClassVar[str] = "wrong_shape"

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        if isinstance(value, str):
            return [value]
        return wrong.wrong_shape(np.asarray(value), leaf.space, 0, rng) if leafwise.usual(leaf, value) else value


@dataclass(frozen=True, kw_only=True)
class NonFinite(_WrongLeaf):
    """NaN or infinity stands in a vector or number.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Records: `non_finite` (leaf, before, after).
    """

    kind: ClassVar[str] = "non_finite"

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        if not isinstance(leaf.space, spaces.Box) or leaf.space.dtype == np.uint8 or not leafwise.usual(leaf, value):
            return value
        way = (wrong.nan, wrong.infinite)[int(rng.integers(2))]
        return way(value, leaf.space, self.severity, rng)


@dataclass(frozen=True, kw_only=True)
class OutOfRange(_WrongLeaf):
    """A number is above what its schema allows; one of plain JSON, which has no schema, is a million times too large.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Records: `out_of_range` (leaf, before, after).
    """

    kind: ClassVar[str] = "out_of_range"

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        if context.plain:
            return value * 10**6 + 10**6 if isinstance(value, np.ndarray) else value
        is_number = not isinstance(leaf.space, spaces.Text) and leafwise.usual(leaf, value)
        return wrong.out_of_range(value, leaf.space, self.severity, rng) if is_number else value


@dataclass(frozen=True, kw_only=True)
class UnknownValue(_WrongLeaf):
    """A class that the schema does not list, such as a status that came with the service's last release.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    In a space the first class after the last; in plain JSON a word that nobody knows. Records: `unknown_value` (leaf,
    before, after).
    """

    kind: ClassVar[str] = "unknown_value"

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        if context.plain:
            return f"{value.upper()}_V2" if isinstance(value, str) else value
        is_class = isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        is_class = is_class and leafwise.usual(leaf, value)
        return wrong.out_of_range(value, leaf.space, self.severity, rng) if is_class else value


@dataclass(frozen=True, kw_only=True)
class NullForRequired(_WrongLeaf):
    """Null where a value is required.

    | severity | share | reach |
    |----------|-------|-------|
    | 0.5      | 20 %  | 25 %  |
    | 1        | 40 %  | 50 %  |

    Records: `null_for_required` (leaf, before, after).
    """

    kind: ClassVar[str] = "null_for_required"

    def leaf_changed(self, leaf: Leaf, value: Any, rng: np.random.Generator, context: Context) -> Any:
        return None


# --- another structure than was agreed ---

_DRIFTS = ("renamed", "moved", "nested", "retyped", "added")


@dataclass(frozen=True, kw_only=True)
class SchemaDrift(Loud, PayloadChange):
    """The service was released again, and its replies are built otherwise: the same wherever it strikes in an episode.

    renamed: a field has another name (`status` is `statusV2`). moved: it stands one level further up, or under "data".
    nested: it is an object around the value. retyped: a number is a text, a text a list. added: there is one more.

    | severity | share | fields |
    |----------|-------|--------|
    | 0.25     | 25 %  | 1      |
    | 0.5      | 50 %  | 2      |
    | 1        | 100 % | 4      |

    `fields` have changed. A payload that is no object is nested in one or retyped. Records: `schema_drift` (how, path).
    """

    kind: ClassVar[str] = "schema_drift"

    rate: float = number(1.0, 0, 1, "share of the replies that it touches at severity 1")
    how: str = choice("any", ("any", *_DRIFTS), "any, renamed, moved, nested, retyped or added")
    most_fields: int = count(4, 1, 1000, "how many fields have changed at severity 1")

    @property
    def fields(self) -> int:
        """How many fields have changed."""
        return max(1, round(self.severity * self.most_fields))

    def changed(self, payload: Any, context: Context) -> Any:
        rng, result = context.episode_rng(), payload
        for _ in range(self.fields):
            places = [path for path, _ in leafwise.nodes(payload) if path and isinstance(path[-1], str)]
            places = [path for path in places if context.aims_at("/".join(map(str, path)))] or [()]
            path = places[int(rng.integers(len(places)))]
            how = str(rng.choice(_DRIFTS)) if self.how == "any" else self.how
            drifted = _drifted(result, path, how)
            if drifted is not result:
                context.record(self.kind, how=how, path="/".join(map(str, path)))
                result = drifted
        return result


def _drifted(payload: Any, path: tuple[str | int, ...], how: str) -> Any:
    """A payload in which the value at `path` has drifted; the very same object where it is not there any more."""
    value = leafwise.get(payload, path)
    if value is leafwise.ABSENT:
        return payload
    if how == "retyped":
        return leafwise.put(payload, path, [value] if isinstance(value, str | Mapping) else leafwise.as_text(value))
    if how == "nested" or not path:
        return leafwise.put(payload, path, {"value": value, "version": 2})
    owner, key = leafwise.get(payload, path[:-1]), path[-1]
    if how == "added":
        return leafwise.put(payload, path[:-1], {**owner, f"{key}Info": {"deprecated": True}})
    if how == "renamed":
        renamed = {f"{key}V2" if name == key else name: inner for name, inner in owner.items()}
        return leafwise.put(payload, path[:-1], renamed)
    without = leafwise.put(payload, path[:-1], {name: inner for name, inner in owner.items() if name != key})
    if len(path) > 1 and isinstance(path[-2], str):
        above = leafwise.get(without, path[:-2])
        return leafwise.put(without, path[:-2], {**above, f"{path[-2]}_{key}": value})
    left = leafwise.get(without, path[:-1])
    return leafwise.put(without, path[:-1], {**left, "data": {key: value}})


@dataclass(frozen=True, kw_only=True)
class OversizedReply(Loud, PayloadChange):
    """The reply is padded far beyond its size: a debugging dump was left in.

    | severity | share | kib |
    |----------|-------|-----|
    | 0.5      | 20 %  | 128 |
    | 1        | 40 %  | 256 |

    An object gets a field "debug" of so many KiB, everything else an object around it. Records: `oversized_reply`
    (added_bytes).
    """

    kind: ClassVar[str] = "oversized_reply"

    most_kib: int = count(256, 1, 2**20, "KiB that are added at severity 1")

    @property
    def kib(self) -> int:
        """KiB that are added."""
        return max(1, round(self.severity * self.most_kib))

    def changed(self, payload: Any, context: Context) -> Any:
        line = "2026-01-01T00:00:00Z DEBUG retry=0 cache=miss\n"
        padding = (line * (self.kib * 1024 // len(line) + 1))[: self.kib * 1024]
        context.record(self.kind, added_bytes=len(padding))
        return {**payload, "debug": padding} if isinstance(payload, Mapping) else {"result": payload, "debug": padding}
