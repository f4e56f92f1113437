"""Malformed, loud: replies that no parser takes, and replies that no schema takes.

What breaks a schema arrives as it is in plain JSON, and with `out_of_space: true`. Where a space is the schema it is
refused: error "malformed", and the text as it arrived in `raw`.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import trees
from worldsim.faults.columns import Values
from worldsim.faults.definition import Composition, Fault, fault
from worldsim.faults.effects import wrong_values
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.garble import Garble, WriteTexts
from worldsim.faults.effects.leaves import ChangeLeaves, ChangeReplies, Delivery, LeafEdit, SomeLeaves, by_column
from worldsim.faults.effects.requirements import BOUNDED, CLASSES, NAN, TYPED, Requirement
from worldsim.faults.keys import CallRandom
from worldsim.faults.parameters import NameGlobs, out_of_space, scaled, targets
from worldsim.spaces import Leaf

_LOUD = "malformed, loud"
RATE = "share of the replies that it touches"
SPREAD = "share of the leaves that it changes in such a reply, at least one"


def garbled(given: Fault, write: WriteTexts) -> Composition:
    """Some replies are texts that cannot be parsed."""
    return Composition(ChangeReplies(Garble(given.kind, write)), trigger_probability=given.scaled("rate"))


@fault("truncated_json", _LOUD)
class TruncatedJSON(Fault):
    """The reply ends in the middle.

    Records: `truncated_json` (characters: how many arrived).
    """

    rate: float = scaled(0.4, 0, 1, RATE)

    def compose(self) -> Composition:
        def write(sent: Callable[[], list[str]], random: CallRandom) -> list[str]:
            whole = sent()
            ends = 1 + random.integers([len(text) - 1 for text in whole])
            return [text[:end] for text, end in zip(whole, ends.tolist(), strict=True)]

        return garbled(self, write)


def _as_python(value: Any) -> str:
    """A value as Python writes it; where that is JSON as well, in quotes that are none of JSON's."""
    text = repr(value)
    return text if "'" in text or "True" in text or "False" in text or "None" in text else f"'{text}'"


_NEARLY: tuple[Callable[[str], str], ...] = (
    lambda whole: _as_python(json.loads(whole)),
    lambda whole: whole[:-1] + ",}",
    lambda whole: whole[:-1] + " // end of result\n}",
    lambda whole: f"Sure! Here is the result:\n```json\n{whole}\n```",
)


@fault("invalid_json", _LOUD)
class InvalidJSON(Fault):
    """The reply is nearly JSON: single quotes, a trailing comma, a comment, Python's True and None, or a chat preamble.

    Records: `invalid_json` (characters).
    """

    rate: float = scaled(0.4, 0, 1, RATE)

    def compose(self) -> Composition:
        def write(sent: Callable[[], list[str]], random: CallRandom) -> list[str]:
            ways = random.integers(len(_NEARLY)).tolist()
            return [_NEARLY[way](whole) for whole, way in zip(sent(), ways, strict=True)]

        return garbled(self, write)


def _page(title: str) -> str:
    page = f"<head><title>{title}</title></head>\n<body>\n<center><h1>{title}</h1></center>\n<hr>\n</body>"
    return f"<!DOCTYPE html>\n<html>\n{page}\n</html>\n"


_PAGES = [*map(_page, ("502 Bad Gateway", "504 Gateway Time-out", "Service temporarily unavailable"))]


@fault("html_error_page", _LOUD)
class HTMLErrorPage(Fault):
    """A proxy's error page arrives where JSON was expected.

    Records: `html_error_page` (characters).
    """

    rate: float = scaled(0.4, 0, 1, RATE)

    def compose(self) -> Composition:
        return garbled(self, lambda sent, random: [_PAGES[each] for each in random.integers(len(_PAGES)).tolist()])


@fault("wrong_encoding", _LOUD)
class WrongEncoding(Fault):
    """The reply is UTF-16 and read as Latin-1: it begins with a byte order mark, and a NUL follows every letter.

    Records: `wrong_encoding` (characters).
    """

    rate: float = scaled(0.4, 0, 1, RATE)

    def compose(self) -> Composition:
        def write(sent: Callable[[], list[str]], random: CallRandom) -> list[str]:
            return [(b"\xff\xfe" + text.encode("utf-16-le", "replace")).decode("latin-1") for text in sent()]

        return garbled(self, write)


# --- readable, and against the schema ---


def breaking(given: Any, edit: LeafEdit, needs: Requirement | None = None) -> Composition:
    """Some leaves of some replies are nothing that their schema allows."""
    change = ChangeLeaves(
        given.kind,
        edit,
        SomeLeaves(given.scaled("spread")),
        delivery=Delivery.REFUSED,
        out_of_space=given.out_of_space,
        free=True,
    )
    return Composition(ChangeReplies(change), given.scaled("rate"), given.targets, given.out_of_space, needs)


@fault("wrong_type", _LOUD)
class WrongType(Fault):
    """Numbers arrive as text, texts as numbers (their lengths), frames as floats from 0 to 1.

    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `wrong_type` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        edit = by_column(
            lambda leaf, values, random, batch: wrong_values.wrong_type(values, leaf.space, 0.0, random.uniform(0, 4)),
            texts=lambda leaf, texts, random, batch: [*map(len, texts)],
            integers=lambda leaf, values, random, batch: [*map(str, values)],
        )
        return breaking(self, edit, TYPED)


@fault("wrong_shape", _LOUD)
class WrongShape(Fault):
    """Half of a vector or frame arrives; a single number arrives twice, in a list, and a text in a list.

    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `wrong_shape` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        edit = by_column(
            lambda leaf, values, random, batch: wrong_values.wrong_shape(values, leaf.space, 0.0, random.uniform(0, 4)),
            texts=lambda leaf, texts, random, batch: [[text] for text in texts],
            integers=lambda leaf, values, random, batch: [[value, value] for value in values],
        )
        return breaking(self, edit, TYPED)


@fault("non_finite", _LOUD)
class NonFinite(Fault):
    """NaN or infinity arrives in place of a number, or of one entry of a vector.

    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `non_finite` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def numbers(leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> Values:
            entries = np.where(random.uniform(1) < 0.5, np.nan, np.inf)
            return wrong_values.poked(values, random.integers(values[0].size), entries)

        def integers(leaf: Leaf, values: list[int], random: CallRandom, batch: AffectedCalls) -> list[Any]:
            return [math.nan if drawn < 0.5 else math.inf for drawn in random.uniform(1).tolist()]

        return breaking(self, by_column(numbers, integers=integers, suits=_may_be_nan), NAN)


def _may_be_nan(leaf: Leaf, value: Any) -> bool:
    return isinstance(leaf.space, spaces.Box) and leaf.space.dtype != np.uint8 and trees.has_leaf_form(leaf, value)


@fault("out_of_range", _LOUD)
class OutOfRange(Fault):
    """A number or class is above what its schema allows; in plain JSON a number is absurdly large.

    There, where no schema is, x becomes a million times x + 1.
    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `out_of_range` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def numbers(leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> Values:
            if batch.scope.plain:
                return values * 1e6 + 1e6 if isinstance(leaf.space, spaces.Box) else values
            return wrong_values.out_of_range(values, leaf.space, 0.0, random.uniform(0, 4))

        def integers(leaf: Leaf, values: list[int], random: CallRandom, batch: AffectedCalls) -> list[Any]:
            return [value * 10**6 + 10**6 for value in values]

        return breaking(self, by_column(numbers, integers=integers), BOUNDED)


@fault("unknown_value", _LOUD)
class UnknownValue(Fault):
    """A class (enum value) that the schema does not list, such as a status of the service's last release.

    In a space a class after the last; in plain JSON the text in capitals with "_V2" after it.
    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    Records: `unknown_value` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def numbers(leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> Values:
            if batch.scope.plain:
                return values
            return wrong_values.out_of_range(values, leaf.space, 0.0, random.uniform(0, 4))

        def texts(leaf: Leaf, texts: list[str], random: CallRandom, batch: AffectedCalls) -> list[Any]:
            return [f"{text.upper()}_V2" for text in texts] if batch.scope.plain else texts

        return breaking(self, by_column(numbers, texts, suits=_is_class), CLASSES)


def _is_class(leaf: Leaf, value: Any) -> bool:
    is_class = isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    return is_class and trees.has_leaf_form(leaf, value)


@fault("null_for_required", _LOUD)
class NullForRequired(Fault):
    """Null where a value is required.

    In a space such a reply is refused as "malformed", but for `out_of_space=True`.
    (`null_fields` fills in what the space allows; in plain JSON the two do the same.)
    Records: `null_for_required` (leaf, before, after).
    """

    rate: float = scaled(0.4, 0, 1, RATE)
    spread: float = scaled(0.5, 0, 1, SPREAD)
    targets: NameGlobs = targets()
    out_of_space: bool = out_of_space()

    def compose(self) -> Composition:
        def edit(leaf: Leaf, values: Values, random: CallRandom, batch: AffectedCalls) -> Values:
            return [value if value is trees.ABSENT else None for value in values]

        return breaking(self, edit)
