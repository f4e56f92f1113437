"""Numbers that are another number: multiplied, moved, with two digits in each other's place."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.faults import trees
from worldsim.faults.columns import Values
from worldsim.faults.effects import frames, wrong_values
from worldsim.faults.effects.base import AffectedCalls
from worldsim.faults.effects.leaves import LeafEdit, TextEdit, by_column
from worldsim.faults.keys import CallRandom, integers_below
from worldsim.spaces import Floats, Leaf

_DIGITS = re.compile(r"\d{2,}")


def is_number(leaf: Leaf, value: Any) -> bool:
    """Whether a leaf is a number or a vector of them, and no frame; `value` is one of its."""
    numbers = isinstance(leaf.space, spaces.Box | spaces.Discrete) and not frames.frame_axes(leaf.space)
    return numbers and not isinstance(value, bool) and trees.has_leaf_form(leaf, value)


Affine = Callable[[CallRandom, AffectedCalls], tuple[Floats, Floats]]
"""What numbers are multiplied by, and what is added then, (n,) each."""


def affine(
    coefficients: Affine, texts: TextEdit | None = None, suits: Callable[[Leaf, Any], bool] = is_number
) -> LeafEdit:
    """An edit that multiplies numbers and adds to them, one entry of a vector, cut to its space's bounds.

    Whole numbers of plain JSON stay whole, and keep all their digits whatever their size.
    """

    def numbers(leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> Values:
        factors, terms = coefficients(random, batch)
        return wrong_values.numbers_changed(leaf, values, random.uniform(), lambda entries: entries * factors + terms)

    def integers(leaf: Leaf, values: list[int], random: CallRandom, batch: AffectedCalls) -> list[Any]:
        factors, terms = coefficients(random, batch)
        each = zip(values, factors.tolist(), terms.tolist(), strict=True)
        return [round(value * Fraction(str(factor)) + Fraction(str(term))) for value, factor, term in each]

    return by_column(numbers, texts, integers, suits)


def transposed_digits(suits: Callable[[Leaf, Any], bool] = is_number) -> LeafEdit:
    """An edit that puts two neighbouring digits in each other's place, and changes nothing else.

    Of numbers with decimals the digits before the point; of a text those of one number in it.
    """

    def numbers(leaf: Leaf, values: NDArray[Any], random: CallRandom, batch: AffectedCalls) -> Values:
        chance = random.uniform(0, 2)
        if isinstance(leaf.space, spaces.Discrete):
            changed = wrong_values.transposed(values.astype(np.int64), chance[:, 0])
            return wrong_values.existing(changed, values, leaf.space)
        flat = values.reshape(len(values), -1).copy()
        rows, index = np.arange(len(flat)), integers_below(chance[:, 1], flat.shape[1])
        entries = [_digits_transposed(each, one) for each, one in zip(flat[rows, index], chance[:, 0], strict=True)]
        flat[rows, index] = entries
        return flat.reshape(values.shape)

    def integers(leaf: Leaf, values: list[int], random: CallRandom, batch: AffectedCalls) -> list[Any]:
        chance = random.uniform(0, 2)[:, 0].tolist()
        return [int(_text_transposed(str(each), [0.0, one])) for each, one in zip(values, chance, strict=True)]

    def texts(leaf: Leaf, values: list[str], random: CallRandom, batch: AffectedCalls) -> list[Any]:
        return [_text_transposed(*each) for each in zip(values, random.uniform(0, 2).tolist(), strict=True)]

    return by_column(numbers, texts, integers, suits)


def _digits_transposed(number: Any, chance: float) -> Any:
    """A number of an array with two digits, before its point, in each other's place; as it is where none is so."""
    if number.dtype.kind in "iu":
        changed = int(_text_transposed(str(number), [0.0, chance]))
        limits = np.iinfo(number.dtype)
        return type(number)(changed) if limits.min <= changed <= limits.max else number
    if number.dtype.kind != "f" or not np.isfinite(number):
        return number
    head, point, tail = np.format_float_positional(number, trim="-").partition(".")
    with np.errstate(over="ignore"):
        swapped = type(number)(_text_transposed(head, [0.0, chance]) + point + tail)
    return swapped if np.isfinite(swapped) else number


def _text_transposed(text: str, chance: list[float]) -> str:
    found = list(_DIGITS.finditer(text))
    if not found:
        return text
    run = found[int(chance[0] * len(found))]
    place = run.start() + int(chance[1] * (run.end() - 1 - run.start()))
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
