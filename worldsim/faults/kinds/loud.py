"""Malformed, loud: replies that no parser takes, and replies that no schema takes."""

import json
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import leafwise
from worldsim.faults.chance import Draws
from worldsim.faults.kinds import wrong
from worldsim.faults.kinds.changes import BatchChange, Changes, ColumnChange, SomeLeaves, SomeReplies
from worldsim.faults.kinds.texts import plain_payloads
from worldsim.faults.leafwise import Values, as_text
from worldsim.faults.many.replies import Replies
from worldsim.faults.struck import Mask, Struck
from worldsim.spaces import Leaf


@dataclass(frozen=True, kw_only=True)
class _Unreadable(SomeReplies, BatchChange):
    """Replies that arrive as a text which cannot be parsed: error "malformed", and the text in `raw`."""

    def change(self, struck: Struck, replies: Replies) -> None:
        texts = self.texts(lambda: _results(struck, replies), struck.draws)
        lengths = [len(text) for text in texts]  # what is recorded lasts as long as the episode: no texts of frames
        struck.record(self.kind, lambda: [{"characters": length} for length in lengths])
        replies.garble(struck.rows, texts)

    @abstractmethod
    def texts(self, results: Callable[[], list[str]], draws: Draws) -> list[str]:
        """What arrives, as the caller's HTTP library decodes it. `results()` are the texts that were sent."""


def _results(struck: Struck, replies: Replies) -> list[str]:
    """The replies as JSON texts: objects, for no beginning of one is JSON."""
    return [as_text({"result": payload}) for payload in plain_payloads(replies, struck.rows)]


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

    def texts(self, results: Callable[[], list[str]], draws: Draws) -> list[str]:
        whole = results()
        ends = 1 + draws.integers([len(text) - 1 for text in whole])
        return [text[:end] for text, end in zip(whole, ends.tolist(), strict=True)]


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

    def texts(self, results: Callable[[], list[str]], draws: Draws) -> list[str]:
        return [_NEARLY[way](whole) for whole, way in zip(results(), draws.integers(4).tolist(), strict=True)]


_NEARLY: tuple[Callable[[str], str], ...] = (
    lambda whole: repr(json.loads(whole)),
    lambda whole: whole[:-1] + ",}",
    lambda whole: whole[:-1] + " // end of result\n}",
    lambda whole: f"Sure! Here is the result:\n```json\n{whole}\n```",
)


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

    def texts(self, results: Callable[[], list[str]], draws: Draws) -> list[str]:
        return [_PAGES[which] for which in draws.integers(len(_PAGES)).tolist()]


def _page(title: str) -> str:
    page = f"<head><title>{title}</title></head>\n<body>\n<center><h1>{title}</h1></center>\n<hr>\n</body>"
    return f"<!DOCTYPE html>\n<html>\n{page}\n</html>\n"


_PAGES = [*map(_page, ("502 Bad Gateway", "504 Gateway Time-out", "Service temporarily unavailable"))]


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

    def texts(self, results: Callable[[], list[str]], draws: Draws) -> list[str]:
        return [(b"\xff\xfe" + text.encode("utf-16-le", "replace")).decode("latin-1") for text in results()]


# --- readable, and against the schema ---


@dataclass(frozen=True, kw_only=True)
class Loud(SomeReplies):
    """Makes replies that a reader with a schema refuses.

    In plain JSON, and with `out_of_space=True`, they arrive as they are. Where a space is the schema they are refused:
    error "malformed", and the text as it arrived in `raw`.
    """

    def arrives(self, struck: Struck) -> bool:
        """Whether there is nobody who refuses the replies."""
        return struck.first.plain or self.out_of_space


@dataclass(frozen=True, kw_only=True)
class _WrongLeaf(Loud, SomeLeaves, ColumnChange):
    """Leaves of a reply are nothing that its schema allows."""

    def fitting(self, leaf: Leaf, values: Values) -> Mask:
        return np.ones(len(values), np.bool_)

    def deliver(self, struck: Struck, changes: Changes, replies: Replies) -> None:
        if self.arrives(struck):
            super().deliver(struck, changes, replies)
        else:
            replies.garble(struck.rows, [*map(as_text, plain_payloads(replies, struck.rows, changes))])


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

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        return wrong.wrong_type(values, leaf.space, self.severity, draws.random(0, 4))

    def texts_changed(self, leaf: Leaf, texts: list[str], draws: Draws, struck: Struck) -> list[Any]:
        return [*map(len, texts)]


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

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        return wrong.wrong_shape(values, leaf.space, self.severity, draws.random(0, 4))

    def texts_changed(self, leaf: Leaf, texts: list[str], draws: Draws, struck: Struck) -> list[Any]:
        return [[text] for text in texts]


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

    def suits(self, leaf: Leaf, value: Any) -> bool:
        return isinstance(leaf.space, spaces.Box) and leaf.space.dtype != np.uint8 and super().suits(leaf, value)

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        entries = np.where(draws.random(1) < 0.5, np.nan, np.inf)
        return wrong.poked(values, draws.integers(values[0].size), entries)


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

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        if struck.first.plain:
            return _millionfold(values) if isinstance(leaf.space, spaces.Box) else values
        return wrong.out_of_range(values, leaf.space, self.severity, draws.random(0, 4))


def _millionfold(values: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers become floats where they would grow too large for whole numbers."""
    with np.errstate(over="ignore"):
        wide = values.astype(np.float64) * 10**6 + 10**6
    return values * 10**6 + 10**6 if values.dtype.kind in "iu" and (np.abs(wide) < 2**63).all() else wide


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

    def suits(self, leaf: Leaf, value: Any) -> bool:
        is_class = isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        return is_class and super().suits(leaf, value)

    def column_changed(self, leaf: Leaf, values: NDArray[Any], draws: Draws, struck: Struck) -> Values:
        if struck.first.plain:
            return values
        return wrong.out_of_range(values, leaf.space, self.severity, draws.random(0, 4))

    def texts_changed(self, leaf: Leaf, texts: list[str], draws: Draws, struck: Struck) -> list[Any]:
        return [f"{text.upper()}_V2" for text in texts] if struck.first.plain else texts


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

    def values_changed(self, leaf: Leaf, values: Values, draws: Draws, struck: Struck) -> Values:
        return [value if value is leafwise.ABSENT else None for value in values]
